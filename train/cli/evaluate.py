"""``python -m train evaluate``: measure a run or a checkpoint on clips."""

import argparse
from pathlib import Path
from typing import Any

from train.cli.flags import make_workspace, place_flags, say
from train.errors import RecipeError


def add_parser(commands: Any) -> None:
    """Add ``evaluate`` to the commands."""
    measure = commands.add_parser(
        "evaluate", parents=[place_flags()], help="measure a run or a checkpoint"
    )
    measure.add_argument("model", help="a run's folder, a checkpoint file or a shipped name")
    measure.add_argument("--clips", type=Path, help="folder with manifest.csv to measure on")
    measure.add_argument("--out", type=Path, help="folder for the report")
    measure.set_defaults(run=_evaluate)


def _evaluate(args: argparse.Namespace) -> None:
    from streamcls.checkpoint import find_checkpoint, load_checkpoint
    from train.data import Source, load_clips
    from train.evaluate import evaluate
    from train.report import write_report
    from train.runs import SCORES_FILE, evaluate_run
    from train.scores import save_scores

    target = Path(args.model)
    if target.is_dir() and args.clips is None:
        scores = evaluate_run(target, make_workspace(args))
        out = target
    else:
        from train.runs import MODEL_FILE

        path = target / MODEL_FILE if target.is_dir() else find_checkpoint(args.model)
        checkpoint = load_checkpoint(path)
        if args.clips is None:
            raise RecipeError(
                f"{path} does not say what it held out; name a folder of clips with --clips, or "
                f"evaluate the run's folder"
            )
        source = Source(args.clips.name, str(args.clips.resolve()))
        rate_hz = checkpoint.front_end.sample_rate_hz
        header = checkpoint.header
        clips = load_clips([source], header.labels, rate_hz, Path(), args.work, header.task)
        scores = evaluate(checkpoint, clips, f"{checkpoint.header.name} on {args.clips.name}")
        out = args.out or args.work / f"{checkpoint.header.name}-on-{args.clips.name}"
        command = f"python -m train evaluate {args.model} --clips {args.clips}"
        write_report(scores, command, out)
        save_scores(scores, out / SCORES_FILE)
    by_snr = "  ".join(f"{db} dB {scores.at(db):.1%}" for db in (20, 10, 5, 0))
    say(f"{scores.name}: clean {scores.accuracy:.1%}  {by_snr}")
    say(f"report: {out / 'report.md'}")
