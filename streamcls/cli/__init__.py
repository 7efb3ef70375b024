"""The command line: parse, hand over to one command, turn errors into exit codes.

The outermost layer (`cli -> daemon -> stages`); it runs in the main thread and owns nothing
but standard output. One module a command; each imports what it runs only when it runs, so that
`--help`, `config`, `devices` and `listen` start without loading JAX.
"""

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence

from streamcls.cli import (
    bench,
    completion,
    config,
    demo,
    devices,
    doctor,
    keys,
    listen,
    models,
    relay,
    run,
    send,
    service,
)
from streamcls.cli.manual import PAGE, add_version
from streamcls.errors import ConfigError, StreamclsError

EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

_COMMANDS = (
    *(run, demo, bench, listen, send, relay, devices, models, config, keys),
    *(service, doctor, completion),
)
"""In the order of the help page."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Args:
        argv: Arguments without the program's name; `sys.argv` if None.

    Returns:
        0 done; 2 wrong input, said in one message on standard error; 130 interrupted; 141 the
        reader of standard output went away. A traceback (status 1) is a bug.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal without UTF-8 shows what it cannot print as \u2192; it is no reason to end.
        sys.stdout.reconfigure(errors="backslashreplace")
    arguments = build_parser().parse_args(argv)
    try:
        status = arguments.command(arguments)
        sys.stdout.flush()
    except StreamclsError as error:
        print(f"streamcls: error: {_message(error)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        # A second one would find the interpreter ending itself, which prints a traceback.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes once more at exit: give it somewhere to flush to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    return status


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line; ``arguments.command(arguments)`` runs it."""
    parser = argparse.ArgumentParser(
        prog="streamcls",
        description=PAGE.description,
        epilog=PAGE.epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_version(parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in _COMMANDS:
        module.add_parser(commands)
    return parser


def _message(error: StreamclsError) -> str:
    if isinstance(error, ConfigError) and len(error.problems) > 1:
        lines = "".join(f"\n  {problem}" for problem in error.problems)
        return f"{len(error.problems)} problems in the configuration:{lines}"
    return str(error)
