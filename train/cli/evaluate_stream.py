"""``python -m train evaluate-stream``: measure in scenes, and choose thresholds."""

import argparse
from pathlib import Path
from typing import Any

from train.cli.flags import find_model, load_named_clips, make_workspace, place_flags, say


def add_parser(commands: Any) -> None:
    """Add ``evaluate-stream`` to the commands."""
    stream = commands.add_parser(
        "evaluate-stream",
        parents=[place_flags()],
        help="measure in long noisy scenes, as the daemon would hear them; choose thresholds",
    )
    stream.add_argument("model", help="a run's folder, a checkpoint file or a shipped name")
    stream.add_argument("--clips", type=Path, help="folder of clips to make scenes of")
    stream.add_argument(
        "--distractors", type=Path, nargs="+", default=[], metavar="DIR",
        help="folders of clips that should not be reported",
    )  # fmt: skip
    stream.add_argument(
        "--scores", type=Path, help="scores.json whose temperature to apply to a run's model first"
    )
    stream.add_argument(
        "--hours", type=float, default=2.0, help="of scenes to choose on, and to report on (2)"
    )
    stream.add_argument("--seed", type=int, default=0, help="of the scenes (0)")
    stream.add_argument("--hop-ms", type=float, default=80.0, help="audio per prediction (80)")
    stream.add_argument(
        "--false-accepts", type=float, default=0.5, metavar="N",
        help="false accepts per hour and label to choose thresholds for (0.5)",
    )  # fmt: skip
    stream.add_argument(
        "--keep-scenes", type=Path, metavar="DIR", help="write the scenes reported on"
    )
    stream.add_argument("--out", type=Path, help="folder for the report")
    stream.set_defaults(run=_evaluate_stream)


def _evaluate_stream(args: argparse.Namespace) -> None:
    from streamcls.checkpoint import load_checkpoint
    from train.export import export
    from train.runs import held_out_clips, load_distractors
    from train.scores import Scores, read_scores
    from train.stream.evaluation import STREAM_FILE, evaluate_stream, save_stream_scores
    from train.stream.report import write_stream_report
    from train.stream.scenes import sort_clips

    target = Path(args.model)
    path = find_model(args.model)
    header = load_checkpoint(path).header
    out = args.out or (target if target.is_dir() else args.work / f"{header.name}-in-stream")
    out.mkdir(parents=True, exist_ok=True)
    if args.scores:
        # The temperature decides what a threshold means, so it is set before any is chosen.
        export(target, out / "calibrated.safetensors", read_scores(args.scores, Scores))
        path = out / "calibrated.safetensors"
    if target.is_dir() and args.clips is None:
        clips, held_out = held_out_clips(target, make_workspace(args))
    else:
        clips = load_named_clips(args, path, header)
        held_out = (
            f"{len(clips)} clips of {args.clips.name}. The file says that it was trained with "
            f"`{header.training.get('command', 'an unknown command')}` and held out "
            f"{len(header.training.get('held_out', [])) or 'no'} groups: what it has heard in "
            f"training it misses less often than new voices"
        )
    extra = load_distractors(args.distractors, clips, args.work)
    names = [folder.name for folder in args.distractors]
    held_out += f". Distractors: {' and '.join(names)}." if names else "."
    scores = evaluate_stream(
        path,
        sort_clips(clips, header.unknown_labels, extra),
        held_out,
        say,
        hours=args.hours,
        seed=args.seed,
        hop_ms=args.hop_ms,
        target_per_hour=args.false_accepts,
        keep=args.keep_scenes,
    )
    save_stream_scores(scores, out / STREAM_FILE)
    command = ["python -m train evaluate-stream", args.model]
    command += [f"--clips {args.clips}"] if args.clips else []
    command += [f"--distractors {' '.join(map(str, args.distractors))}"] if names else []
    command += [f"--scores {args.scores}"] if args.scores else []
    command += [f"--hours {args.hours:g} --seed {args.seed}"]
    write_stream_report(scores, " ".join(command), out)
    total = scores.total
    say(
        f"{scores.name}: {total.missed_share:.1%} of {total.sounds} sounds missed, "
        f"{total.made_up_per_hour:.1f} made up per hour"
    )
    say(f"report: {out / 'stream.md'}")
