"""A training as a folder: what was asked, the clips it implies, and the model that came out.

Used by the commands of ``python -m train``. ``run.json`` records recipe, overrides and what is
held out; with it a run is resumed, evaluated and exported without repeating flags.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from streamcls.atomic import write_whole
from streamcls.checkpoint import load_checkpoint
from train.data import Clips, Source, load_clips
from train.errors import DataError, RunError
from train.evaluate import evaluate
from train.export import MODEL_FILE, write_model
from train.folder import SILENCE_FOLDER, make_silence, recipe_for_folder
from train.loop import SAVE_EVERY, fit
from train.parallel import leader_first, leads
from train.recipes import Recipe, apply_overrides, load_recipe
from train.report import write_report
from train.scores import Scores, save_scores
from train.split import (
    Split,
    count_shared_groups,
    split_all,
    split_fold,
    split_hold_out,
    split_official,
)
from train.synth import render_words
from train.transfer import Origin, adopt, read_origin

RUN_FILE = "run.json"
SCORES_FILE = "scores.json"


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a training was asked to do; stored as ``run.json``."""

    recipe: str | None
    """None for a folder of clips without one."""
    overrides: dict[str, str] = {}
    fold: int | None = None
    """Hold out this fold of the recipe."""
    hold_out: list[str] = []
    """Hold out these groups instead."""
    official: bool = False
    """Hold out what the data sets themselves call test."""
    shared_groups: bool = False
    """Accept groups on several sides of that split."""
    folder: str | None = None
    """The folder of clips, where there is no recipe."""
    layout: str | None = None
    """How that folder is laid out; None recognises it."""
    synthetic: bool = True
    """Train on rendered speakers too."""
    origin: str | None = msgspec.field(default=None, name="from")
    """Model to begin from, a name or a path."""
    origin_sha256: str | None = msgspec.field(default=None, name="from_sha256")
    """Of its file."""
    freeze: bool = False
    """Leave its trunk as it is."""

    def load_recipe(self, origin: Origin | None = None) -> Recipe:
        """Return the recipe with everything asked for applied.

        Args:
            origin: From `load_origin`, if it is loaded already.
        """
        if self.folder is not None:
            recipe = apply_overrides(
                recipe_for_folder(Path(self.folder), self.layout), self.overrides
            )
        else:
            recipe = load_recipe(self.recipe or "", self.overrides)
        origin = origin or self.load_origin()
        if origin is not None:
            recipe = adopt(recipe, origin, self.overrides, self.freeze)
        return recipe if self.synthetic else recipe.without_synthesis()

    def load_origin(self) -> Origin | None:
        """Return the model to begin from, None if there is none.

        Raises:
            RunError: If its file is not the one that the plan was made with.
        """
        if self.origin is None:
            return None
        origin = read_origin(self.origin)
        if origin.sha256 != self.origin_sha256:
            raise RunError(
                f"--from {self.origin} has SHA-256 {origin.sha256}, this training began from "
                f"{self.origin_sha256}; bring that file back, or start again with another --out"
            )
        return origin

    def describe(self) -> str:
        """Return the command that repeats it."""
        parts = ["python -m train fit", *self.describe_subject()]
        parts += [f"--set {key}={value}" for key, value in self.overrides.items()]
        if self.fold is not None:
            parts.append(f"--fold {self.fold}")
        parts += [f"--hold-out {group}" for group in self.hold_out]
        parts += ["--official"] if self.official else []
        parts += ["--shared-groups"] if self.shared_groups else []
        parts += [] if self.synthetic else ["--no-synth"]
        parts += [] if self.origin is None else [f"--from {self.origin}"]
        parts += ["--freeze"] if self.freeze else []
        return " ".join(parts)

    def describe_subject(self) -> list[str]:
        """Return the arguments that name what is trained."""
        if self.folder is None:
            return [self.recipe or ""]
        layout = [] if self.layout is None else [f"--layout {self.layout}"]
        return [f"--data {self.folder}", *layout]


@dataclass(frozen=True)
class Workspace:
    """Where things are: data sets, and the folder for caches and rendered speech."""

    data: Path
    work: Path

    def load(self, recipe: Recipe, report: Callable[[str], None]) -> Clips:
        """Render what the recipe wants rendered, then load all its clips."""
        for synthesis in recipe.synthesis:
            folder = self.work / synthesis.folder
            n = render_words(synthesis.words, synthesis.renderings, folder)
            if n:
                report(f"rendered {n} synthetic clips into {folder}")
        if any(source.folder == SILENCE_FOLDER for source in recipe.sources):
            make_silence(self.work / SILENCE_FOLDER)
        rate_hz = recipe.front_end.sample_rate_hz
        return load_clips(recipe.sources, recipe.labels, rate_hz, self.data, self.work, recipe.task)


def _say_nothing(line: str) -> None:
    del line


def choose_split(plan: Plan, recipe: Recipe, clips: Clips) -> Split:
    """Return the split a plan asks for; without fold or groups everything is trained on."""
    if plan.official:
        return split_official(clips, plan.shared_groups)
    if plan.hold_out:
        return split_hold_out(clips, plan.hold_out)
    if plan.fold is not None:
        return split_fold(clips, plan.fold, recipe.leave_one_out, recipe.validate, recipe.fold_by)
    return split_all(clips)


def read_plan(run: Path) -> Plan:
    """Read a run's plan.

    Raises:
        RunError: If the folder is no run.
    """
    path = run / RUN_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Plan)
    except OSError as error:
        raise RunError(
            f"{run} is no run: cannot read {RUN_FILE} ({error.strerror}); make one with "
            f"'python -m train fit RECIPE --out {run}'"
        ) from error
    except msgspec.DecodeError as error:
        raise RunError(f"{path}: damaged ({error}); start again with another --out") from error


