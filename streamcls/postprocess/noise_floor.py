"""How high each track's score lies when nothing happens, learnt from the stream itself.

Owned by the detector of one stream.
"""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from streamcls.postprocess.settings import NoiseFloorSettings

_BINS = 50
_UPDATE_INTERVAL_S = 1.0
_LARGEST_WEIGHT = 1e6


class NoiseFloor:
    """Running quantile of every track's score, forgetting exponentially.

    A histogram per track, weighted by time, so neither the hop nor the height of an outlier
    matters: sounds that fill less than ``1 - quantile`` of the memory leave the floor where it
    is. After a longer burst the floor is back when the burst's weight has decayed to that share:
    within ``memory_s * ln(1 / (1 - quantile))``, 2.3 memories for 0.9. It starts as if it had
    been quiet for ever.

    Attributes:
        floors: ``[tracks]`` the quantile, rounded down to 1/50.
    """

    def __init__(self, settings: NoiseFloorSettings, n_tracks: int):
        self._settings = settings
        self._histogram = np.zeros((n_tracks, _BINS))
        self._histogram[:, 0] = settings.memory_s
        self._flat = self._histogram.reshape(-1)
        self._rows = np.arange(n_tracks) * _BINS
        self._weight = 1.0
        self._since_update_s = 0.0
        self.floors = np.zeros(n_tracks)

    def learn(
        self, scores: NDArray[np.float64], interval_s: float, sounding: Iterable[int]
    ) -> bool:
        """Take in scores that held for ``interval_s``; tell whether the floors were renewed.

        Args:
            scores: ``[tracks]`` in [0, 1].
            interval_s: Time since the previous scores.
            sounding: Tracks in a detection, whose scores say nothing about the floor.
        """
        # Growing the newcomers' weight instead of shrinking the whole histogram.
        memory_s, before = self._settings.memory_s, self._weight
        self._weight *= math.exp(interval_s / memory_s)
        where = self._rows + np.minimum((scores * _BINS).astype(np.intp), _BINS - 1)
        weights = np.full(len(scores), memory_s * (self._weight - before))
        for track in sounding:
            weights[track] = 0.0
        self._flat[where] += weights
        self._since_update_s += interval_s
        if self._since_update_s < _UPDATE_INTERVAL_S:
            return False
        self._since_update_s = 0.0
        if self._weight > _LARGEST_WEIGHT:
            self._histogram /= self._weight
            self._weight = 1.0
        below = self._histogram.cumsum(axis=1)
        limit = self._settings.quantile * below[:, -1:]
        self.floors = (below < limit).sum(axis=1) / _BINS
        return True
