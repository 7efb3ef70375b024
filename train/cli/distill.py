"""``python -m train distill``: a small model learns another's scores."""

import argparse
from pathlib import Path
from typing import Any

from train.cli.flags import parse_overrides, say
from train.errors import RecipeError


def add_parser(commands: Any) -> None:
    """Add ``distill`` to the commands."""
    learn = commands.add_parser(
        "distill", help="teach a small model another's scores on audio without labels"
    )
    learn.add_argument("--teacher", required=True, metavar="MODEL", help="its name or file")
    learn.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="every audio file below it is heard"
    )
    learn.add_argument("--out", type=Path, required=True, metavar="FILE", help="the student")
    learn.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="a setting of the student's training, such as architecture or model.width",
    )  # fmt: skip
    learn.add_argument(
        "--softening", type=float, default=1.0, help="temperature of the teacher's scores (1)"
    )
    learn.add_argument(
        "--run", dest="run_folder", type=Path, metavar="DIR", help="folder to resume from"
    )
    learn.add_argument(
        "--work", type=Path, default=Path("runs"), help="folder for caches and runs (default: runs)"
    )
    learn.set_defaults(run=_distill)


def _distill(args: argparse.Namespace) -> None:
    from train.distill import DistillPlan, distill
    from train.transfer import read_origin

    if not args.softening >= 1:
        raise RecipeError(f"--softening {args.softening:g}: must be 1 or more")
    teacher = read_origin(args.teacher)
    plan = DistillPlan(
        args.teacher,
        teacher.sha256,
        str(args.data.resolve()),
        parse_overrides(args.set),
        args.softening,
    )
    run = args.run_folder or args.work / f"distill-{args.out.stem}"
    distill(plan, teacher, run, args.out, args.work, say)
