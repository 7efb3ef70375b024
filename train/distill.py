"""A small model that learns another's scores on audio that nobody has labelled.

``python -m train distill``. The teacher hears every window of the audio once, clean; its scores,
softened by a temperature, are what the student learns to give for the same window, augmented. So
the student is trained by `train.loop` like any other, with soft targets instead of labels: it
resumes, averages and writes snapshots in the same way.

References:
    Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", arXiv 1503.02531.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from train.augment import Augment
from train.data import Clips, ManifestRow, Source, centre_in_windows, lay_end_to_end
from train.data.cache import decode_once
from train.data.decode import AUDIO_SUFFIXES
from train.embedding import cut_audible
from train.errors import DataError, RecipeError, RunError
from train.evaluate import Classify
from train.export import write_model
from train.loop import fit
from train.recipes import Recipe, apply_overrides
from train.transfer import Origin

DISTILL_FILE = "distill.json"
_LEAST = 1e-6
"""No class is quite impossible: each has to have something to be drawn by."""


class DistillPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a distillation was asked to do; stored as ``distill.json``."""

    teacher: str
    teacher_sha256: str
    folder: str
    overrides: dict[str, str]
    softening: float

    def describe(self) -> str:
        """Return the command that repeats it."""
        parts = [f"python -m train distill --teacher {self.teacher} --data {self.folder}"]
        parts += [f"--set {key}={value}" for key, value in self.overrides.items()]
        return " ".join([*parts, f"--softening {self.softening:g}"])


def recipe_for_student(teacher: Origin, name: str, overrides: dict[str, str]) -> Recipe:
    """Return how a student is trained: the teacher's front end and labels, a small network.

    Raises:
        RecipeError: If ``overrides`` are wrong, or ask for other labels or another sample rate.
    """
    header = teacher.checkpoint.header
    for key in ("labels", "task", "unknown", "silence"):
        if key in overrides:
            raise RecipeError(f"--set {key}={overrides[key]}: a student has its teacher's; drop it")
    recipe = Recipe(
        name=name,
        title=f"{header.description}; a student of {header.name}",
        labels=tuple(header.labels),
        unknown=None,
        silence=None,
        sources=(),
        task=header.task,
        front_end=teacher.checkpoint.front_end,
        architecture="tc_resnet_8",
        augment=Augment(
            # Nothing that changes what the teacher would have said.
            cut_probability=0.0,
            trim_probability=0.0,
            mixup_probability=0.0,
            babble_probability=0.0,
            noise_clip_probability=0.0,
            speed_range=0.05,
            noise_probability=0.5,
            snr_min_db=5.0,
        ),
        label_smoothing=0.0,
        word_weight=0.0,
        licence=f"learnt from the scores of {header.name}: {header.licence}",
    )
    recipe = apply_overrides(recipe, overrides)
    rate_hz = teacher.checkpoint.front_end.sample_rate_hz
    if recipe.front_end.sample_rate_hz != rate_hz:
        raise RecipeError(
            f"front_end.sample_rate_hz = {recipe.front_end.sample_rate_hz}: must be {rate_hz}, "
            f"that of the teacher {header.name}"
        )
    return recipe


def load_unlabelled(folder: Path, teacher: Origin, work: Path) -> Clips:
    """Load every audio file below a folder, cut into windows that the teacher can hear.

    Raises:
        DataError: If there is none, or one cannot be decoded.
    """
    if not folder.is_dir():
        raise DataError(f"cannot read {folder}: no such folder; name one with --data")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)
    rows = [ManifestRow(p.relative_to(folder).as_posix(), "", "", p.stem) for p in files]
    if not rows:
        raise DataError(f"{folder}: no audio file below it ({', '.join(sorted(AUDIO_SUFFIXES))})")
    front_end, labels = teacher.checkpoint.front_end, tuple(teacher.checkpoint.header.labels)
    audio, length, active = decode_once(folder, rows, front_end.sample_rate_hz, work / "cache")
    n = len(rows)
    nothing = np.zeros(n, np.int32)
    group = np.array([f"{folder.name}/{row.path}" for row in rows], np.str_)
    clips = Clips(
        audio=audio,
        start=lay_end_to_end(length),
        length=length,
        active=active,
        label=nothing,
        targets=np.zeros((n, len(labels)), np.bool_),
        word=nothing,
        source=nothing,
        split=np.full(n, "", np.str_),
        group=group,
        path=group,
        labels=labels,
        words=("",),
        sources=(Source(folder.name, str(folder)),),
        sample_rate_hz=front_end.sample_rate_hz,
    )
    pieces, _ = cut_audible(clips, front_end.samples_for(teacher.checkpoint.model.window_frames))
    return pieces


def ask(teacher: Origin, pieces: Clips, softening: float) -> NDArray[np.float32]:
    """Return the teacher's softened scores of every piece, ``[pieces, labels]``.

    Args:
        teacher: Hears each piece centred in its window.
        pieces: From `load_unlabelled`.
        softening: Temperature, on top of the teacher's own; 1 leaves its scores as they are.
    """
    checkpoint = teacher.checkpoint
    soft = msgspec.structs.replace(
        checkpoint.header, temperature=checkpoint.header.temperature * softening
    )
    classify = Classify(replace(checkpoint, header=soft))
    scores = classify(centre_in_windows(pieces, classify.window_samples))
    return np.maximum(scores, _LEAST)


def distill(
    plan: DistillPlan,
    teacher: Origin,
    run: Path,
    out: Path,
    work: Path,
    report: Callable[[str], None],
) -> None:
    """Train a student, or go on where it was left, and write its checkpoint.

    Args:
        plan: What to do.
        teacher: The model that ``plan`` names.
        run: Folder for snapshots.
        out: The checkpoint to write, named after its file.
        work: For caches.
        report: Receives progress lines.

    Raises:
        RunError: If the folder holds another distillation.
    """
    recipe = recipe_for_student(teacher, out.stem, plan.overrides)
    record, text = run / DISTILL_FILE, msgspec.json.format(msgspec.json.encode(plan)) + b"\n"
    if record.exists() and record.read_bytes() != text:
        raise RunError(f"{run} holds another distillation; choose another --run or remove it")
    pieces = load_unlabelled(Path(plan.folder), teacher, work)
    run.mkdir(parents=True, exist_ok=True)
    record.write_bytes(text)
    scores = ask(teacher, pieces, plan.softening)
    report(f"{teacher.name} has heard {len(pieces)} windows of {plan.folder}")
    learnt = replace(
        pieces, targets=cast(Any, scores), label=scores.argmax(axis=1).astype(np.int32)
    )
    # By default every class is drawn as often; here windows are drawn as they come.
    mass = dict(zip(recipe.labels, scores.sum(axis=0).tolist(), strict=True))
    recipe = replace(recipe, class_weight=recipe.class_weight or mass)
    nobody = learnt.take(np.zeros(len(learnt), np.bool_))
    network, params, stats = fit(recipe, learnt, nobody, run, report)
    training = {
        "command": f"{plan.describe()} --out {out}",
        "date": datetime.now(UTC).date().isoformat(),
        "windows": len(pieces),
        "held_out": [],
        "teacher": teacher.lineage(),
    }
    write_model(
        recipe,
        network,
        params,
        stats,
        training,
        out,
        unknown_labels=teacher.checkpoint.header.unknown_labels,
        # Undoes the softening: the student's probabilities then mean what the teacher's do.
        temperature=1 / plan.softening,
    )
    report(f"wrote {out}")
