"""The time of a sample: maps absolute sample indices to UTC by the source's own clock.

Sits beside the ring: the capture thread feeds it one observation a block, any thread may ask
for times. Observations are noisy (a busy machine hands blocks over late, sound servers guess
their latency), so the offset follows them as a slow loop: filtered, and never faster than
`MAX_SLEW` of the audio that has passed. Times are therefore monotonic, a burst of late blocks
barely moves them, and a sound card that is 100 ppm off is tracked to half a millisecond.

References:
    F. Adriaensen, "Using a DLL to filter time", Linux Audio Conference 2005.
"""

from dataclasses import dataclass

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
"""... when it lasts for so much audio: the system clock was set, or the source paused."""


@dataclass(frozen=True, slots=True)
class _Line:
    """One straight piece: sample `index` was taken at `t_ns`."""

    index: int
    t_ns: int


class StreamClock:
    """Time of any absolute sample index of one stream.

    Args:
        sample_rate_hz: Rate the indices count in.
    """

    def __init__(self, sample_rate_hz: int) -> None:
        self.sample_rate_hz = sample_rate_hz
        self._line = _Line(0, 0)  # replaced as a whole: readers in other threads see one or other
        self._anchored = False
        self._anchor_index = 0
        self._step_since_index: int | None = None

    def restart(self) -> None:
        """Forget the past: the next observation is taken as it is (after lost audio)."""
        self._anchored = False

    def observe(self, index: int, t_ns: int) -> bool:
        """Tell the clock that sample `index` was taken at `t_ns` (UTC); indices must not fall.

        Returns:
            False when the observation shows that the time line is broken for good; the caller
            starts a new epoch and observes again after `restart`.
        """
        if not self._anchored:
            self._anchored = True
            self._anchor_index = index
            self._step_since_index = None
            self._line = _Line(index, t_ns)
            return True
        predicted_ns = self.time_ns(index)
        error_ns = t_ns - predicted_ns
        if abs(error_ns) < STEP_NS:
            self._step_since_index = None
        elif self._step_since_index is None:
            self._step_since_index = index
        elif index - self._step_since_index >= STEP_CONFIRM_S * self.sample_rate_hz:
            return False
        passed_ns = samples_to_ns(index - self._line.index, self.sample_rate_hz)
        settling = index - self._anchor_index < SETTLING_S * self.sample_rate_hz
        limit_ns = passed_ns * (SETTLING_SLEW if settling else MAX_SLEW)
        wanted_ns = error_ns * min(1.0, passed_ns / (TIME_CONSTANT_S * NS_PER_S))
        self._line = _Line(index, predicted_ns + round(max(-limit_ns, min(limit_ns, wanted_ns))))
        return True

    def time_ns(self, index: int) -> int:
        """Return the UTC time of sample `index` in nanoseconds since the epoch."""
        line = self._line
        return line.t_ns + samples_to_ns(index - line.index, self.sample_rate_hz)

    def index_at(self, t_ns: int) -> int:
        """Return the index of the sample taken at `t_ns`, rounded to nearest."""
        line = self._line
        return line.index + ns_to_samples(t_ns - line.t_ns, self.sample_rate_hz)
