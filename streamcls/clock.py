"""The time of a sample: maps absolute sample indices to UTC by the source's own clock.

Sits beside the ring: the capture thread feeds it one observation a block, any thread may ask
for times. Two steps lie between a sample count and UTC:

* *count to monotonic time*: observations are noisy (a busy machine hands blocks over late, sound
  servers guess their latency), so the offset follows them as a slow loop: filtered, and never
  faster than `MAX_SLEW` of the audio that has passed. Times are therefore monotonic, a burst of
  late blocks barely moves them, and a sound card that is 100 ppm off is tracked to half a
  millisecond. How far it is off is measured on the way (`DriftFit`).
* *monotonic time to UTC*: an offset that is read whenever somebody asks. It changes only when
  the system clock is set, by any amount at any moment; then all later answers are right at once.

References:
    F. Adriaensen, "Using a DLL to filter time", Linux Audio Conference 2005.
"""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from streamcls.units import NS_PER_S, ns_to_samples, samples_to_ns

TIME_CONSTANT_S = 5.0
"""How slowly the offset follows the observations once settled."""
MAX_SLEW = 1e-3
"""Largest correction per second of audio; sound cards are off by at most a few 1e-4."""
SETTLING_S = 10.0
"""Right after the start the first observations may be wrong by a second (PulseAudio guesses
its latency), so in this time corrections may be large: `SETTLING_SLEW`."""
SETTLING_SLEW = 0.25
STEP_NS = NS_PER_S // 2
"""A difference larger than this cannot be jitter ..."""
STEP_CONFIRM_S = 3.0
"""... when it lasts for so much audio: the source paused, or its own clock was set."""
DRIFT_PERIOD_S = TIME_CONSTANT_S
"""Between two points of the fit: as soon as the filter has mostly forgotten the last one."""
DRIFT_MEMORY = 120
"""Points after which an old one counts only 1/e: crystals change with the temperature."""
DRIFT_MIN_POINTS = 10
DRIFT_TOLERANCE = 5e-6
"""A drift that is less certain (standard error) is not told."""
READ_TRIES = 5
READ_GOOD_NS = 2_000


def read_utc_offset_ns() -> int:
    """Return UTC minus the monotonic clock, ns; changes only when the system clock is set.

    Linux slews both clocks alike, so NTP's small corrections do not show. The two are read one
    after the other; where something came in between, they are read again.
    """
    best_ns, offset_ns = -1, 0
    for _ in range(READ_TRIES):
        before_ns = time.monotonic_ns()
        utc_ns = time.time_ns()
        took_ns = time.monotonic_ns() - before_ns
        if best_ns < 0 or took_ns < best_ns:
            best_ns, offset_ns = took_ns, utc_ns - before_ns - took_ns // 2
        if best_ns <= READ_GOOD_NS:
            break
    return offset_ns


class _Line(NamedTuple):
    """One straight piece: `sample` was taken at `t_ns`."""

    sample: int
    t_ns: int


class DriftFit:
    """A straight line through noisy points, the old ones slowly forgotten (least squares)."""

    def __init__(self) -> None:
        self._weight = self._x = self._y = 0.0
        self._xx = self._xy = self._yy = 0.0

    def add(self, x: float, y: float) -> None:
        """Take one point."""
        keep = 1.0 - 1.0 / DRIFT_MEMORY
        self._weight = keep * self._weight + 1.0
        dx, dy = x - self._x, y - self._y
        self._x += dx / self._weight
        self._y += dy / self._weight
        self._xx = keep * self._xx + dx * (x - self._x)
        self._xy = keep * self._xy + dx * (y - self._y)
        self._yy = keep * self._yy + dy * (y - self._y)

    @property
    def slope(self) -> float:
        """Of the line; there must be two points."""
        return self._xy / self._xx

    @property
    def error(self) -> float:
        """Standard error of the slope, infinite while there are few points."""
        if self._weight < DRIFT_MIN_POINTS:
            return math.inf
        scatter = max(0.0, self._yy - self.slope * self._xy) / (self._weight - 2.0)
        return math.sqrt(scatter / self._xx)


