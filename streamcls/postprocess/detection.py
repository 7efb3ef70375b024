"""What a track is followed with: a line of score, a detection, its mean, its confirmation.

Times are sound times (see `detector`), nanoseconds of the stream's own sample count. Everything
here belongs to one track.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple


class Line(NamedTuple):
    """A track's score over a stretch of time: straight from one value to the other."""

    start_ns: int
    """Sound time of the first value."""
    start_score: float
    end_ns: int
    """Sound time of the last; the same for the first score of an epoch."""
    end_score: float
    utc_shift_ns: int
    """UTC minus sound time."""

    def at(self, t_ns: int) -> float:
        """Return the score at a time within."""
        if t_ns == self.end_ns:
            return self.end_score
        share = (t_ns - self.start_ns) / (self.end_ns - self.start_ns)
        return self.start_score + share * (self.end_score - self.start_score)

    def crossing_ns(self, threshold: float) -> int | None:
        """Return when it passes through ``threshold``, if it does so strictly inside."""
        if not (
            self.start_score < threshold < self.end_score
            or self.end_score < threshold < self.start_score
        ):
            return None
        share = (threshold - self.start_score) / (self.end_score - self.start_score)
        return self.start_ns + round(share * (self.end_ns - self.start_ns))


@dataclass(slots=True)
class Mean:
    """Mean of a score over time."""

    area: float = 0.0
    duration_ns: int = 0

    def add(self, score: float, duration_ns: int) -> None:
        """Take in a score that held on average for ``duration_ns``."""
        self.area += score * duration_ns
        self.duration_ns += duration_ns

    def join(self, other: "Mean") -> None:
        """Take in all that another mean has taken in."""
        self.area += other.area
        self.duration_ns += other.duration_ns

    def value(self, otherwise: float) -> float:
        """Return the mean, or ``otherwise`` where no time has passed."""
        return self.area / self.duration_ns if self.duration_ns else otherwise


@dataclass(slots=True)
class Detection:
    """A sound being followed; `event_id` is set once its onset was published."""

    began_ns: int
    """When the score rose."""
    counts_from_ns: int
    """The same, or the end of the cooldown if that came later: min_duration counts from here."""
    onset_ns: int
    """What is reported: as `counts_from_ns`, or the start of the audio if it rose unseen."""
    confirmed: bool
    peak: float
    mean: Mean = field(default_factory=Mean)
    pause_mean: Mean = field(default_factory=Mean)
    fell_ns: int | None = None
    qualified: bool = False
    event_id: str = ""
    onset_utc_ns: int = 0
    reported_ns: int = 0


class TimeAbove:
    """Time spent above the onset threshold within the latest ``window_ns``."""

    def __init__(self, window_ns: int):
        self._window_ns = window_ns
        self._stretches: deque[tuple[int, int]] = deque()

    def clear(self) -> None:
        """Forget all stretches."""
        self._stretches.clear()

    def add(self, start_ns: int, end_ns: int) -> int:
        """Add a stretch and return the total up to its end."""
        if self._stretches and self._stretches[-1][1] == start_ns:
            start_ns = self._stretches.pop()[0]
        self._stretches.append((start_ns, end_ns))
        oldest_ns = end_ns - self._window_ns
        while self._stretches[0][1] < oldest_ns:
            self._stretches.popleft()
        return sum(end - max(start, oldest_ns) for start, end in self._stretches)
