"""What `train.evaluate` measures: one value, which adds up over folds and is kept as JSON.

Read by `train.report` and `train.export`.
"""

from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from train.data import Task
from train.errors import DataError
from train.metrics import Reliability

SNRS_DB = (20, 10, 5, 0)
NOISES = ("white", "pink", "babble")

Kind = TypeVar("Kind")


class ClassScore(msgspec.Struct, frozen=True):
    """Precision and recall of one class (NaN-free: 0 where undefined)."""

    label: str
    clips: int
    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured on one set of clips."""

    name: str
    groups: list[str]
    """The groups (speakers, recordings) it was measured on."""
    labels: list[str]
    confusion: list[list[int]]
    """Rows: true class; columns: predicted class; clean audio, scored sources only. Empty where
    clips have several labels."""
    accuracy: float
    """Clean, over the scored clips; where they have several labels, the mAP."""
    noisy_accuracy: dict[str, dict[int, float]]
    """Noise kind -> SNR in dB -> the same in noise."""
    passing: dict[str, float] = {}
    """What is heard -> accuracy where clips pass through a stream (see `train.passing`): clean, and
    each kind of noise at 10 dB. Empty for networks that hear windows only, for clips that most
    often need several windows and for several labels."""
    others: dict[str, float]
    """Recall of each class among the clips of sources that are not scored."""
    false_words: float | None
    """Share of unknown and silence clips (all sources) that are taken for a word, clean."""
    temperature: float = 1.0
    """What the logits have to be divided by so that probabilities mean what they say."""
    task: Task = "single-label"
    tallies: dict[str, list[int]] = {}
    """Label -> clips that have it, clips that it was said of, both; clean, scored sources."""
    average_precision: dict[str, float] = {}
    """Label -> area under its precision over recall; labels that occur."""
    auc: dict[str, float] = {}
    """Label -> area under its ROC curve; labels that occur."""
    reliability: Reliability | None = None
    """Confidences as the file gives them."""
    calibrated: Reliability | None = None
    """After temperature scaling; each half of the groups with the temperature of the other."""

    @property
    def headline(self) -> str:
        """What `accuracy` is."""
        return "Accuracy" if self.task == "single-label" else "mAP"

    @property
    def mean_average_precision(self) -> float:
        """Mean over the labels that occur."""
        return float(np.mean(list(self.average_precision.values()) or [0.0]))

    @property
    def mean_auc(self) -> float:
        """Mean over the labels that occur."""
        return float(np.mean(list(self.auc.values()) or [0.0]))

    def at(self, snr_db: int) -> float:
        """Return the accuracy at an SNR, mean over the kinds of noise."""
        return float(np.mean([row[snr_db] for row in self.noisy_accuracy.values()]))

    @property
    def passing_noisy(self) -> float:
        """Accuracy of passing clips at 10 dB, mean over the kinds of noise."""
        return float(np.mean([self.passing[kind] for kind in NOISES]))

    def per_class(self) -> list[ClassScore]:
        """Return precision and recall of every class."""
        return [
            ClassScore(
                label, actual, hits / said if said else 0.0, hits / actual if actual else 0.0
            )
            for label, (actual, said, hits) in self.count_by_label().items()
        ]

    def count_by_label(self) -> dict[str, list[int]]:
        """Return `tallies`, from the confusions in files that were written without."""
        if self.tallies:
            return self.tallies
        table = np.array(self.confusion)
        columns = (table.sum(axis=1), table.sum(axis=0), table.diagonal())
        return dict(zip(self.labels, np.stack(columns, axis=1).tolist(), strict=True))


def pool(scores: Sequence[Scores], name: str) -> Scores:
    """Join the scores of folds: counts add up, rates are means over the folds."""

    def mean(values: Sequence[float]) -> float:
        return float(np.mean(values))

    def mean_by_label(tables: Sequence[dict[str, float]]) -> dict[str, float]:
        return {
            label: mean([table[label] for table in tables if label in table])
            for label in first.labels
            if any(label in table for table in tables)
        }

    def add(parts: Sequence[Reliability | None]) -> Reliability | None:
        present = [part for part in parts if part is not None]
        return reduce(Reliability.__add__, present) if present else None

    first = scores[0]
    false_words = [s.false_words for s in scores if s.false_words is not None]
    return Scores(
        name=name,
        groups=sorted({g for s in scores for g in s.groups}),
        labels=first.labels,
        task=first.task,
        confusion=np.sum([s.confusion for s in scores], axis=0).tolist(),
        tallies={
            label: np.sum([s.count_by_label()[label] for s in scores], axis=0).tolist()
            for label in first.labels
        },
        accuracy=mean([s.accuracy for s in scores]),
        noisy_accuracy={
            kind: {db: mean([s.noisy_accuracy[kind][db] for s in scores]) for db in row}
            for kind, row in first.noisy_accuracy.items()
        },
        passing={
            heard: mean([s.passing[heard] for s in scores])
            for heard in first.passing
            if all(heard in s.passing for s in scores)
        },
        others=mean_by_label([s.others for s in scores]),
        false_words=mean(false_words) if false_words else None,
        temperature=round(float(np.exp(mean([np.log(s.temperature) for s in scores]))), 3),
        average_precision=mean_by_label([s.average_precision for s in scores]),
        auc=mean_by_label([s.auc for s in scores]),
        reliability=add([s.reliability for s in scores]),
        calibrated=add([s.calibrated for s in scores]),
    )


def save_scores(scores: Scores, path: Path) -> None:
    """Write the scores as JSON."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(scores), indent=1) + b"\n")


def read_scores(path: Path, kind: type[Kind]) -> Kind:
    """Read what an evaluation has written.

    Args:
        path: JSON.
        kind: What was written: `Scores`, or `train.stream.evaluation.StreamScores`.

    Raises:
        DataError: If the file is missing or is no such file.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError) as error:
        raise DataError(f"cannot read scores from {path}: {error}") from error
