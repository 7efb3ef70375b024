"""``python -m train few-shot``: a model from a few clips, or how good such models are."""

import argparse
from pathlib import Path
from typing import Any

from train.cli.flags import say
from train.errors import RecipeError


def add_parser(commands: Any) -> None:
    """Add ``few-shot`` to the commands."""
    few = commands.add_parser(
        "few-shot", help="make a model from a few clips, on the trunk of another"
    )
    few.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of clips")
    few.add_argument("--layout", help="how that folder is laid out (default: recognised)")
    few.add_argument(
        "--from", dest="origin", required=True, metavar="MODEL",
        help="name or file of the model whose trunk to use",
    )  # fmt: skip
    few.add_argument("--out", type=Path, metavar="FILE", help="checkpoint to write")
    few.add_argument(
        "--others", type=Path, nargs="+", default=[], metavar="DIR",
        help="folders of other recordings, which are to be unknown",
    )  # fmt: skip
    few.add_argument(
        "--clips-per-class", type=int, nargs="+", default=[], metavar="N",
        help="learn from so many only, drawn at random (default: all)",
    )  # fmt: skip
    few.add_argument("--seed", type=int, default=0, help="of all that is random (0)")
    few.add_argument(
        "--work", type=Path, default=Path("runs"), help="folder for caches (default: runs)"
    )
    few.add_argument(
        "--measure", action="store_true", help="measure on held-out folds instead of writing"
    )
    few.add_argument("--seeds", type=int, default=5, help="with --measure: draws of the clips (5)")
    few.add_argument(
        "--strangers", type=Path, nargs="+", default=[], metavar="DIR",
        help="with --measure: folders of sounds that no class should be said of",
    )  # fmt: skip
    few.set_defaults(run=_few_shot)


def _few_shot(args: argparse.Namespace) -> None:
    from train.fewshot import measure, prepare, write_few_shot
    from train.head import fit_head
    from train.runs import load_distractors
    from train.transfer import read_origin

    if any(n < 1 for n in args.clips_per_class):
        raise RecipeError(f"--clips-per-class {min(args.clips_per_class)}: must be 1 or more")
    if args.measure == (args.out is not None):
        raise RecipeError(
            "name the file to write with --out, or measure with --measure: one of them"
        )
    if len(args.clips_per_class) > 1 and not args.measure:
        raise RecipeError("--out takes one number of --clips-per-class; several need --measure")
    origin = read_origin(args.origin)
    command = [f"python -m train few-shot --data {args.data} --from {args.origin}"]
    command += [f"--others {' '.join(map(str, args.others))}"] if args.others else []
    numbers = args.clips_per_class or [None]
    few = prepare(
        args.data,
        origin,
        args.work,
        say,
        layout=args.layout,
        others=args.others,
        clips_per_class=None if args.measure else numbers[0],
        seed=args.seed,
    )
    clips = few.material.clips
    if args.measure:
        strangers = load_distractors(args.strangers, clips, args.work)
        measure(few, numbers, args.seeds, strangers, say)
        return
    import numpy as np

    head = fit_head(few.material, np.ones(len(clips), np.bool_), args.seed)
    command += [] if numbers[0] is None else [f"--clips-per-class {numbers[0]}"]
    write_few_shot(few, origin, head, " ".join(command), args.out)
    say(f"wrote {args.out}; run it with: streamcls run --model {args.out}")
