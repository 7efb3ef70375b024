"""``python -m train export``: a run's model as a file to ship."""

import argparse
from pathlib import Path
from typing import Any

from train.cli.flags import say


def add_parser(commands: Any) -> None:
    """Add ``export`` to the commands."""
    export = commands.add_parser("export", help="write a run's model as a file to ship")
    export.add_argument("run_folder", type=Path, metavar="RUN")
    export.add_argument("--out", type=Path, required=True, metavar="FILE")
    export.add_argument("--scores", type=Path, help="scores.json to put into the header")
    export.add_argument(
        "--stream", type=Path, help="stream.json whose thresholds to put into the header"
    )
    export.set_defaults(run=_export)


def _export(args: argparse.Namespace) -> None:
    from train.export import export
    from train.scores import Scores, read_scores
    from train.stream.evaluation import StreamScores

    export(
        args.run_folder,
        args.out,
        read_scores(args.scores, Scores) if args.scores else None,
        read_scores(args.stream, StreamScores) if args.stream else None,
    )
    say(f"wrote {args.out}")
