"""The way back: a configuration as the TOML that `load_config` reads to the same values.

Also how single values look in messages.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from streamcls.config.schema import Config, keys


def to_toml(config: Config, *, with_origin: bool = False) -> str:
    """Return the effective configuration as TOML.

    Args:
        config: What to write; keys that do not apply (None) are left out.
        with_origin: Append to each line where its value came from.
    """
    origins = config.origins if with_origin else {}
    return "\n".join(_lines(config, "", origins)).lstrip("\n") + "\n"


def _lines(table: Any, prefix: str, origins: Mapping[str, str]) -> Iterator[str]:
    values = {key: getattr(table, key) for key in keys(type(table))}
    tables = {key: value for key, value in values.items() if _is_table(value)}
    leaves = [key for key, value in values.items() if key not in tables and value is not None]
    if prefix and leaves:
        yield f"\n[{prefix.removesuffix('.')}]"
    for key in leaves:
        comment = f"  # {printable(origins[prefix + key])}" if prefix + key in origins else ""
        yield f"{key} = {_literal(values[key])}{comment}"
    for key, value in tables.items():
        named = value.items() if isinstance(value, Mapping) else [(None, value)]
        for name, below in named:
            yield from _lines(below, f"{prefix}{key}." + (f"{name}." if name else ""), origins)


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping) or dataclasses.is_dataclass(value)


def _literal(value: str | bool | int | float) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    # JSON and TOML agree on booleans, finite numbers and strings without control characters.
    return json.dumps(value, ensure_ascii=False)


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
