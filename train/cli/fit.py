"""``python -m train fit``: train, or go on with a training."""

import argparse
from pathlib import Path
from typing import Any

from train.cli.flags import make_plan, make_workspace, place_flags, say, settings_flags
from train.errors import RecipeError


def add_parser(commands: Any) -> None:
    """Add ``fit`` to the commands."""
    fit = commands.add_parser(
        "fit", parents=[settings_flags(), place_flags()], help="train, or resume a training"
    )
    held = fit.add_mutually_exclusive_group()
    held.add_argument(
        "--hold-out", action="append", default=[], metavar="GROUP", help="keep a speaker for tests"
    )
    held.add_argument(
        "--fold", type=int, help="keep a fold for tests; without, train on everything"
    )
    held.add_argument(
        "--official", action="store_true", help="keep what the data set itself calls test"
    )
    fit.add_argument(
        "--shared-groups",
        action="store_true",
        help="with --official: accept groups on both sides; the score is named after them",
    )
    fit.add_argument(
        "--save-every", type=int, default=500, metavar="STEPS",
        help="snapshots within an epoch (500); there is one after each epoch anyway",
    )  # fmt: skip
    fit.add_argument(
        "--tensorboard", action="store_true", help="write events to OUT/tensorboard too"
    )
    together = fit.add_argument_group(
        "several processes", "the same command in each, on data and a run's folder that all share"
    )
    together.add_argument(
        "--coordinator", metavar="HOST:PORT",
        help="where process 0 listens; 'auto' asks Slurm, Open MPI or Kubernetes for all three",
    )  # fmt: skip
    together.add_argument("--processes", type=int, metavar="N", help="how many there are")
    together.add_argument("--process", type=int, metavar="I", help="which this one is, from 0")
    fit.set_defaults(run=_fit)


def _fit(args: argparse.Namespace) -> None:
    import msgspec

    from train.parallel import join_processes, leads
    from train.runs import train_run

    if args.save_every < 1:
        raise RecipeError(f"--save-every {args.save_every}: must be at least 1 step")
    plan = msgspec.structs.replace(
        make_plan(args, args.fold),
        hold_out=args.hold_out,
        official=args.official,
        shared_groups=args.shared_groups,
    )
    name = args.recipe or Path(plan.folder or "").name
    out = args.out or args.work / (name if args.fold is None else f"{name}-{args.fold}")
    if args.coordinator is not None:
        join_processes(args.coordinator, args.processes, args.process)
    train_run(
        plan,
        out,
        make_workspace(args),
        say,
        save_every=args.save_every,
        tensorboard=args.tensorboard,
    )
    if not leads():
        return
    if args.fold is None and not args.hold_out and not args.official:
        subject = " ".join(plan.describe_subject())
        say(
            f"trained on everything: 'python -m train cross-validate {subject}' tells how good "
            f"it is; 'python -m train export {out} --out FILE' writes the file to serve"
        )
    else:
        say(f"next: python -m train evaluate {out}")
