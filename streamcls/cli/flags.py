"""Flags that several commands share: most override configuration keys (`run`, `demo`, `config`)."""

import argparse
from pathlib import Path

from streamcls.errors import ConfigError

# Flag destination -> configuration key. `streams.*` is every stream, or the default one.
_KEYS = {
    "model": "model",
    "source": "streams.*.source",
    "channel": "streams.*.channel",
    "pace": "streams.*.pace",
    "rate": "streams.*.sample_rate_hz",
    "channels": "streams.*.channels",
    "format": "streams.*.sample_format",
    "hop_ms": "inference.hop_ms",
    "device": "inference.device",
    "endpoint": "publish.endpoint",
    "control": "publish.control",
    "log_level": "log.level",
}


def add_configuration(parser: argparse.ArgumentParser) -> None:
    """Add the configuration file and ``--set``."""
    parser.add_argument(
        "config",
        nargs="?",
        type=Path,
        metavar="CONFIG",
        help="TOML file; without one, the default microphone and the default model",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set any configuration key, e.g. publish.top_k=3 or streams.porch.channel=mix "
        "(streams.*.KEY sets it for every stream), events.deny=rain,wind, "
        "events.class.dog.cooldown_s=5 (quote a name with a dot as in TOML); may be repeated",
    )


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each configuration key that is often wanted."""
    audio = parser.add_argument_group("audio")
    audio.add_argument(
        "--source",
        metavar="SPEC",
        help="device[:NAME] (see `streamcls devices`), file:PATH, pipe: (raw PCM on standard "
        "input), remote:[NAME], http(s)://HOST/PATH or rtsp://HOST/PATH",
    )
    audio.add_argument("--channel", metavar="N|mix", help="channel to classify, from 0; mix = mean")
    pace = audio.add_mutually_exclusive_group()
    pace.add_argument(
        "--realtime",
        dest="pace",
        action="store_const",
        const="realtime",
        help="file: play at the speed of the recording (default)",
    )
    pace.add_argument(
        "--fast",
        dest="pace",
        action="store_const",
        const="fast",
        help="file: as fast as possible; the predictions are the same",
    )
    audio.add_argument("--rate", metavar="HZ", help="pipe: its rate, required; device: to ask for")
    audio.add_argument(
        "--channels", metavar="N", help="pipe: its channels (default 1); device: to ask for"
    )
    audio.add_argument(
        "--format",
        metavar="FORMAT",
        help="pipe: s16le (default), s24le, s32le or f32le; device: s16le or f32le",
    )
    inference = parser.add_argument_group("inference and output")
    inference.add_argument(
        "--model", metavar="NAME|PATH", help="shipped model (see `streamcls models list`) or file"
    )
    inference.add_argument("--hop-ms", metavar="MS", help="new audio per prediction (default 80)")
    inference.add_argument(
        "--device", metavar="KIND", help="what computes: auto (default), cpu, gpu or tpu"
    )
    inference.add_argument(
        "--endpoint", metavar="URL", help="publish here (default tcp://127.0.0.1:5570)"
    )
    inference.add_argument(
        "--control", metavar="URL", help="answer requests here (default tcp://127.0.0.1:5571)"
    )
    inference.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning or error")


def add_log_level(parser: argparse.ArgumentParser) -> None:
    """Add ``--log-level`` to a command without a configuration."""
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        metavar="LEVEL",
        help="debug, info, warning or error",
    )


def read_overrides(arguments: argparse.Namespace) -> dict[str, object]:
    """Return dotted key -> text of every flag that was given.

    Raises:
        ConfigError: A ``--set`` without ``=``.
    """
    overrides: dict[str, object] = {}
    for assignment in arguments.set:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError([f"--set {assignment}: no value; write --set KEY=VALUE"])
        overrides[key.strip()] = value.strip()
    for name, key in _KEYS.items():
        if (value := getattr(arguments, name, None)) is not None:
            overrides[key] = value
    return overrides
