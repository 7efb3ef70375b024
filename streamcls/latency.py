"""A latency histogram of fixed size: percentiles over months without growing."""

import math

_LOWEST_S = 1e-5
_BINS_PER_DECADE = 50
_DECADES = 8


class LatencyHistogram:
    """Counts durations in logarithmic bins of 4.7 % width from 10 us to 1000 s.

    Example:
        >>> histogram = LatencyHistogram()
        >>> for ms in range(1, 101):
        ...     histogram.add(ms / 1000)
        >>> round(histogram.percentile(50), 2), histogram.count
        (0.05, 100)
    """

    def __init__(self) -> None:
        self._bins = [0] * (_BINS_PER_DECADE * _DECADES + 1)
        self.count = 0
        self.max_s = 0.0

    def add(self, duration_s: float) -> None:
        """Count one duration; negative ones (clock steps) count as the shortest."""
        ratio = max(duration_s, _LOWEST_S) / _LOWEST_S
        index = min(int(math.log10(ratio) * _BINS_PER_DECADE), len(self._bins) - 1)
        self._bins[index] += 1
        self.count += 1
        self.max_s = max(self.max_s, duration_s)

    def percentile(self, percent: float) -> float:
        """Return the upper edge in seconds of the bin that holds the percentile; NaN if empty."""
        if self.count == 0:
            return math.nan
        remaining = math.ceil(self.count * percent / 100)
        for index, count in enumerate(self._bins):
            remaining -= count
            if remaining <= 0:
                edge_s = _LOWEST_S * 10 ** ((index + 1) / _BINS_PER_DECADE)
                return min(edge_s, self.max_s)
        return self.max_s
