"""``python -m train evaluate``: measure a run or a checkpoint on clips."""

import argparse
from pathlib import Path
from typing import Any

from train.cli.flags import find_model, load_named_clips, make_workspace, place_flags, say


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
    from streamcls.checkpoint import load_checkpoint
    from train.evaluate import evaluate
    from train.report import write_report
    from train.runs import SCORES_FILE, evaluate_run
    from train.scores import save_scores

    target = Path(args.model)
    if target.is_dir() and args.clips is None:
        scores = evaluate_run(target, make_workspace(args))
        out = target
    else:
        path = find_model(args.model)
        checkpoint = load_checkpoint(path)
        clips = load_named_clips(args, path, checkpoint.header)
        scores = evaluate(checkpoint, clips, f"{checkpoint.header.name} on {args.clips.name}")
        out = args.out or args.work / f"{checkpoint.header.name}-on-{args.clips.name}"
        command = f"python -m train evaluate {args.model} --clips {args.clips}"
        write_report(scores, command, out)
        save_scores(scores, out / SCORES_FILE)
    by_snr = "  ".join(f"{db} dB {scores.at(db):.1%}" for db in (20, 10, 5, 0))
    say(f"{scores.name}: clean {scores.accuracy:.1%}  {by_snr}")
    say(f"report: {out / 'report.md'}")
