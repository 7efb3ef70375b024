"""Second step of loading: turn the tree into dataclasses and report *every* problem.

A wrong value leaves its default in place and a line in `problems`, so that one run shows the
user all there is to mend. Each line names the key, its value, where it came from, the limit
and the remedy.
"""

import dataclasses
import difflib
import itertools
import tomllib
from typing import Any, cast

import msgspec
from msgspec import inspect

from streamcls.config.layers import ENVIRONMENT_PREFIX, Leaf, Tree
from streamcls.config.schema import (
    Config,
    NamedTables,
    attribute,
    dotted_keys,
    keys,
    named_tables,
)
from streamcls.config.show import quote, quote_key


class Reader:
    """Reads one tree.

    Attributes:
        problems: What is wrong, one line each.
        rejected: Dotted keys whose value was wrong, so that a default stands in, and the tables
            that hold them.
        origins: Dotted key -> origin of the value in use.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.rejected: set[str] = set()
        self.origins: dict[str, str] = {}

    def read(self, tree: Tree) -> Config:
        """Return the configuration; only to be used when `problems` stays empty."""
        config = cast(Config, self._table(Config, tree, ""))
        return dataclasses.replace(config, origins=self.origins)

    def _table(self, table: type, node: Tree | Leaf, prefix: str) -> Any:
        if isinstance(node, Leaf):
            name = prefix.removesuffix(".")
            self._reject(name, node, f"must be a table; write [{name}] and its keys below it")
            node = {}
        known = keys(table)
        for key in node:
            if key not in known:
                self._unknown(key, node[key], list(known), prefix)
        values: dict[str, Any] = {}
        for key, hint in known.items():
            name = prefix + key
            below = node.get(key)
            if dataclasses.is_dataclass(hint):
                values[attribute(key)] = self._table(cast(type, hint), below or {}, f"{name}.")
            elif (named := named_tables(hint)) is not None:
                # An empty mapping means its default: for streams that is the default one.
                default: Tree = {one: {} for one in getattr(table(), attribute(key))}
                values[attribute(key)] = self._named_tables(named, below or default, name)
            elif below is None:
                self.origins[name] = "default"
            elif isinstance(below, Leaf):
                self._leaf(values, name, key, below, hint)
            else:
                self._note_rejected(name)
                self.problems.append(f"[{name}]: must be {_limit(hint)}, not a table")
        return table(**values)

    def _named_tables(self, named: NamedTables, node: Tree | Leaf, prefix: str) -> dict[str, Any]:
        if isinstance(node, Leaf):
            self._reject(prefix, node, f"must be tables; write [{prefix}.NAME] for each")
            node = {}
        for name in node:
            if not _is_name(name, named.name):
                self.problems.append(
                    f"[{prefix}.{quote(name)}]: bad name; use {_name_limit(named.name)}"
                )
        return {
            name: self._table(named.table, below, f"{prefix}.{quote_key(name)}.")
            for name, below in node.items()
        }

    def _leaf(self, values: dict[str, Any], name: str, key: str, leaf: Leaf, hint: Any) -> None:
        try:
            given = leaf.value
            if leaf.is_text and isinstance(given, str) and _is_list(hint):
                given = _split_list(given)
            value = msgspec.convert(given, hint, strict=not leaf.is_text)
            for text in value if isinstance(value, tuple) else (str(value),):
                text.encode()  # bytes of argv that are not UTF-8 arrive as surrogates
        except (msgspec.ValidationError, tomllib.TOMLDecodeError, UnicodeEncodeError):
            self._reject(name, leaf, f"must be {_limit(hint)}")
        else:
            values[attribute(key)] = value
            self.origins[name] = leaf.origin

    def _note_rejected(self, name: str) -> None:
        self.rejected.update(itertools.accumulate(name.split("."), "{}.{}".format))

    def _reject(self, name: str, leaf: Leaf, what: str) -> None:
        self._note_rejected(name)
        self.problems.append(f"{name} = {quote(leaf.value)} ({leaf.origin}): {what}")

    def _unknown(self, key: str, node: Tree | Leaf, known: list[str], prefix: str) -> None:
        name = prefix + quote_key(key)
        origin = _first_origin(node)
        where = f" ({origin})" if origin else ""
        better = _closest(name, key, known, prefix)
        if better and origin and origin.startswith("variable"):
            better = ENVIRONMENT_PREFIX + better.replace(".", "__").upper()
        remedy = f"did you mean {better}?" if better else f"known here: {', '.join(known)}"
        self.problems.append(f"{name}{where}: unknown key; {remedy}")


def _closest(name: str, key: str, known: list[str], prefix: str) -> str | None:
    """Return the key that was probably meant: spelt alike, or of that name in another table."""
    everywhere = [dotted.replace("*", "NAME") for dotted in dotted_keys()]
    if alike := difflib.get_close_matches(name, everywhere, 1, cutoff=0.9):
        return alike[0]
    if near := difflib.get_close_matches(key, known, 1):
        return prefix + near[0]
    same = (dotted for dotted in everywhere if dotted.rpartition(".")[2] == key)
    return min(same, key=lambda dotted: dotted.count("."), default=None)


def _first_origin(node: Tree | Leaf) -> str | None:
    while not isinstance(node, Leaf):
        if not node:
            return None
        node = next(iter(node.values()))
    return node.origin


def _is_name(name: str, hint: Any) -> bool:
    try:
        msgspec.convert(name, hint)
        name.encode()
    except (msgspec.ValidationError, UnicodeEncodeError):
        return False
    return not name.endswith("\n")  # `$` in a pattern lets one through


def _name_limit(hint: Any) -> str:
    """Say in words which names a type allows: its description, or its limit."""
    info = inspect.type_info(hint)
    if isinstance(info, inspect.Metadata) and info.extra_json_schema:
        words = str(info.extra_json_schema["description"])
        return words[0].lower() + words[1:]
    return _words(info)


def _is_list(hint: Any) -> bool:
    return isinstance(_bare(inspect.type_info(hint)), inspect.VarTupleType)


def _bare(info: inspect.Type) -> inspect.Type:
    """Return a type without descriptions and without None."""
    while True:
        match info:
            case inspect.Metadata():
                info = info.type
            case inspect.UnionType(types=(one, inspect.NoneType())):
                info = one
            case _:
                return info


def _split_list(text: str) -> list[Any]:
    """Return the list that a variable or flag means: ``dog, cat`` or ``["dog", "Speech, male"]``.

    Raises:
        tomllib.TOMLDecodeError: It begins like a list of TOML and is none.
    """
    if text.startswith("["):
        return tomllib.loads(f"list = {text}")["list"]
    return [part.strip() for part in text.split(",")] if text else []


def _limit(hint: Any) -> str:
    """Say in words which values a type allows."""
    return _words(inspect.type_info(hint))


def _words(info: inspect.Type) -> str:
    match info:
        case inspect.Metadata():
            return _words(info.type)
        case inspect.UnionType():
            return " or ".join(_words(t) for t in info.types if not isinstance(t, inspect.NoneType))
        case inspect.LiteralType():
            return "one of " * (len(info.values) > 1) + ", ".join(f'"{v}"' for v in info.values)
        case inspect.IntType():
            return f"an integer from {info.ge} to {info.le}"
        case inspect.FloatType():
            return f"a number from {info.ge} to {info.le}"
        case inspect.BoolType():
            return "true or false"
        case inspect.VarTupleType():
            return f"a list, each {_words(info.item_type)}"
        case inspect.StrType():
            return f"UTF-8 text of 1 to {info.max_length} characters, no control characters"
        case _:
            raise TypeError(f"no words for {info}")
