"""A model from a few clips: another model's trunk as it is, and a new dense layer on top.

``python -m train few-shot``. What is written is an ordinary checkpoint of the origin's
architecture. `measure` tells how good such models are: from few clips of the training side of each
fold, tested on the side that is held out.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import msgspec
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from streamcls.checkpoint import Header, save_checkpoint
from train.data import Clips, spread_windows
from train.embedding import Embedder
from train.errors import DataError, RecipeError
from train.folder import recipe_for_folder
from train.head import Head, Material, embed_material, fit_head
from train.recipes import Recipe
from train.runs import Workspace, load_distractors
from train.split import N_HASH_FOLDS, fold_names, split_fold
from train.transfer import Origin, adopt

_UNKNOWN = "unknown"
_SAID = 0.6
"""Probability from which the daemon reports a class, unless told otherwise."""


class FewShot(NamedTuple):
    """Clips, embedded, with what a header says about them."""

    recipe: Recipe
    material: Material
    embedder: Embedder


class Measured(NamedTuple):
    """Accuracy on held-out clips, by seed; argmax over all labels, "unknown" included."""

    clips_per_class: int | None
    """None: all of the training side."""
    accuracy: NDArray[np.float64]
    """``[seeds]``, mean over the folds."""
    by_fold: NDArray[np.float64]
    """``[folds]``, mean over the seeds."""
    taken_for_known: float
    """Share of the clips of ``--strangers`` that are said to be a class at 0.6 or more."""


def prepare(
    folder: Path,
    origin: Origin,
    work: Path,
    report: Callable[[str], None],
    *,
    layout: str | None = None,
    others: Sequence[Path] = (),
    clips_per_class: int | None = None,
    seed: int = 0,
) -> FewShot:
    """Load and embed a folder of clips.

    Args:
        folder: In any layout of `train.data.layouts`.
        origin: Whose trunk to use.
        work: For caches.
        report: Receives progress lines.
        layout: Of the folder; None recognises it.
        others: Folders of other recordings, which are to be unknown whatever their labels.
        clips_per_class: Use so many only, drawn at random; None: all.
        seed: Of all that is random.

    Raises:
        DataError: If the folder cannot be read.
        RecipeError: If its clips have several labels.
    """
    recipe = adopt(recipe_for_folder(folder, layout), origin, {})
    if recipe.task != "single-label":
        raise RecipeError(
            f"{folder}: its clips have several labels, few-shot gives each clip one; use "
            f"'python -m train fit --data {folder}'"
        )
    if recipe.unknown is None:
        recipe = replace(recipe, labels=(*recipe.labels, _UNKNOWN), unknown=_UNKNOWN)
    clips = Workspace(folder.parent, work).load(recipe, report)
    if clips_per_class is not None:
        everything = np.ones(len(clips), np.bool_)
        clips = clips.take(
            pick_clips(clips, everything, clips_per_class, np.random.default_rng(seed))
        )
    strangers = load_distractors(others, clips, work)
    embedder = Embedder(origin.checkpoint)
    assert recipe.unknown is not None
    material = embed_material(embedder, clips, recipe.unknown, recipe.silence, strangers, seed=seed)
    report(
        f"embedded {len(material.copies.vectors)} windows of {len(clips)} clips and "
        f"{len(material.strangers)} other sounds with the trunk of {origin.name}"
    )
    return FewShot(recipe, material, embedder)


def write_few_shot(few: FewShot, origin: Origin, head: Head, command: str, out: Path) -> None:
    """Write the origin's trunk with the new head as a checkpoint named after its file."""
    clips, recipe = few.material.clips, few.recipe
    model = origin.checkpoint.model
    model.head.dense.kernel = nnx.Param(jnp.asarray(head.kernel))
    model.head.dense.bias = nnx.Param(jnp.asarray(head.bias))
    model.head.dense.out_features = len(recipe.labels)
    header = msgspec.structs.replace(
        origin.checkpoint.header,
        name=out.stem,
        description=f"{recipe.title}, on the trunk of {origin.name}",
        labels=list(recipe.labels),
        unknown_labels=recipe.unknown_labels,
        task="single-label",
        temperature=head.temperature,
        thresholds={},
        licence=recipe.licence,
        training={
            "command": command,
            "date": datetime.now(UTC).date().isoformat(),
            "clips": len(clips),
            "groups": len(set(clips.group.tolist())),
            "held_out": [],
            "from": origin.lineage(),
        },
        metrics={},
        creator=f"streamcls {version('streamcls')}",
    )
    assert isinstance(header, Header)
    save_checkpoint(out, model, header)


def measure(
    few: FewShot,
    clips_per_class: Sequence[int | None],
    seeds: int,
    strangers: Sequence[Clips],
    report: Callable[[str], None],
) -> list[Measured]:
    """Fit and test heads on every fold.

    Args:
        few: From `prepare`, with all clips.
        clips_per_class: How many clips of each class to learn from.
        seeds: How often to draw them.
        strangers: Clips of none of the classes, never learnt from.
        report: Receives a line for each number of clips.
    """
    recipe, clips = few.recipe, few.material.clips
    windows, owner = spread_windows(clips, few.embedder.window_samples)
    heard = few.embedder(windows)
    strange = []
    for one in strangers:
        windows, number = spread_windows(one, few.embedder.window_samples)
        strange.append((few.embedder(windows), number))
    known = [i for i, label in enumerate(recipe.labels) if label not in recipe.unknown_labels]
    n_folds = len(fold_names(clips, recipe.leave_one_out, recipe.fold_by)) or N_HASH_FOLDS
    results = []
    for n in clips_per_class:
        accuracy, taken = np.zeros((seeds, n_folds)), []
        for seed, fold in np.ndindex(seeds, n_folds):
            split = split_fold(clips, fold, recipe.leave_one_out, False, recipe.fold_by)
            if not split.test.any():
                raise DataError(f"fold {fold} of {recipe.name} holds no clip out; add groups")
            chosen = pick_clips(clips, split.train, n, np.random.default_rng([seed, fold]))
            head = fit_head(few.material, chosen, seed)
            guess = head.judge(heard, owner).argmax(axis=1)
            accuracy[seed, fold] = (guess == clips.label)[split.test].mean()
            taken += [(head.judge(v, c)[:, known].max(axis=1) >= _SAID).mean() for v, c in strange]
        result = Measured(
            n, accuracy.mean(axis=1), accuracy.mean(axis=0), float(np.mean(taken or [0.0]))
        )
        results.append(result)
        report(format_row(result, bool(strange)))
    return results


def format_row(result: Measured, strangers: bool) -> str:
    """Return a row of the table in docs/transfer.md."""
    number = "all" if result.clips_per_class is None else str(result.clips_per_class)
    cells = [
        number,
        f"{result.accuracy.mean():.1%} ± {result.accuracy.std():.1%}",
        " ".join(f"{100 * fold:.1f}" for fold in result.by_fold),
    ]
    return (
        "| " + " | ".join([*cells, f"{result.taken_for_known:.0%}"] if strangers else cells) + " |"
    )


def pick_clips(
    clips: Clips, allowed: NDArray[np.bool_], per_class: int | None, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Return a mask of ``per_class`` clips of each label among the allowed (None: all).

    Clips that are made here (silence) are always taken.
    """
    made = np.array([source.train_only for source in clips.sources])[clips.source]
    if per_class is None:
        return allowed | made
    chosen = made.copy()
    for label in range(len(clips.labels)):
        own = np.flatnonzero(allowed & ~made & (clips.label == label))
        chosen[rng.permutation(own)[:per_class]] = True
    return chosen
