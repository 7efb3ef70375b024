"""`streamcls config check|show|schema`: look at a configuration without running it."""

import argparse
import json
from pathlib import Path
from typing import Any

from streamcls.cli.flags import add_configuration, add_overrides, read_overrides
from streamcls.cli.manual import Page, add_command
from streamcls.config import json_schema, load_config, to_toml
from streamcls.errors import CheckpointError

_PAGE = Page(
    description="Look at a configuration without opening a device or a socket or loading a model.",
    epilog="""\
examples:
  streamcls config check streamcls.toml      every problem at once; exit status 2 if any
  streamcls config show --origin             what `streamcls run` would use, and why
  streamcls config show > streamcls.toml     a complete file to start from
  streamcls config schema > schema.json      for editors: completion and hints

tables:
  [streams.NAME]               where the audio of a stream comes from
  [inference]                  how often to predict, for how many streams
  [events]                     how scores become events, for every class; then for one:
  [events.class.LABEL]         a class of the model; quote a label with spaces or signs
  [events.group.NAME]          several classes reported as one
  [events.noise_floor]         thresholds that rise with what is never quiet
  [streams.NAME.events]        for one stream, also .class.LABEL
  [publish] [ingest]           endpoints of subscribers, requests and senders
  [security] [log]             keys; what is said on standard error
A key that `config show` leaves out of a class or stream is inherited from the table above it.

`config check` asks the model, where it is on this machine, for the classes that [events] names.
What needs more (is the hop a multiple of the model's stride? does the device exist?) is checked by
`streamcls run` before it says it is ready.""",
)
_CHECK = Page(
    description="Check a file together with the environment and print every problem.", epilog=""
)
_SHOW = Page(
    description="Print the effective configuration as TOML that reads back to the same values.",
    epilog="",
)
_SCHEMA = Page(description="Print the JSON Schema of the configuration file.", epilog="")


def add_parser(commands: Any) -> None:
    """Add ``config`` to the commands."""
    parser = add_command(commands, "config", "check or show the configuration", _PAGE)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    check = add_command(actions, "check", "print every problem of a file", _CHECK)
    check.add_argument("config", type=Path, metavar="FILE", help="TOML file")
    check.set_defaults(command=_check)

    show = add_command(actions, "show", "print the effective values", _SHOW)
    add_configuration(show)
    show.add_argument("--origin", action="store_true", help="say for each value where it came from")
    add_overrides(show)
    show.set_defaults(command=_show)

    schema = add_command(actions, "schema", "print the JSON Schema", _SCHEMA)
    schema.set_defaults(command=_schema)


def _check(arguments: argparse.Namespace) -> int:
    from streamcls.header import find_checkpoint, read_header
    from streamcls.suitability import check_events

    config = load_config(arguments.config)
    seen = f"{arguments.config}: ok, streams: {', '.join(config.streams)}"
    try:
        header = read_header(find_checkpoint(config.model))
    except CheckpointError as error:
        # It may be on the machine that the file is for.
        print(f"{seen}; whether [events] suits the model is not known: {error}")
        return 0
    check_events(config.streams, config.events, header)
    print(seen)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config, read_overrides(arguments))
    print(to_toml(config, with_origin=arguments.origin), end="")
    return 0


def _schema(_: argparse.Namespace) -> int:
    print(json.dumps(json_schema(), indent=2))
    return 0