def train_run(
    plan: Plan,
    run: Path,
    workspace: Workspace,
    report: Callable[[str], None],
    clips: Clips | None = None,
    *,
    save_every: int = SAVE_EVERY,
    tensorboard: bool = False,
) -> None:
    """Carry out a plan in a folder, or go on where it was left.

    Of several processes (`train.parallel`) all call this with the same arguments.

    Args:
        plan: What to do.
        run: The run's folder.
        workspace: Where data lies.
        report: Receives progress lines.
        clips: The recipe's clips if they are loaded already.
        save_every: Steps between snapshots within an epoch.
        tensorboard: Write events for TensorBoard into the run's folder.

    Raises:
        RunError: If the folder holds another plan.
    """
    origin = plan.load_origin()
    recipe = plan.load_recipe(origin)
    report = report if leads() else _say_nothing
    run.mkdir(parents=True, exist_ok=True)
    if (run / RUN_FILE).exists():
        found = read_plan(run)
        if found != plan:
            raise RunError(
                f"{run} holds another training ({found.describe()}); choose another --out "
                f"or remove it"
            )
    elif leads():
        write_whole(run / RUN_FILE, msgspec.json.format(msgspec.json.encode(plan)) + b"\n")
    clips = clips or leader_first(lambda: workspace.load(recipe, report))
    split = choose_split(plan, recipe, clips)
    train = clips.take(split.train)
    report(
        f"{recipe.name}: {int(split.train.sum())} clips to train on, "
        f"{int(split.validation.sum())} to validate, {int(split.test.sum())} held out"
    )
    network, params, stats = fit(
        recipe,
        train,
        clips.take(split.validation),
        run,
        report,
        save_every=save_every,
        tensorboard=tensorboard,
        origin=origin,
    )
    if not leads():
        return
    training: dict[str, Any] = {
        "command": plan.describe(),
        "date": datetime.now(UTC).date().isoformat(),
        "clips": int(split.train.sum()),
        "groups": len(set(train.group.tolist())),
        "held_out": sorted(set(clips.group[split.test].tolist()))[:50],
    }
    if origin is not None:
        training["from"] = origin.lineage()
    write_model(recipe, network, params, stats, training, run / MODEL_FILE)
    report(f"wrote {run / MODEL_FILE}")


def _load_recorded(recipe: Recipe, workspace: Workspace) -> Clips:
    """Load what can be held out: nothing rendered is."""
    return workspace.load(recipe.without_synthesis(), _say_nothing)


def evaluate_run(run: Path, workspace: Workspace, clips: Clips | None = None) -> Scores:
    """Measure a run's model on what it held out; write scores and report into its folder.

    Raises:
        RunError: If the run is not finished.
        DataError: If it held nothing out.
    """
    plan = read_plan(run)
    recipe = plan.load_recipe()
    if not (run / MODEL_FILE).is_file():
        raise RunError(f"{run} has no {MODEL_FILE}; finish it with '{plan.describe()}'")
    clips = clips or _load_recorded(recipe, workspace)
    split = choose_split(plan, recipe, clips)
    if not split.test.any():
        raise DataError(
            f"{run} was trained on everything, nothing is left to evaluate on; use "
            f"'cross-validate {' '.join(plan.describe_subject())}', or --clips FOLDER with other "
            f"recordings"
        )
    name = f"{recipe.name}, fold {plan.fold}" if plan.fold is not None else recipe.name
    if shared := count_shared_groups(clips, split):
        name += f", official split with {shared} groups on both sides"
    scores = evaluate(load_checkpoint(run / MODEL_FILE), clips.take(split.test), name)
    save_scores(scores, run / SCORES_FILE)
    write_report(scores, f"{plan.describe()} --out {run} && python -m train evaluate {run}", run)
    return scores


def held_out_clips(run: Path, workspace: Workspace) -> tuple[Clips, str]:
    """Return what a run held out, and a sentence that says what it is.

    Raises:
        DataError: If it held nothing out.
    """
    plan = read_plan(run)
    recipe = plan.load_recipe()
    clips = _load_recorded(recipe, workspace)
    test = clips.take(choose_split(plan, recipe, clips).test)
    if not len(test):
        raise DataError(
            f"{run} was trained on everything, nothing is left to make scenes of; hold "
            f"something out with --fold, or give --clips FOLDER with other recordings"
        )
    groups = len(set(test.group.tolist()))
    return test, (
        f"{len(test)} clips of {groups} speakers and recordings that this model was not trained on "
        f"(`{plan.describe()}`)"
    )


def load_distractors(folders: Sequence[Path], like: Clips, work: Path) -> list[Clips]:
    """Load folders of clips that a model should not report, whatever their labels.

    Args:
        folders: In any layout.
        like: Whose labels and rate they are given; they get none of the labels.
        work: For the cache.
    """
    loaded = []
    for folder in folders:
        source = Source(
            folder.resolve().name, str(folder.resolve()), relabel=lambda _: like.labels[0]
        )
        clips = load_clips([source], like.labels, like.sample_rate_hz, Path(), work)
        loaded.append(replace(clips, targets=np.zeros_like(clips.targets)))
    return loaded


def is_finished(run: Path) -> bool:
    """Return whether a run has both a model and scores."""
    return (run / MODEL_FILE).is_file() and (run / SCORES_FILE).is_file()
