"""Configuration: flags over environment over one TOML file over defaults, checked as a whole.

`load_config` runs in the main thread before any stage exists and returns frozen dataclasses;
nothing in here opens a device, a socket or a checkpoint. The steps, one module each: `layers`
puts the sources of values on top of each other, `reader` checks every value by the types of
`schema`, `checks` looks at what several keys say together, `show` writes TOML again.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from streamcls.config.checks import find_problems, settle
from streamcls.config.layers import Tree, lay_environment, lay_overrides, read_file
from streamcls.config.reader import Reader
from streamcls.config.schema import (
    Config,
    InferenceConfig,
    IngestConfig,
    LogConfig,
    PublishConfig,
    SecurityConfig,
    StreamConfig,
    json_schema,
)
from streamcls.config.show import printable, stream_table, to_toml
from streamcls.errors import ConfigError

__all__ = [
    "Config",
    "InferenceConfig",
    "IngestConfig",
    "LogConfig",
    "PublishConfig",
    "SecurityConfig",
    "StreamConfig",
    "json_schema",
    "load_config",
    "stream_table",
    "to_toml",
]


def load_config(
    path: str | os.PathLike[str] | None = None,
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    origin: str = "flag",
) -> Config:
    """Load, merge and check the configuration.

    Args:
        path: A TOML file, or None for none.
        overrides: Dotted key -> value or its text, as given by flags;
            ``streams.*.KEY`` means every stream. They win over everything else.
        environ: Where to look for ``STREAMCLS_*`` variables; `os.environ` if None.
        origin: What gave the overrides, in a word for whoever reads what is wrong with them.

    Returns:
        The effective configuration. Without any stream it listens to the default microphone
        as stream ``mic``.

    Raises:
        ConfigError: With every problem found, not only the first.

    Example:
        >>> config = load_config(overrides={"inference.hop_ms": "160"}, environ={})
        >>> config.inference.hop_ms, config.origins["inference.hop_ms"], list(config.streams)
        (160.0, 'flag', ['mic'])
    """
    tree: Tree = read_file(Path(path)) if path is not None else {}
    lay_environment(tree, os.environ if environ is None else environ)
    lay_overrides(tree, overrides or {}, origin)
    reader = Reader()
    config = reader.read(tree)
    problems = reader.problems + [
        problem.message
        for problem in find_problems(config)
        if reader.rejected.isdisjoint(problem.keys)
    ]
    if problems:
        raise ConfigError([printable(problem) for problem in problems])
    return settle(config)
