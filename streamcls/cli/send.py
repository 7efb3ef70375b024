"""`streamcls send`: capture here, classify elsewhere."""

import argparse
import logging
import math
import re
from pathlib import Path
from typing import Any

from streamcls.cli.flags import add_log_level
from streamcls.cli.manual import Page, add_command
from streamcls.config.checks import FORMATTED, scheme
from streamcls.config.schema import DEFAULT_STREAM, SENDER_NAME_PATTERN
from streamcls.errors import ConfigError

_PAGE = Page(
    description="""\
Capture audio on this machine and send it to a daemon on another one, until interrupted or until
the source has ended. Needs little: no model is loaded, nothing is compiled.

The daemon has a stream with `source = "remote:NAME"`. Audio goes out as 16-bit mono at
--send-rate. While the daemon or the network is away the newest --buffer-s seconds are kept and the
connection is tried for ever; what had to be dropped is counted, and the daemon publishes it as a
loss. Times are those of the capture, corrected by the measured difference of the two clocks.""",
    epilog="""\
examples:
  streamcls send --to tcp://192.0.2.7:5572 --stream porch
      The default microphone to the daemon whose stream porch has source = "remote:".
  streamcls send --to tcp://192.0.2.7:5572 --stream porch --codec flac --client-key porch.key \\
      --server-key server.pub
      Encrypted, and in fewer bytes.
  arecord -q -t raw -r 48000 -f S16_LE | streamcls send --to tcp://192.0.2.7:5572 \\
      --source pipe: --rate 48000
      Raw PCM from another program.
  streamcls run --source remote:
      The other end, on the same machine for a try: `streamcls send` without any flag finds it.

Remote machines reach a daemon only on an address that it listens on: set ingest.endpoint there.""",
)


def add_parser(commands: Any) -> None:
    """Add ``send`` to the commands."""
    parser = add_command(commands, "send", "capture here and send the audio to a daemon", _PAGE)
    parser.add_argument(
        "--to",
        default="tcp://127.0.0.1:5572",
        metavar="URL",
        help="the daemon's ingest.endpoint (default %(default)s)",
    )
    parser.add_argument(
        "--stream",
        default=DEFAULT_STREAM,
        type=_name,
        metavar="NAME",
        help="NAME of the daemon's source remote:NAME (default %(default)s)",
    )
    audio = parser.add_argument_group("audio")
    audio.add_argument("--source", default="device:", metavar="SPEC", help="as for `streamcls run`")
    audio.add_argument(
        "--channel", default=0, type=_channel, metavar="N|mix", help="to send, from 0; mix = mean"
    )
    audio.add_argument(
        "--rate",
        type=_whole(4_000, 384_000),
        metavar="HZ",
        help="pipe: its rate, required; device: to ask for",
    )
    audio.add_argument(
        "--channels",
        type=_whole(1, 256),
        metavar="N",
        help="pipe: its channels (default 1); device: to ask for",
    )
    audio.add_argument(
        "--format",
        choices=("s16le", "s24le", "s32le", "f32le"),
        help="pipe: s16le (default), s24le, s32le or f32le; device: s16le or f32le",
    )
    network = parser.add_argument_group("network")
    network.add_argument(
        "--codec",
        choices=("s16", "flac"),
        default="s16",
        help="flac: the same samples in fewer bytes (default %(default)s)",
    )
    network.add_argument(
        "--send-rate",
        type=_whole(4_000, 384_000),
        default=16_000,
        metavar="HZ",
        help="resample to this; the rate of the daemon's model (default %(default)s)",
    )
    network.add_argument(
        "--packet-ms",
        type=_number(5, 1000),
        default=40.0,
        metavar="MS",
        help="audio in one packet (default %(default)g)",
    )
    network.add_argument(
        "--buffer-s",
        type=_number(0.2, 60),
        default=4.0,
        metavar="S",
        help="audio kept while the daemon is away (default %(default)g)",
    )
    network.add_argument("--client-key", type=Path, metavar="FILE", help="our private key")
    network.add_argument("--server-key", type=Path, metavar="FILE", help="the daemon's public key")
    add_log_level(parser)
    parser.set_defaults(command=_send)


def _send(arguments: argparse.Namespace) -> int:
    from streamcls.capture import SourceOptions
    from streamcls.publish.keys import ClientKeys
    from streamcls.send import SendOptions, run_send

    if (arguments.client_key is None) != (arguments.server_key is None):
        raise ConfigError(["--client-key and --server-key belong together; give both or neither"])
    _check_source(arguments)
    keys = None
    if arguments.client_key is not None:
        keys = ClientKeys.load(arguments.client_key, arguments.server_key)
    logging.basicConfig(
        level=arguments.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    options = SendOptions(
        endpoint=arguments.to,
        source=arguments.source,
        stream=arguments.stream,
        channel=arguments.channel,
        codec=arguments.codec,
        send_rate_hz=arguments.send_rate,
        packet_ms=arguments.packet_ms,
        buffer_s=arguments.buffer_s,
        keys=keys,
    )
    source_options = SourceOptions(
        sample_rate_hz=arguments.rate,
        channels=arguments.channels,
        sample_format=arguments.format,
    )
    return run_send(options, source_options)


def _check_source(arguments: argparse.Namespace) -> None:
    """Refuse what would be ignored, or never deliver anything, as `streamcls run` does."""
    kind = scheme(arguments.source)
    if kind == "remote":
        raise ConfigError(
            [
                f"--source {arguments.source}: is what the daemon has; name what is captured here, "
                f"such as device: or file:PATH, and the stream with --stream"
            ]
        )
    flags = {name: getattr(arguments, name) for name in ("rate", "channels", "format")}
    given = [f"--{name}" for name, value in flags.items() if value is not None]
    if given and f"{kind}:" not in FORMATTED:
        raise ConfigError(
            [f"{', '.join(given)}: for {' and '.join(FORMATTED)} only, but the source is {kind}:"]
        )


def _name(text: str) -> str:
    if not re.match(SENDER_NAME_PATTERN, text):
        raise argparse.ArgumentTypeError(
            f"{text!r}: use up to 64 letters, digits, _ and -, beginning with a letter or digit"
        )
    return text


def _channel(text: str) -> Any:
    return text if text == "mix" else _whole(0, 255)(text)


def _whole(low: int, high: int) -> Any:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text[:9]) <= high:
            raise argparse.ArgumentTypeError(f"{text!r}: must be an integer from {low} to {high}")
        return int(text)

    return parse


def _number(low: float, high: float) -> Any:
    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{text!r}: must be a number from {low:g} to {high:g}")
        return number

    return parse
