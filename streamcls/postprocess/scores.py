"""From a posterior to the scores of the tracks, and which of them stand out.

Two ways with the same result: `ArrayReader` for everything, `ListReader` for few tracks that are
neither grouped nor smoothed. The detector of one stream owns one.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np

from streamcls.postprocess.rules import TrackRules
from streamcls.postprocess.smoothing import Scores, Smoother
from streamcls.types import FloatArray
from streamcls.units import NS_PER_S

_FEW_TRACKS = 32
"""Up to here comparing one by one is quicker than NumPy's calls (1.3 instead of 4 us for 10)."""
S = TypeVar("S")


class ScoreReader(ABC, Generic[S]):
    """Holds the scores of all tracks as an ``S``, which only needs an index to get a track's."""

    @abstractmethod
    def read(self, probabilities: FloatArray) -> S | None:
        """Return the probability of every track; None when one is not finite."""

    def begin(self, scores: S) -> S:
        """Return the first scores of an epoch, smoothed if they are to be."""
        return scores

    def smooth(self, scores: S, interval_s: float) -> S:
        """Return the scores ``interval_s`` after the previous ones, smoothed if they are to be."""
        del interval_s
        return scores

    @abstractmethod
    def find_loud(self, scores: S) -> list[int]:
        """Return the tracks that must be followed whatever they did before, in order."""


class ArrayReader(ScoreReader[Scores]):
    """Scores as an array ``[tracks]`` float64.

    Args:
        rules: Of the tracks.
        sum_groups: The probabilities of a group's classes add up; else the largest counts.

    Attributes:
        watch_from: ``[tracks]``, the score from which on a track must be followed.
    """

    def __init__(self, rules: Sequence[TrackRules], sum_groups: bool):
        sizes = [len(one.members) for one in rules]
        self._members = np.array([i for one in rules for i in one.members], np.intp)
        self._first_members = np.cumsum([0, *sizes[:-1]], dtype=np.intp)
        self._grouped = any(size > 1 for size in sizes)
        self._sum_groups = sum_groups
        self._smoother = Smoother(np.array([one.smoothing_ns for one in rules]) / NS_PER_S)
        self.watch_from = np.array([one.near_threshold for one in rules])

    def read(self, probabilities: FloatArray) -> Scores | None:
        """Combine the probabilities of each track's classes."""
        scores = probabilities.astype(np.float64)[self._members]
        if self._grouped and self._sum_groups:
            scores = np.minimum(np.add.reduceat(scores, self._first_members), 1.0)
        elif self._grouped:
            scores = np.maximum.reduceat(scores, self._first_members)
        return scores if math.isfinite(scores.sum()) else None

    def begin(self, scores: Scores) -> Scores:
        """Start the low-pass anew."""
        self._smoother.reset()
        return self._smoother.smooth(scores, 0.0)

    def smooth(self, scores: Scores, interval_s: float) -> Scores:
        """Take the scores through the low-pass."""
        return self._smoother.smooth(scores, interval_s)

    def find_loud(self, scores: Scores) -> list[int]:
        """Compare every score with its limit."""
        return (scores >= self.watch_from).nonzero()[0].tolist()


class ListReader(ScoreReader[list[float]]):
    """Scores as a list.

    Args:
        rules: Of the tracks, which it must suit.
    """

    @staticmethod
    def suits(rules: Sequence[TrackRules]) -> bool:
        """Tell whether the tracks are few, of one class each, and not smoothed."""
        return len(rules) <= _FEW_TRACKS and all(
            len(one.members) == 1 and one.smoothing_ns == 0 for one in rules
        )

    def __init__(self, rules: Sequence[TrackRules]):
        self._members = [one.members[0] for one in rules]
        self._watch_from = [one.near_threshold for one in rules]
        self._lowest_watched = min(self._watch_from, default=math.inf)

    def read(self, probabilities: FloatArray) -> list[float] | None:
        """Pick the probability of each track's class."""
        values = probabilities.tolist()
        scores = [values[index] for index in self._members]
        return scores if math.isfinite(sum(scores)) else None

    def find_loud(self, scores: list[float]) -> list[int]:
        """Compare every score with its limit, if any can reach one."""
        if max(scores, default=0.0) < self._lowest_watched:
            return []
        pairs = zip(scores, self._watch_from, strict=True)
        return [index for index, (score, lowest) in enumerate(pairs) if score >= lowest]
