"""``python -m train``: from a folder of clips to a measured checkpoint; ``--help`` lists how.

Every expected failure is one message on standard error and exit status 2.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from streamcls.errors import StreamclsError
from train.errors import DataError, RecipeError

if TYPE_CHECKING:
    from train.runs import Plan, Workspace

DEFAULT_DATA = "../shared/data"


def _say(line: str) -> None:
    print(line, flush=True)


def _parse_overrides(pairs: Sequence[str]) -> dict[str, str]:
    overrides = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise RecipeError(f"--set {pair}: must be key=value, such as epochs=3")
        overrides[key] = value
    return overrides


def _plan(args: argparse.Namespace, fold: int | None = None) -> "Plan":
    """Return what is asked for: a recipe by name, or the folder of ``--data`` without one."""
    from streamcls.header import digest_checkpoint, find_checkpoint, is_path
    from train.runs import Plan

    if args.freeze and args.origin is None:
        raise RecipeError("--freeze keeps the trunk of the model that --from names; name one")
    origin = args.origin
    if origin is not None and is_path(origin):
        origin = str(Path(origin).expanduser().resolve())
    if args.recipe is None and args.data is None:
        raise RecipeError(
            "name a recipe ('python -m train recipes' lists them), or a folder of clips with --data"
        )
    return Plan(
        args.recipe,
        _parse_overrides(args.set),
        fold=fold,
        synthetic=not args.no_synth,
        folder=str(args.data.resolve()) if args.recipe is None else None,
        layout=args.layout,
        origin=origin,
        origin_sha256=None if origin is None else digest_checkpoint(find_checkpoint(origin)),
        freeze=args.freeze,
    )


def _workspace(args: argparse.Namespace) -> "Workspace":
    from train.runs import Workspace

    data = args.data or Path(os.environ.get("STREAMCLS_DATA", DEFAULT_DATA))
    return Workspace(data, args.work)


def _fit(args: argparse.Namespace) -> None:
    import msgspec

    from train.parallel import join_processes, leads
    from train.runs import train_run

    if args.save_every < 1:
        raise RecipeError(f"--save-every {args.save_every}: must be at least 1 step")
    plan = msgspec.structs.replace(
        _plan(args, args.fold),
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
        _workspace(args),
        _say,
        save_every=args.save_every,
        tensorboard=args.tensorboard,
    )
    if not leads():
        return
    if args.fold is None and not args.hold_out and not args.official:
        subject = " ".join(plan.describe_subject())
        _say(
            f"trained on everything: 'python -m train cross-validate {subject}' tells how good "
            f"it is; 'python -m train export {out} --out FILE' writes the file to serve"
        )
    else:
        _say(f"next: python -m train evaluate {out}")


def _evaluate(args: argparse.Namespace) -> None:
    from streamcls.checkpoint import find_checkpoint, load_checkpoint
    from train.data import Source, load_clips
    from train.evaluate import evaluate
    from train.report import write_report
    from train.runs import SCORES_FILE, evaluate_run
    from train.scores import save_scores

    target = Path(args.model)
    if target.is_dir() and args.clips is None:
        scores = evaluate_run(target, _workspace(args))
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
    _say(f"{scores.name}: clean {scores.accuracy:.1%}  {by_snr}")
    _say(f"report: {out / 'report.md'}")


def _evaluate_stream(args: argparse.Namespace) -> None:
    from streamcls.checkpoint import find_checkpoint, load_checkpoint
    from train.data import Source, load_clips
    from train.export import export
    from train.runs import MODEL_FILE, held_out_clips, load_distractors
    from train.scores import Scores, read_scores
    from train.stream.evaluation import STREAM_FILE, evaluate_stream, save_stream_scores
    from train.stream.report import write_stream_report
    from train.stream.scenes import sort_clips

    target = Path(args.model)
    path = target / MODEL_FILE if target.is_dir() else find_checkpoint(args.model)
    header = load_checkpoint(path).header
    out = args.out or (target if target.is_dir() else args.work / f"{header.name}-in-stream")
    out.mkdir(parents=True, exist_ok=True)
    if args.scores:
        # The temperature decides what a threshold means, so it is set before any is chosen.
        export(target, out / "calibrated.safetensors", read_scores(args.scores, Scores))
        path = out / "calibrated.safetensors"
    if args.clips is not None:
        source = Source(args.clips.name, str(args.clips.resolve()))
        rate_hz = header.front_end["sample_rate_hz"]
        clips = load_clips([source], header.labels, rate_hz, Path(), args.work, header.task)
        held_out = (
            f"{len(clips)} clips of {args.clips.name}. The file says that it was trained with "
            f"`{header.training.get('command', 'an unknown command')}` and held out "
            f"{len(header.training.get('held_out', [])) or 'no'} groups: what it has heard in "
            f"training it misses less often than new voices"
        )
    elif target.is_dir():
        clips, held_out = held_out_clips(target, _workspace(args))
    else:
        raise RecipeError(
            f"{path} does not say what it held out; name a folder of clips with --clips, or "
            f"evaluate the run's folder"
        )
    extra = load_distractors(args.distractors, clips, args.work)
    names = [folder.name for folder in args.distractors]
    held_out += f". Distractors: {' and '.join(names)}." if names else "."
    scores = evaluate_stream(
        path,
        sort_clips(clips, header.unknown_labels, extra),
        held_out,
        _say,
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
    _say(
        f"{scores.name}: {total.missed_share:.1%} of {total.sounds} sounds missed, "
        f"{total.made_up_per_hour:.1f} made up per hour"
    )
    _say(f"report: {out / 'stream.md'}")


def _cross_validate(args: argparse.Namespace) -> None:
    from train.report import write_report
    from train.runs import SCORES_FILE, evaluate_run, is_finished, train_run
    from train.scores import Scores, pool, read_scores, save_scores
    from train.split import N_HASH_FOLDS, fold_names

    whole = _plan(args)
    recipe = whole.load_recipe()
    workspace = _workspace(args)
    clips = workspace.load(recipe, _say)
    n_folds = len(fold_names(clips, recipe.leave_one_out, recipe.fold_by)) or N_HASH_FOLDS
    chosen = args.folds or list(range(n_folds))
    out = args.out or args.work / f"{recipe.name}-cv"
    scores = []
    for fold in chosen:
        run = out / f"fold-{fold}"
        if not is_finished(run):
            train_run(_plan(args, fold), run, workspace, _say, clips)
            evaluate_run(run, workspace, clips)
        scores.append(read_scores(run / SCORES_FILE, Scores))
        _say(f"fold {fold}: clean {scores[-1].accuracy:.1%}, 10 dB {scores[-1].at(10):.1%}")
    what = f"leave one of {recipe.leave_one_out} out" if recipe.leave_one_out else "held-out groups"
    mean = pool(scores, f"{recipe.name}: {what}, mean of {len(scores)} folds")
    command = whole.describe().replace(" fit ", " cross-validate ", 1)
    command += f" --folds {' '.join(map(str, args.folds))}" if args.folds else ""
    write_report(mean, command, out, scores)
    save_scores(mean, out / SCORES_FILE)
    _say(f"{mean.name}: clean {mean.accuracy:.1%}, 10 dB {mean.at(10):.1%}")
    _say(f"report: {out / 'report.md'}")


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
        _say,
        layout=args.layout,
        others=args.others,
        clips_per_class=None if args.measure else numbers[0],
        seed=args.seed,
    )
    clips = few.material.clips
    if args.measure:
        strangers = load_distractors(args.strangers, clips, args.work)
        measure(few, numbers, args.seeds, strangers, _say)
        return
    import numpy as np

    head = fit_head(few.material, np.ones(len(clips), np.bool_), args.seed)
    command += [] if numbers[0] is None else [f"--clips-per-class {numbers[0]}"]
    write_few_shot(few, origin, head, " ".join(command), args.out)
    _say(f"wrote {args.out}; run it with: streamcls run --model {args.out}")


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
        _parse_overrides(args.set),
        args.softening,
    )
    run = args.run_folder or args.work / f"distill-{args.out.stem}"
    distill(plan, teacher, run, args.out, args.work, _say)


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
    _say(f"wrote {args.out}")


def _synth(args: argparse.Namespace) -> None:
    from train.synth import render_words

    n = render_words(args.words, args.renderings, args.out)
    _say(f"rendered {n} clips into {args.out}")


def _data_check(args: argparse.Namespace) -> int:
    import msgspec

    from train.data.check import check_folder, format_result

    result = check_folder(args.folder, args.layout)
    if args.json:
        _say(msgspec.json.format(msgspec.json.encode(result), indent=1).decode())
    else:
        _say(format_result(result))
    return 1 if result.problems else 0


def _data_manifest(args: argparse.Namespace) -> None:
    from train.data import write_manifest
    from train.data.layouts import read_folder

    listing = read_folder(args.folder, args.layout)
    out = args.folder / "manifest.csv" if args.out is None else args.out
    if out.exists():
        raise DataError(f"{out} exists; name another file with --out, or remove it")
    write_manifest(listing.rows, out)
    for note in listing.notes:
        _say(f"note: {note}")
    _say(f"wrote {len(listing.rows)} clips in layout {listing.layout} to {out}")


def _recipes(_: argparse.Namespace) -> None:
    from train.recipes import load_recipe, recipe_names

    for name in recipe_names():
        _say(f"{name:12s} {load_recipe(name).title}")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        "python -m train", description="Train and measure classifiers."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    places = argparse.ArgumentParser(add_help=False)
    places.add_argument(
        "--data",
        type=Path,
        help=f"folder of the data sets (default: $STREAMCLS_DATA or {DEFAULT_DATA}); without a "
        f"recipe, the one folder of clips to train on",
    )
    places.add_argument(
        "--work", type=Path, default=Path("runs"), help="folder for caches and runs (default: runs)"
    )
    settings = argparse.ArgumentParser(add_help=False)
    settings.add_argument(
        "recipe",
        nargs="?",
        help="name of a recipe ('recipes' lists them); none: made for the folder --data",
    )
    settings.add_argument("--layout", help="how that folder is laid out (default: recognised)")
    settings.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting"
    )
    settings.add_argument("--out", type=Path, help="folder for the results")
    settings.add_argument(
        "--from", dest="origin", metavar="MODEL",
        help="begin from the weights of this model (name or file), with its network and front end",
    )  # fmt: skip
    settings.add_argument("--freeze", action="store_true", help="with --from: train the head only")
    settings.add_argument("--no-synth", action="store_true", help="train without synthetic voices")

    fit = commands.add_parser("fit", parents=[settings, places], help="train, or resume a training")
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

    measure = commands.add_parser(
        "evaluate", parents=[places], help="measure a run or a checkpoint"
    )
    measure.add_argument("model", help="a run's folder, a checkpoint file or a shipped name")
    measure.add_argument("--clips", type=Path, help="folder with manifest.csv to measure on")
    measure.add_argument("--out", type=Path, help="folder for the report")
    measure.set_defaults(run=_evaluate)

    stream = commands.add_parser(
        "evaluate-stream",
        parents=[places],
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

    cross = commands.add_parser(
        "cross-validate", parents=[settings, places], help="train and measure every fold"
    )
    cross.add_argument("--folds", type=int, nargs="+", help="only these folds")
    cross.set_defaults(run=_cross_validate)

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

    export = commands.add_parser("export", help="write a run's model as a file to ship")
    export.add_argument("run_folder", type=Path, metavar="RUN")
    export.add_argument("--out", type=Path, required=True, metavar="FILE")
    export.add_argument("--scores", type=Path, help="scores.json to put into the header")
    export.add_argument(
        "--stream", type=Path, help="stream.json whose thresholds to put into the header"
    )
    export.set_defaults(run=_export)

    synth = commands.add_parser("synth", help="render words with synthetic voices")
    synth.add_argument("words", nargs="+")
    synth.add_argument("--out", type=Path, required=True)
    synth.add_argument("--renderings", type=int, default=60, help="clips per word (default: 60)")
    synth.set_defaults(run=_synth)

    data = commands.add_parser("data", help="look into a folder of clips")
    deeds = data.add_subparsers(required=True, metavar="COMMAND")
    folder = argparse.ArgumentParser(add_help=False)
    folder.add_argument("folder", type=Path, metavar="DIR", help="folder of the data set")
    folder.add_argument("--layout", help="how it is laid out (default: recognised)")
    check = deeds.add_parser(
        "check", parents=[folder], help="say what is wrong with it; status 1 if something is"
    )
    check.add_argument("--json", action="store_true", help="print everything as JSON")
    check.set_defaults(run=_data_check)
    manifest = deeds.add_parser(
        "manifest", parents=[folder], help="write its clips as manifest.csv, to edit"
    )
    manifest.add_argument("--out", type=Path, help="file to write (default: DIR/manifest.csv)")
    manifest.set_defaults(run=_data_manifest)

    recipes = commands.add_parser("recipes", help="list the recipes")
    recipes.set_defaults(run=_recipes)
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


if __name__ == "__main__":
    sys.exit(main())
