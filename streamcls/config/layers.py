"""First step of loading: lay file, environment and flags over each other, unchecked.

The result is one tree of tables whose leaves remember where they came from. Nothing is
interpreted here except the names of environment variables and `*` in an override's key, which
both need to know the names of the layers below.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from streamcls.config.schema import DEFAULT_STREAM
from streamcls.errors import ConfigError

ENVIRONMENT_PREFIX = "STREAMCLS_"
MAX_FILE_BYTES = 1 << 20
_NAMED = frozenset({"streams", "class", "group"})
"""Tables whose keys are names that a user gives."""


class Leaf(NamedTuple):
    """One value as it was given."""

    value: Any
    origin: str
    is_text: bool
    """From a variable or a flag, where every value is text: ``"80"`` is fine for a number."""


Tree = dict[str, "Tree | Leaf"]


def read_file(path: Path) -> Tree:
    """Return the TOML file's tables.

    Raises:
        ConfigError: The file cannot be read, is larger than 1 MiB or is not TOML.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            [f"{path}: cannot be read ({error.strerror}); check the path and its permissions"]
        ) from None
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError([f"{path}: larger than 1 MiB; this is no streamcls configuration"])
    try:
        document = tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        raise ConfigError(
            [f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8 text"]
        ) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError([f"{path}: not valid TOML: {error}"]) from None
    return _tag(document, f"file {path}")


def lay_environment(tree: Tree, environ: Mapping[str, str]) -> None:
    """Lay the ``STREAMCLS_*`` variables over ``tree``.

    ``__`` separates tables and case does not count: ``STREAMCLS_INFERENCE__HOP_MS`` is
    ``inference.hop_ms``. In the name of a stream, class or group ``_`` also matches ``-``, a
    space and every other sign; a name that no layer below has makes a new one, in lower case.
    """
    for variable in sorted(environ):
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        path = variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        path = _find_names(tree, path)
        _put(tree, path, Leaf(environ[variable], f"variable {variable}", is_text=True))


def lay_overrides(tree: Tree, overrides: Mapping[str, object], origin: str) -> None:
    """Lay flags or a request, ``{"inference.hop_ms": 160}``, over ``tree``.

    ``streams.*.KEY`` means every stream, or the default stream where none is configured. A
    name with a dot is quoted, as in TOML: ``events.class."Mr. Dog".cooldown_s``. A value may be a
    table, as requests over the control socket have them.

    Raises:
        ConfigError: ``streams.*.source`` while several streams are configured.
    """
    every: list[tuple[list[str], object]] = []
    for key, value in overrides.items():
        path = _split_key(key)
        if path[:2] == ["streams", "*"]:
            every.append((path, value))
        else:
            _put(tree, path, _tag_one(value, origin, is_text=True))
    names = list(_below(tree, "streams")) or [DEFAULT_STREAM]
    for path, value in every:
        if path[2:] == ["source"] and len(names) > 1:
            raise ConfigError(
                [
                    f"source {value!r} is for one stream, but {len(names)} are configured "
                    f"({', '.join(names)}); say which: --set streams.{names[0]}.source=SPEC"
                ]
            )
        for name in names:
            _put(tree, ["streams", name, *path[2:]], _tag_one(value, origin, is_text=True))


def _tag(table: Mapping[str, Any], origin: str, is_text: bool = False) -> Tree:
    return {key: _tag_one(value, origin, is_text) for key, value in table.items()}


def _tag_one(value: Any, origin: str, is_text: bool) -> "Tree | Leaf":
    is_table = isinstance(value, dict)
    return _tag(value, origin, is_text) if is_table else Leaf(value, origin, is_text)


def _put(tree: Tree, path: list[str], node: "Tree | Leaf") -> None:
    """Set one leaf or table; a value that stands where a table should be stays, to be reported."""
    for key in path[:-1]:
        below = tree.setdefault(key, {})
        if isinstance(below, Leaf):
            return
        tree = below
    tree[path[-1]] = node


def _below(tree: Tree, key: str) -> Tree:
    table = tree.get(key, {})
    return {} if isinstance(table, Leaf) else table


def _split_key(key: str) -> list[str]:
    """Return the parts of a dotted key; dots within double quotes do not divide."""
    parts = re.findall(r'((?:"(?:[^"\\]|\\.)*"|[^.])*)\.', f"{key}.")
    return [_unquote(part) for part in parts]


def _unquote(part: str) -> str:
    if len(part) < 2 or not part.startswith('"') or not part.endswith('"'):
        return part
    try:
        return json.loads(part)
    except ValueError:
        return part


def _find_names(tree: Tree, path: list[str]) -> list[str]:
    """Return a variable's path with names as the layers below spell them."""
    if len(path) == 1:
        return path
    table = _below(tree, path[0])
    if path[0] not in _NAMED or len(path) == 2:
        return [path[0], *_find_names(table, path[1:])]
    # A name may hold `__`: it ends in front of a stream's table of events, or of the key.
    end = path.index("events", 2) if "events" in path[2:-1] else len(path) - 1
    name = "__".join(path[1:end])
    name = next((known for known in table if _fold(known) == _fold(name)), name)
    return [path[0], name, *_find_names(_below(table, name), path[end:])]


def _fold(name: str) -> str:
    return re.sub(r"\W", "_", name.lower())
