"""From the stages' records to wire messages. Runs in the publisher thread."""

import math
import time
from dataclasses import dataclass

import numpy as np

from streamcls.errors import PublishError
from streamcls.publish.schema import (
    DataMessage,
    EventMessage,
    HealthMessage,
    PredictionMessage,
    RejectedMessage,
    check_label,
)
from streamcls.types import Event, FloatArray, Health, Prediction, Rejection

Record = Prediction | Event | Health | Rejection
_FEW_CLASSES = 64
"""Up to here sorting in Python is quicker than NumPy's calls (9 instead of 21 us for 12)."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a posterior's numbers mean: the model's name and its labels in class order.

    Raises:
        PublishError: A label cannot be published or appears twice.
    """

    model: str
    labels: tuple[str, ...]

    def __post_init__(self):
        for label in self.labels:
            check_label(label)
        if len(set(self.labels)) != len(self.labels):
            twice = next(label for label in self.labels if self.labels.count(label) > 1)
            raise PublishError(
                f"label {twice!r} appears more than once in model {self.model!r}; "
                "labels must be unique: rename one of the classes"
            )


def top_scores(probabilities: FloatArray, labels: tuple[str, ...], top_k: int) -> dict[str, float]:
    """Return the ``top_k`` most probable labels, best first; all of them when ``top_k`` is 0.

    Values are rounded (`round_score`): more digits than any model means, and short as text.

    Args:
        probabilities: ``[classes]`` float32 in [0, 1].
        labels: One per class.
        top_k: How many to keep.

    Raises:
        ValueError: A probability is NaN or infinite.

    Example:
        >>> top_scores(np.array([0.1, 0.7, 0.2], np.float32), ("a", "b", "c"), 2)
        {'b': 0.7, 'c': 0.2}
    """
    classes = len(labels)
    if classes <= _FEW_CLASSES:
        return _top_of_few(probabilities.tolist(), labels, top_k)
    if not np.isfinite(probabilities).all():
        raise ValueError("a probability is not finite")
    if 0 < top_k < classes:
        # Partition first: sorting all of 521 classes for 10 is most of the work on small CPUs.
        best = np.argpartition(probabilities, classes - top_k)[classes - top_k :]
        order = best[np.argsort(-probabilities[best])]
    else:
        order = np.argsort(-probabilities, kind="stable")
    kept = zip(order.tolist(), probabilities[order].tolist(), strict=True)
    return {labels[index]: round_score(value) for index, value in kept}


def _top_of_few(
    probabilities: list[float], labels: tuple[str, ...], top_k: int
) -> dict[str, float]:
    """Do the same without NumPy, whose calls cost more than sorting so little."""
    if not math.isfinite(sum(probabilities)):
        raise ValueError("a probability is not finite")
    order = sorted(range(len(labels)), key=probabilities.__getitem__, reverse=True)
    best = order[: top_k or None]
    return {labels[index]: round_score(probabilities[index]) for index in best}


def round_score(score: float) -> float:
    """Return a probability as it is published, with 6 significant digits."""
    return float(f"{score:.6g}")


def _check_score(score: float) -> float:
    if not math.isfinite(score):
        raise ValueError("a probability is not finite")
    # A mean of many ones may come out a little above one.
    return min(max(round_score(score), 0.0), 1.0)


def wire_message(
    record: Record, vocabulary: Vocabulary, top_k: int, run: str, seq: int
) -> DataMessage:
    """Return the wire message of any record.

    Args:
        record: From a stage.
        vocabulary: Of predictions; the others do not need it.
        top_k: Scores in a prediction; 0 for all.
        run: Id of this daemon start.
        seq: Place in its sequence.

    Raises:
        ValueError: A probability is NaN or infinite.
    """
    match record:
        case Prediction():
            return prediction_message(record, vocabulary, top_k, run, seq)
        case Event():
            return event_message(record, run, seq)
        case Rejection():
            return rejected_message(record, run, seq)
        case Health():
            return health_message(record, run, seq)


def prediction_message(
    record: Prediction, vocabulary: Vocabulary, top_k: int, run: str, seq: int
) -> PredictionMessage:
    """Return the wire message of one prediction.

    Raises:
        ValueError: A probability is NaN or infinite.
    """
    return PredictionMessage(
        run=run,
        stream=record.stream,
        seq=seq,
        published_ns=time.time_ns(),
        model=vocabulary.model,
        epoch=record.epoch,
        sample_start=record.sample_start,
        sample_end=record.sample_end,
        sample_rate_hz=record.sample_rate_hz,
        t_start_ns=record.t_start_ns,
        t_end_ns=record.t_end_ns,
        level_dbfs=round(record.level_dbfs, 2),
        flags=tuple([flag.value for flag in record.flags]),
        scores=top_scores(record.probabilities, vocabulary.labels, top_k),
    )


def health_message(record: Health, run: str, seq: int) -> HealthMessage:
    """Return the wire message of one health record."""
    return HealthMessage(
        run=run,
        stream=record.stream,
        seq=seq,
        published_ns=time.time_ns(),
        state=record.state.value,
        dropped_samples=record.dropped_samples,
        xruns=record.xruns,
        overruns=record.overruns,
        # A file name in it may hold bytes that are no UTF-8 (surrogates in Python).
        reason=record.reason.encode(errors="replace").decode(),
        captured_samples=record.captured_samples,
        nonfinite_samples=record.nonfinite_samples,
        drift_ppm=None if record.drift_ppm is None else round(record.drift_ppm, 1),
    )


def event_message(record: Event, run: str, seq: int) -> EventMessage:
    """Return the wire message of one event record.

    Raises:
        ValueError: A score is NaN or infinite.
    """
    return EventMessage(
        run=run,
        stream=record.stream,
        seq=seq,
        published_ns=time.time_ns(),
        id=record.id,
        state=record.state.value,
        label=record.label,
        onset_ns=record.onset_ns,
        offset_ns=record.offset_ns,
        peak_score=_check_score(record.peak_score),
        mean_score=_check_score(record.mean_score),
        reason=record.reason,
    )


def rejected_message(record: Rejection, run: str, seq: int) -> RejectedMessage:
    """Return the wire message of one detection that was held back.

    Raises:
        ValueError: A score is NaN or infinite.
    """
    return RejectedMessage(
        run=run,
        stream=record.stream,
        seq=seq,
        published_ns=time.time_ns(),
        label=record.label,
        reason=record.reason,
        detail=record.detail,
        onset_ns=record.onset_ns,
        offset_ns=record.offset_ns,
        peak_score=_check_score(record.peak_score),
        threshold=_check_score(record.threshold),
    )