class StreamClock:
    """Time of any absolute sample index of one stream.

    Args:
        sample_rate_hz: Rate the indices count in.
        utc_offset_ns: What to add to the times observed to get UTC, now.

    Attributes:
        drift_ppm: By how much the source's clock is faster than this machine's, in millionths;
            None until it is known to some ppm. Kept over losses, which begin a new fit.
    """

    def __init__(self, sample_rate_hz: int, utc_offset_ns: Callable[[], int] = lambda: 0) -> None:
        self.sample_rate_hz = sample_rate_hz
        self.drift_ppm: float | None = None
        self._utc_offset_ns = utc_offset_ns
        self._line = _Line(0, 0)  # replaced as a whole: readers in other threads see one or other
        self._anchor = self._line
        self._anchored = False
        self._step_since_index: int | None = None
        self._fit = DriftFit()
        self._fit_due_index = 0

    def restart(self) -> None:
        """Forget the past: the next observation is taken as it is (after lost audio)."""
        self._anchored = False

    def expect(self, index: int, t_ns: int) -> None:
        """Say when a sample will have been taken, until the first observation says it better."""
        self._line = _Line(index, t_ns)

    def observe(self, index: int, t_ns: int) -> bool:
        """Tell the clock that sample `index` was taken at `t_ns`; indices must not fall.

        Args:
            index: Absolute index.
            t_ns: On the monotonic clock, or whatever `utc_offset_ns` makes UTC of.

        Returns:
            False when the observation shows that the time line is broken for good; the caller
            starts a new epoch and observes again after `restart`.
        """
        if not self._anchored:
            self._anchored = True
            self._anchor = self._line = _Line(index, t_ns)
            self._step_since_index = None
            self._fit = DriftFit()
            self._fit_due_index = index + round(SETTLING_S * self.sample_rate_hz)
            return True
        line = self._line
        passed_ns = samples_to_ns(index - line.sample, self.sample_rate_hz)
        predicted_ns = line.t_ns + passed_ns
        error_ns = t_ns - predicted_ns
        if abs(error_ns) < STEP_NS:
            self._step_since_index = None
        elif self._step_since_index is None:
            self._step_since_index = index
        elif index - self._step_since_index >= STEP_CONFIRM_S * self.sample_rate_hz:
            return False
        age_ns = samples_to_ns(index - self._anchor.sample, self.sample_rate_hz)
        slew = SETTLING_SLEW if age_ns < SETTLING_S * NS_PER_S else MAX_SLEW
        limit_ns = passed_ns * slew
        # At first the mean of all observations, then of the last seconds.
        wanted_ns = error_ns * passed_ns / max(1, min(age_ns, TIME_CONSTANT_S * NS_PER_S))
        self._line = _Line(index, predicted_ns + round(max(-limit_ns, min(limit_ns, wanted_ns))))
        if index >= self._fit_due_index:
            self._measure_drift()
        return True

    def time_ns(self, index: int) -> int:
        """Return the UTC time of sample `index` in nanoseconds since the epoch."""
        line = self._line
        passed_ns = samples_to_ns(index - line.sample, self.sample_rate_hz)
        return line.t_ns + passed_ns + self._utc_offset_ns()

    def index_at(self, t_ns: int) -> int:
        """Return the index of the sample taken at `t_ns`, on the clock observed, to nearest."""
        line = self._line
        return line.sample + ns_to_samples(t_ns - line.t_ns, self.sample_rate_hz)

    def _measure_drift(self) -> None:
        line, start = self._line, self._anchor
        self._fit_due_index = line.sample + round(DRIFT_PERIOD_S * self.sample_rate_hz)
        audio_ns = samples_to_ns(line.sample - start.sample, self.sample_rate_hz)
        late_ns = line.t_ns - start.t_ns - audio_ns
        self._fit.add(audio_ns / NS_PER_S, late_ns / NS_PER_S)
        if self._fit.error < DRIFT_TOLERANCE:
            self.drift_ppm = -1e6 * self._fit.slope
