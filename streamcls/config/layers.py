"""First step of loading: lay file, environment and flags over each other, unchecked.

The result is one tree of tables whose leaves remember where they came from. Nothing is
interpreted here except the names of environment variables and `*` in an override's key, which
both need to know the streams of the layers below.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from streamcls.config.schema import DEFAULT_STREAM
from streamcls.errors import ConfigError

ENVIRONMENT_PREFIX = "STREAMCLS_"
MAX_FILE_BYTES = 1 << 20


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
    ``inference.hop_ms``. In a stream's name ``_`` also matches ``-``; a name that no layer
    below has makes a new stream, in lower case.
    """
    for variable in sorted(environ):
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        path = variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        if path[0] == "streams" and len(path) >= 3:
            name = "__".join(path[1:-1])
            same = [known for known in _streams(tree) if _fold(known) == _fold(name)]
            path = ["streams", same[0] if same else name, path[-1]]
        _put(tree, path, Leaf(environ[variable], f"variable {variable}", is_text=True))


def lay_overrides(tree: Tree, overrides: Mapping[str, object]) -> None:
    """Lay flags, ``{"inference.hop_ms": 160}``, over ``tree``.

    ``streams.*.KEY`` means every stream, or the default stream where none is configured.

    Raises:
        ConfigError: ``streams.*.source`` while several streams are configured.
    """
    every: list[tuple[list[str], Leaf]] = []
    for key, value in overrides.items():
        path = key.split(".")
        leaf = Leaf(value, "flag", is_text=True)
        if path[:2] == ["streams", "*"]:
            every.append((path, leaf))
        else:
            _put(tree, path, leaf)
    names = list(_streams(tree)) or [DEFAULT_STREAM]
    for path, leaf in every:
        if path[2:] == ["source"] and len(names) > 1:
            raise ConfigError(
                [
                    f"source {leaf.value!r} is for one stream, but {len(names)} are configured "
                    f"({', '.join(names)}); say which: --set streams.{names[0]}.source=SPEC"
                ]
            )
        for name in names:
            _put(tree, ["streams", name, *path[2:]], leaf)


def _tag(table: Mapping[str, Any], origin: str) -> Tree:
    return {
        key: _tag(value, origin) if isinstance(value, dict) else Leaf(value, origin, is_text=False)
        for key, value in table.items()
    }


def _put(tree: Tree, path: list[str], leaf: Leaf) -> None:
    """Set one leaf; a value that stands where a table should be stays, to be reported."""
    for key in path[:-1]:
        below = tree.setdefault(key, {})
        if isinstance(below, Leaf):
            return
        tree = below
    tree[path[-1]] = leaf


def _streams(tree: Tree) -> Tree:
    streams = tree.get("streams", {})
    return {} if isinstance(streams, Leaf) else streams


def _fold(name: str) -> str:
    return name.lower().replace("-", "_")
