"""What the commands' help pages share: layout, version and the top page."""

import argparse
import importlib.metadata
from typing import Any, NamedTuple


class Page(NamedTuple):
    """The prose before and after a command's options."""

    description: str
    epilog: str


PAGE = Page(
    description="""\
Classify live audio with a small neural network and publish what is heard over ZeroMQ.

Audio from a microphone, a file or standard input runs through a convolutional network that
sees each sample once; after every hop (80 ms unless configured) a prediction goes out to all
subscribers with the audio's own time stamps.""",
    epilog="""\
first steps:
  streamcls demo                     hear it work on a bundled recording, no microphone needed
  streamcls run                      classify the default microphone
  streamcls listen                   print the predictions, in a second terminal

configuration:
  One TOML file, given to `run` and `config`. Flags win over variables, variables over the file,
  the file over the defaults; `streamcls config show --origin` prints each value and its source.
  Each key has a variable: STREAMCLS_MODEL for model, STREAMCLS_INFERENCE__HOP_MS for
  inference.hop_ms, STREAMCLS_STREAMS__PORCH__SOURCE for streams.porch.source,
  STREAMCLS_EVENTS__CLASS__DOG__COOLDOWN_S for events.class.dog.cooldown_s (a name that no file
  spells is in lower case).

exit status:
  0 done (also after Ctrl-C in `run` and `listen`), 1 a source of `run` has failed for good, `send`
  could not deliver all, `listen` has heard nothing, `doctor` or `service status` found a failure,
  2 wrong input (one message says value, limit and remedy), 130 interrupted, 141 standard output
  was closed.
  A traceback is a bug: please report it.

`streamcls COMMAND --help` has the options and examples of each command.""",
)


def add_command(commands: Any, name: str, summary: str, page: Page) -> argparse.ArgumentParser:
    """Add one command with its help page to a group of subparsers."""
    return commands.add_parser(
        name,
        help=summary,
        description=page.description,
        epilog=page.epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_version(parser: argparse.ArgumentParser) -> None:
    """Add ``--version``."""
    version = importlib.metadata.version("streamcls")
    parser.add_argument("--version", action="version", version=f"streamcls {version}")
