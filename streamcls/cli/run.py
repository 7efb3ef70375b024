"""`streamcls run`: the daemon in the foreground."""

import argparse
import functools
import gc
from pathlib import Path
from typing import Any

from streamcls.cli.flags import add_configuration, add_overrides, read_overrides
from streamcls.cli.manual import Page, add_command
from streamcls.config import load_config
from streamcls.logs import configure_logging
from streamcls.signals import leave_on_interrupt

_PAGE = Page(
    description="""\
Classify audio until interrupted, or until every source has ended, and publish each prediction.

A stream that loses its device is retried for ever and its state published; what is lost is
counted and published too. SIGTERM and Ctrl-C end in order: the sources close, what was
predicted is sent, the exit status is 0. SIGHUP reads configuration and model again without a gap;
when they do not work, all stays as it was.""",
    epilog="""\
examples:
  streamcls run
      The default microphone, the default model, predictions on tcp://127.0.0.1:5570.
  streamcls run /etc/streamcls/streamcls.toml
      What a service does; several [streams.NAME] may run at once.
  streamcls run --source "device:USB Audio" --channel mix --hop-ms 160
      A device whose name contains "USB Audio", all its channels averaged, 6 predictions a second.
  streamcls run --source file:street.flac --fast --summary-json summary.json
      A whole recording as fast as possible, with its figures in a file.
  streamcls run --set events.class.dog.onset_threshold=0.8 --set events.deny=rain,wind
      Keys of the file without a file; `streamcls config --help` names its tables.
  arecord -q -t raw -r 16000 -f S16_LE | streamcls run --source pipe: --rate 16000
      Raw PCM from another program.""",
)


def add_parser(commands: Any) -> None:
    """Add ``run`` to the commands."""
    parser = add_command(commands, "run", "classify live audio and publish predictions", _PAGE)
    add_configuration(parser)
    add_overrides(parser)
    parser.add_argument(
        "--summary-json",
        type=Path,
        metavar="FILE",
        help="write windows, latencies and losses to FILE at the end (- is standard output)",
    )
    parser.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    reread = functools.partial(load_config, arguments.config, read_overrides(arguments))
    config = reread()
    configure_logging(config.log.level)
    # What a start makes stays, as a rule: collecting meanwhile takes 0.2 s to find nothing.
    gc.disable()
    try:
        with leave_on_interrupt():
            from streamcls.inputs import find_inputs
        inputs = find_inputs(config, arguments.summary_json)
        with leave_on_interrupt():
            from streamcls.daemon import run_daemon

        return run_daemon(config, arguments.summary_json, reread, inputs)
    finally:
        gc.enable()
