"""`streamcls listen`: a subscriber for people and for jq."""

import argparse
import math
from typing import Any

from streamcls.cli.keys import add_client_keys, read_client_keys
from streamcls.cli.manual import Page, add_command
from streamcls.config import PublishConfig

_PAGE = Page(
    description="""\
Subscribe to a daemon and print what it publishes until interrupted. Messages that were missed
are counted and said. The latency is how long ago the end of what was classified was heard; "ahead"
where the audio runs ahead of the clock, as with `streamcls run --fast`.""",
    epilog="""\
examples:
  streamcls listen
  streamcls listen tcp://192.0.2.7:5570 --stream porch --stream yard
  streamcls listen tcp://192.0.2.7:5570 --client-key porch.key --server-key server.pub
  streamcls listen --json --duration 10 | jq -c 'select(.type == "prediction") | .scores'""",
)


def add_parser(commands: Any) -> None:
    """Add ``listen`` to the commands."""
    parser = add_command(commands, "listen", "print what a daemon publishes", _PAGE)
    parser.add_argument(
        "endpoint",
        nargs="?",
        default=PublishConfig().endpoint,
        metavar="ENDPOINT",
        help="where the daemon publishes (default %(default)s)",
    )
    parser.add_argument(
        "--stream",
        action="append",
        default=[],
        metavar="NAME",
        help="only this stream; may be repeated (default: all)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line, gaps included")
    parser.add_argument(
        "--rejected",
        action="store_true",
        help="show detections that were held back, too, and why",
    )
    parser.add_argument(
        "--recover-from",
        metavar="CONTROL",
        help="fetch what was missed from the daemon's control endpoint, such as "
        f"{PublishConfig().control}",
    )
    parser.add_argument(
        "--duration", type=_seconds, metavar="S", help="stop after S seconds (default: never)"
    )
    add_client_keys(parser)
    parser.set_defaults(command=_listen)


def _listen(arguments: argparse.Namespace) -> int:
    from streamcls.listen import run_listen

    return run_listen(
        arguments.endpoint,
        streams=arguments.stream,
        as_json=arguments.json,
        duration_s=arguments.duration,
        keys=read_client_keys(arguments),
        control_endpoint=arguments.recover_from,
        with_rejected=arguments.rejected,
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a positive number of seconds")
    return seconds
