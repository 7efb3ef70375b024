"""``python -m train synth``: words in synthetic voices."""

import argparse
from pathlib import Path
from typing import Any

from train.cli.flags import say


def add_parser(commands: Any) -> None:
    """Add ``synth`` to the commands."""
    synth = commands.add_parser("synth", help="render words with synthetic voices")
    synth.add_argument("words", nargs="+")
    synth.add_argument("--out", type=Path, required=True)
    synth.add_argument("--renderings", type=int, default=60, help="clips per word (default: 60)")
    synth.set_defaults(run=_synth)


def _synth(args: argparse.Namespace) -> None:
    from train.synth import render_words

    n = render_words(args.words, args.renderings, args.out)
    say(f"rendered {n} clips into {args.out}")
