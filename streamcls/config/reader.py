"""Second step of loading: turn the tree into dataclasses and report *every* problem.

A wrong value leaves its default in place and a line in `problems`, so that one run shows the
user all there is to mend. Each line names the key, its value, where it came from, the limit
and the remedy.
"""

import dataclasses
import difflib
import json
import re
from typing import Any, cast

import msgspec
from msgspec import inspect

from streamcls.config.layers import ENVIRONMENT_PREFIX, Leaf, Tree
from streamcls.config.schema import STREAM_NAME_PATTERN, Config, dotted_keys, keys, mapping_item
from streamcls.config.show import quote


class Reader:
    """Reads one tree.

    Attributes:
        problems: What is wrong, one line each.
        rejected: Dotted keys whose value was wrong; their default stands in.
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
                values[key] = self._table(cast(type, hint), below or {}, f"{name}.")
            elif (item := mapping_item(hint)) is not None:
                values[key] = self._named_tables(item, below or {}, name)
            elif below is None:
                self.origins[name] = "default"
            elif isinstance(below, Leaf):
                self._leaf(values, name, key, below, hint)
            else:
                self.rejected.add(name)
                self.problems.append(f"[{name}]: must be {_limit(hint)}, not a table")
        return table(**values)

    def _named_tables(self, table: type, node: Tree | Leaf, prefix: str) -> dict[str, Any]:
        if isinstance(node, Leaf):
            self._reject(prefix, node, f"must be tables; write [{prefix}.NAME] for each")
            node = {}
        for name in node:
            if not re.fullmatch(STREAM_NAME_PATTERN.strip("^$"), name):
                self.problems.append(
                    f"[{prefix}.{json.dumps(name)}]: bad name; use a letter or digit, then up to "
                    f"63 of A-Z a-z 0-9 _ -"
                )
        # An empty mapping means the default stream; so does one that had to be rejected.
        node = node or {name: {} for name in getattr(Config(), prefix)}
        return {
            name: self._table(table, below, f"{prefix}.{name}.") for name, below in node.items()
        }

    def _leaf(self, values: dict[str, Any], name: str, key: str, leaf: Leaf, hint: Any) -> None:
        try:
            values[key] = msgspec.convert(leaf.value, hint, strict=not leaf.is_text)
            str(values[key]).encode()  # bytes of argv that are not UTF-8 arrive as surrogates
        except (msgspec.ValidationError, UnicodeEncodeError):
            self._reject(name, leaf, f"must be {_limit(hint)}")
        else:
            self.origins[name] = leaf.origin

    def _reject(self, name: str, leaf: Leaf, what: str) -> None:
        self.rejected.add(name)
        self.problems.append(f"{name} = {quote(leaf.value)} ({leaf.origin}): {what}")

    def _unknown(self, key: str, node: Tree | Leaf, known: list[str], prefix: str) -> None:
        name = prefix + (key if re.fullmatch(r"[\w-]+", key) else json.dumps(key))
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
    return next((dotted for dotted in everywhere if dotted.rpartition(".")[2] == key), None)


def _first_origin(node: Tree | Leaf) -> str | None:
    while not isinstance(node, Leaf):
        if not node:
            return None
        node = next(iter(node.values()))
    return node.origin


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
        case inspect.StrType():
            return f"UTF-8 text of 1 to {info.max_length} characters, no control characters"
        case _:
            raise TypeError(f"no words for {info}")
