"""Low-pass of the scores that does not depend on how often they are sampled.

Owned by the detector of one stream.
"""

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]


class Smoother:
    """First-order low-pass with one time constant per track.

    The score is taken to run straight from one prediction to the next and the filter's response
    to that line is exact, so that a slower hop gives the same values at the common times. (The
    usual ``y += a * (x - y)`` takes the score for a staircase and lags by half a hop more.)

    Args:
        time_constants_s: ``[tracks]``; 0 passes the score through.
    """

    def __init__(self, time_constants_s: Scores):
        self._time_constants_s = time_constants_s
        self._interval_s = -1.0
        self._decay = self._old = self._new = np.zeros_like(time_constants_s)
        self._input: Scores | None = None
        self._output = np.zeros_like(time_constants_s)
        self._active = bool((time_constants_s > 0).any())

    def reset(self) -> None:
        """Forget everything; the next score is taken as it is."""
        self._input = None

    def smooth(self, scores: Scores, interval_s: float) -> Scores:
        """Return the smoothed ``[tracks]`` scores; ``interval_s`` after the previous ones."""
        if not self._active:
            return scores
        if self._input is None:
            self._output = scores
        else:
            if interval_s != self._interval_s:
                self._prepare(interval_s)
            self._output = self._decay * self._output + self._old * self._input + self._new * scores
        self._input = scores
        return self._output

    def _prepare(self, interval_s: float) -> None:
        # y' = (x - y) / tau over a straight x, solved for the end of the interval.
        constants = np.maximum(self._time_constants_s, np.finfo(float).tiny)
        self._decay = np.exp(-interval_s / constants)
        ramp = (1 - self._decay) * constants / interval_s
        self._old = ramp - self._decay
        self._new = 1 - ramp
        self._interval_s = interval_s
