"""What one stream's sliding window holds: where it lies, whether it is whole, what it suffered.

One `WindowTracker` per stream, owned by the engine's thread.
"""

import math

from streamcls.types import Flag, Hop

SILENCE_FLOOR_DBFS = -80.0
_LOWEST_DBFS = -120.0
_LONG_AGO = -(1 << 62)


def power_to_dbfs(mean_square: float) -> float:
    """Return the level of a signal's power in dB relative to a full-scale square wave, >= -120."""
    return max(10 * math.log10(mean_square), _LOWEST_DBFS) if mean_square > 0 else _LOWEST_DBFS


class WindowTracker:
    """Follows a stream hop by hop and knows when a prediction is complete.

    A window is whole once ``window_samples`` of one epoch were heard; predictions before that would
    mix audio with the silence the state starts from and are not made.

    Args:
        window_samples: Audio behind one prediction.
        hop_samples: New audio per prediction.
        epoch: Of the first hop; it increases by one with every loss.
        told_until: Predictions whose audio ends no later were made before, by another model.

    Attributes:
        epoch: Of the newest hop.
        hops: Hops heard in this epoch.
        sample_end: Index one past the newest real sample.
        level_dbfs: Level of the newest hop with real audio.
    """

    def __init__(self, window_samples: int, hop_samples: int, epoch: int = 0, told_until: int = 0):
        self._told_until = told_until
        self._window_samples = window_samples
        self._hop_samples = hop_samples
        self.hops_per_window = -(-window_samples // hop_samples)
        self.epoch = epoch
        self.hops = 0
        self.sample_end = 0
        self.level_dbfs = _LOWEST_DBFS
        self._hop_end = 0
        # The newest hop of this epoch, counted from 1, that was ...
        self._clipped = self._loud = self._nonfinite = _LONG_AGO

    @property
    def complete(self) -> bool:
        """The newest window holds one epoch's audio only."""
        return self.hops >= self.hops_per_window

    @property
    def tells(self) -> bool:
        """The newest window is complete and no prediction about it was made before."""
        return self.complete and self.sample_end > self._told_until

    @property
    def sample_start(self) -> int:
        """Absolute index of the window's first sample."""
        return self._hop_end - self._window_samples

    @property
    def flags(self) -> tuple[Flag, ...]:
        """What the window's audio suffered, in order of `Flag`."""
        before = self.hops - self.hops_per_window
        found = []
        if self._clipped > before:
            found.append(Flag.CLIPPED)
        if self._loud <= before:
            found.append(Flag.SILENT)
        if self._nonfinite > before:
            found.append(Flag.NONFINITE)
        if self.sample_end < self._hop_end:
            found.append(Flag.PADDED)
        return tuple(found)

    def succeed(self, window_samples: int, hop_samples: int) -> "WindowTracker":
        """Return the tracker of the model that takes over: same epoch, nothing told twice."""
        told_until = max(self._told_until, self.sample_end if self.complete else 0)
        return WindowTracker(window_samples, hop_samples, self.epoch, told_until)

    def begin_again(self, window_samples: int, hop_samples: int) -> "WindowTracker":
        """Return the tracker of a model of another rate: a new epoch, which has heard nothing."""
        return WindowTracker(window_samples, hop_samples, self.epoch + (self.hops > 0))

    def starts_epoch(self, hop: Hop) -> bool:
        """Tell whether the state must start anew for this hop."""
        return self.hops == 0 or hop.lost_samples > 0

    def add(self, hop: Hop, level_dbfs: float, clipped: bool) -> None:
        """Take the next hop into the window.

        Args:
            hop: Where it lies and what the ring knows about it.
            level_dbfs: Of its samples, relative to a full-scale square wave.
            clipped: A sample reached full scale.
        """
        if hop.lost_samples > 0:
            self.epoch += 1
            self.hops = 0
            self._clipped = self._loud = self._nonfinite = _LONG_AGO
        self.hops += 1
        self.level_dbfs = level_dbfs
        if clipped:
            self._clipped = self.hops
        if level_dbfs >= SILENCE_FLOOR_DBFS:
            self._loud = self.hops
        if hop.nonfinite:
            self._nonfinite = self.hops
        self.sample_end = hop.sample_start + hop.n_real
        self._hop_end = hop.sample_start + self._hop_samples

    def add_padding(self) -> None:
        """Take a hop of silence that stands behind the end of the stream."""
        self.hops += 1
        self._hop_end += self._hop_samples
