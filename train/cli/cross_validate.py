"""``python -m train cross-validate``: train and measure every fold."""

import argparse
from typing import Any

from train.cli.flags import make_plan, make_workspace, place_flags, say, settings_flags


def add_parser(commands: Any) -> None:
    """Add ``cross-validate`` to the commands."""
    cross = commands.add_parser(
        "cross-validate",
        parents=[settings_flags(), place_flags()],
        help="train and measure every fold",
    )
    cross.add_argument("--folds", type=int, nargs="+", help="only these folds")
    cross.set_defaults(run=_cross_validate)


def _cross_validate(args: argparse.Namespace) -> None:
    from train.report import write_report
    from train.runs import SCORES_FILE, evaluate_run, is_finished, train_run
    from train.scores import Scores, pool, read_scores, save_scores
    from train.split import N_HASH_FOLDS, fold_names

    whole = make_plan(args)
    recipe = whole.load_recipe()
    workspace = make_workspace(args)
    clips = workspace.load(recipe, say)
    n_folds = len(fold_names(clips, recipe.leave_one_out, recipe.fold_by)) or N_HASH_FOLDS
    chosen = args.folds or list(range(n_folds))
    out = args.out or args.work / f"{recipe.name}-cv"
    scores = []
    for fold in chosen:
        run = out / f"fold-{fold}"
        if not is_finished(run):
            train_run(make_plan(args, fold), run, workspace, say, clips)
            evaluate_run(run, workspace, clips)
        scores.append(read_scores(run / SCORES_FILE, Scores))
        say(f"fold {fold}: clean {scores[-1].accuracy:.1%}, 10 dB {scores[-1].at(10):.1%}")
    what = f"leave one of {recipe.leave_one_out} out" if recipe.leave_one_out else "held-out groups"
    mean = pool(scores, f"{recipe.name}: {what}, mean of {len(scores)} folds")
    command = whole.describe().replace(" fit ", " cross-validate ", 1)
    command += f" --folds {' '.join(map(str, args.folds))}" if args.folds else ""
    write_report(mean, command, out, scores)
    save_scores(mean, out / SCORES_FILE)
    say(f"{mean.name}: clean {mean.accuracy:.1%}, 10 dB {mean.at(10):.1%}")
    say(f"report: {out / 'report.md'}")
