"""The commands of ``python -m train``: from a folder of clips to a measured checkpoint.

One module a command; each imports what it runs only when it runs, so that ``--help`` and mistakes
are answered at once. Every expected failure is one message on standard error and exit status 2.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from streamcls.errors import StreamclsError
from train.cli import (
    cross_validate,
    data,
    distill,
    evaluate,
    evaluate_stream,
    export,
    few_shot,
    fit,
    recipes,
    synth,
)

_COMMANDS = (
    *(fit, evaluate, evaluate_stream, cross_validate, few_shot, distill, export, synth, data),
    recipes,
)
"""In the order of the help page."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    args = make_parser().parse_args(argv)
    try:
        _check_extra()
        return args.run(args) or 0
    except StreamclsError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last snapshot", file=sys.stderr)
        return 130


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; ``args.run(args)`` runs it."""
    parser = argparse.ArgumentParser(
        "python -m train", description="Train and measure classifiers."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in _COMMANDS:
        module.add_parser(commands)
    return parser


def _check_extra() -> None:
    """Refuse at once what would end hours later, when the report is drawn."""
    needed = ("optax", "orbax", "matplotlib", "tqdm", "tensorboardX")
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise StreamclsError(
            f"training needs {', '.join(missing)}, which streamcls alone does not bring: "
            f"pip install 'streamcls[train]'"
        )
