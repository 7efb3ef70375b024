"""`streamcls demo`: the whole way on a bundled recording, without a microphone."""

import argparse
from typing import Any

from streamcls.cli.manual import Page, add_command

_PAGE = Page(
    description="""\
Play a bundled recording in real time through the daemon and print what a subscriber receives
over ZeroMQ; ends by itself with a summary of windows, latencies and losses. Neither a
microphone nor a configuration is needed.""",
    epilog="""\
example:
  streamcls demo""",
)


def add_parser(commands: Any) -> None:
    """Add ``demo`` to the commands."""
    parser = add_command(commands, "demo", "hear it work on a bundled recording", _PAGE)
    parser.set_defaults(command=_demo)


def _demo(_: argparse.Namespace) -> int:
    from streamcls.demo import run_demo

    return run_demo()
