"""The way back: a configuration as the TOML that `load_config` reads to the same values.

Also how single values look in messages.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from streamcls.config.schema import Config, attribute, keys


def to_toml(config: Config, *, with_origin: bool = False) -> str:
    """Return the effective configuration as TOML.

    Args:
        config: What to write; keys that do not apply (None) are left out.
        with_origin: Append to each line where its value came from.
    """
    origins = config.origins if with_origin else {}
    return "\n".join(_lines(config, "", origins)).lstrip("\n") + "\n"


def _lines(
    table: Any, prefix: str, origins: Mapping[str, str], *, named: bool = False
) -> Iterator[str]:
    values = {key: getattr(table, attribute(key)) for key in keys(type(table))}
    tables = {key: value for key, value in values.items() if _is_table(value)}
    leaves = [key for key, value in values.items() if key not in tables and value is not None]
    # A named table says something even when it is empty: that there is one.
    if (leaves and prefix) or named:
        yield f"\n[{prefix.removesuffix('.')}]"
    for key in leaves:
        comment = f"  # {printable(origins[prefix + key])}" if prefix + key in origins else ""
        yield f"{key} = {_literal(values[key])}{comment}"
    for key, value in tables.items():
        if not isinstance(value, Mapping):
            yield from _lines(value, f"{prefix}{key}.", origins)
            continue
        for name, below in value.items():
            yield from _lines(below, f"{prefix}{key}.{quote_key(name)}.", origins, named=True)


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping) or dataclasses.is_dataclass(value)


def _literal(value: str | bool | int | float | tuple[str, ...]) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    # JSON and TOML agree on booleans, finite numbers, strings without control characters, lists.
    return json.dumps(value, ensure_ascii=False)


def quote_key(name: str) -> str:
    """Return one part of a dotted key as TOML has it: quoted unless it is a bare key."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)


def stream_table(name: str) -> str:
    """Return the key of a stream's table: ``streams.porch``, ``streams."front.door"``."""
    return f"streams.{quote_key(name)}"


def quote(value: object) -> str:
    """Return a value much as TOML would have it, shortened to what fits in a message."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def printable(text: str) -> str:
    """Return ``text`` as one line without anything that a terminal would act upon."""
    return "".join(c if c.isprintable() else "?" for c in text)
