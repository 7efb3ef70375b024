"""`streamcls devices`: what `device:NAME` can name on this machine."""

import argparse
import json
from typing import Any

from streamcls.cli.manual import Page, add_command

_PAGE = Page(
    description="""\
List the audio devices that can be captured. A source `device:TEXT` takes the device whose name
contains TEXT; `device:` takes the default one.""",
    epilog="""\
examples:
  streamcls devices
  streamcls devices --json | jq -r '.[].name'
  streamcls run --source "device:USB Audio\"""",
)


def add_parser(commands: Any) -> None:
    """Add ``devices`` to the commands."""
    parser = add_command(commands, "devices", "list the audio devices", _PAGE)
    parser.add_argument("--json", action="store_true", help="one JSON array instead of a table")
    parser.set_defaults(command=_devices)


def _devices(arguments: argparse.Namespace) -> int:
    import msgspec

    from streamcls.capture import list_devices

    devices: list[dict[str, Any]] = msgspec.to_builtins(list_devices())
    if arguments.json:
        print(json.dumps(devices, indent=2))
    elif not devices:
        print("no device can be captured; is a microphone plugged in and the sound server running?")
    else:
        _print_table(devices)
    return 0


def _print_table(rows: list[dict[str, Any]]) -> None:
    """Print the rows under their keys, each column as wide as it needs to be."""
    lines = [list(rows[0])] + [[_cell(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(map(str.ljust, line, widths)).rstrip())


def _cell(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else ""
        case float():
            return f"{value:g}"
        case _:
            return str(value)
