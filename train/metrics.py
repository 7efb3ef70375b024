"""Numbers from probabilities and truth: ranking, calibration. Arrays in, floats out.

Used by `train.evaluate`; nothing here knows of clips or models.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

N_BINS = 15


def average_precision(truth: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """Return the area under precision over recall, by steps; NaN without a positive.

    Args:
        truth: ``[n]``, which are positive.
        scores: ``[n]``, higher means likelier.

    Example:
        >>> average_precision(np.array([True, False, True]), np.array([0.9, 0.8, 0.7]))
        0.8333333333333333
    """
    if not truth.any():
        return float("nan")
    hits, said = _cumulate(truth, scores)
    recall_steps = np.diff(hits, prepend=0) / truth.sum()
    return float(np.sum(recall_steps * hits / said))


def area_under_roc(truth: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """Return the chance that a positive scores above a negative; NaN without both.

    Example:
        >>> area_under_roc(np.array([True, False, True]), np.array([0.9, 0.8, 0.7]))
        0.5
    """
    if truth.all() or not truth.any():
        return float("nan")
    hits, said = _cumulate(truth, scores)
    found = np.concatenate([[0], hits]) / truth.sum()
    false = np.concatenate([[0], said - hits]) / (~truth).sum()
    return float(np.trapezoid(found, false))


def _cumulate(
    truth: NDArray[np.bool_], scores: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (positives, all) that score at least each different value, from the highest."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.diff(scores[order], append=-np.inf))
    return np.cumsum(truth[order])[last].astype(np.float64), (last + 1).astype(np.float64)


class Reliability(msgspec.Struct, frozen=True):
    """How often what was said with some confidence was true, in bins of equal width."""

    counts: list[int]
    confidence: list[float]
    """Sum of the confidences in each bin."""
    hits: list[int]

    @property
    def ece(self) -> float:
        """Expected calibration error: mean gap between confidence and truth."""
        gaps = np.abs(np.array(self.confidence) - np.array(self.hits))
        return float(gaps.sum() / max(1, sum(self.counts)))

    def __add__(self, other: "Reliability") -> "Reliability":
        """Put the answers of both into the same bins."""
        return Reliability(
            np.add(self.counts, other.counts).tolist(),
            np.add(self.confidence, other.confidence).tolist(),
            np.add(self.hits, other.hits).tolist(),
        )


def measure_reliability(
    confidence: NDArray[np.floating], hit: NDArray[np.bool_], n_bins: int = N_BINS
) -> Reliability:
    """Sort what was said into bins by its confidence.

    Args:
        confidence: ``[n]`` in [0, 1].
        hit: ``[n]``, whether it was true.
        n_bins: Bins of equal width.

    References:
        Guo et al., "On calibration of modern neural networks", arXiv 1706.04599.
    """
    index = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    sums = np.bincount(index, confidence, n_bins)
    return Reliability(
        np.bincount(index, minlength=n_bins).tolist(),
        [round(float(s), 4) for s in sums],
        np.bincount(index, hit, n_bins).astype(int).tolist(),
    )
