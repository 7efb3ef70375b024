"""What one stream's sliding window holds: where it lies, whether it is whole, what it suffered.

One `WindowTracker` per stream, owned by the engine's thread.
"""

import math
from collections import deque

from streamcls.types import Flag, Hop

SILENCE_FLOOR_DBFS = -80.0
_LOWEST_DBFS = -120.0


def power_to_dbfs(mean_square: float) -> float:
    """Return the level of a signal power in dB relative to a full-scale square wave, >= -120."""
    return max(_LOWEST_DBFS, 10 * math.log10(max(mean_square, 1e-12)))


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
        flags: What the window's audio suffered, in order of `Flag`.
    """

    def __init__(self, window_samples: int, hop_samples: int, epoch: int = 0, told_until: int = 0):
        self._told_until = told_until
        self._window_samples = window_samples
        self._hop_samples = hop_samples
        self.hops_per_window = -(-window_samples // hop_samples)
        self._history: deque[tuple[bool, bool, bool]] = deque(maxlen=self.hops_per_window)
        self.epoch = epoch
        self.hops = 0
        self.sample_end = 0
        self.level_dbfs = _LOWEST_DBFS
        self._hop_end = 0

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
        """Flags of the window made of the newest hops."""
        found = []
        if any(clipped for clipped, _, _ in self._history):
            found.append(Flag.CLIPPED)
        if all(silent for _, silent, _ in self._history):
            found.append(Flag.SILENT)
        if any(nonfinite for _, _, nonfinite in self._history):
            found.append(Flag.NONFINITE)
        if self.sample_end < self._hop_end:
            found.append(Flag.PADDED)
        return tuple(found)

    def succeed(self, window_samples: int, hop_samples: int) -> "WindowTracker":
        """Return the tracker of the model that takes over: same epoch, nothing told twice."""
        told_until = max(self._told_until, self.sample_end if self.complete else 0)
        return WindowTracker(window_samples, hop_samples, self.epoch, told_until)

    def starts_epoch(self, hop: Hop) -> bool:
        """Tell whether the state must start anew for this hop."""
        return self.hops == 0 or hop.lost_samples > 0

    def add(self, hop: Hop, mean_square: float, clipped: bool) -> None:
        """Take the next hop into the window.

        Args:
            hop: Where it lies and what the ring knows about it.
            mean_square: Power of its samples.
            clipped: A sample reached full scale.
        """
        if hop.lost_samples > 0:
            self._history.clear()
            self.epoch += 1
            self.hops = 0
        self.hops += 1
        self.level_dbfs = power_to_dbfs(mean_square)
        silent = self.level_dbfs < SILENCE_FLOOR_DBFS
        self._history.append((clipped, silent, hop.nonfinite))
        self.sample_end = hop.sample_start + hop.n_real
        self._hop_end = hop.sample_start + self._hop_samples

    def add_padding(self) -> None:
        """Take a hop of silence that stands behind the end of the stream."""
        self.hops += 1
        self._history.append((False, True, False))
        self._hop_end += self._hop_samples
