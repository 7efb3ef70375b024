"""How far two machines' clocks are apart; pure arithmetic, used by `Sender` in its thread."""

from collections import deque

CLOCK_EXCHANGES = 16
CLOCK_STEP_NS = 500_000_000
"""An offset that differs by more from the estimate: one of the clocks was set."""


class ClockEstimate:
    """How far the daemon's clock is ahead of ours, from exchanges of time stamps.

    Of the last `CLOCK_EXCHANGES` the one with the shortest round trip is believed: it cannot be
    wrong by more than half of that.

    References:
        RFC 5905, sections 8 and 10 (on-wire protocol, clock filter).
    """

    def __init__(self) -> None:
        self._exchanges: deque[tuple[int, int]] = deque(maxlen=CLOCK_EXCHANGES)

    def observe(self, sent_ns: int, received_ns: int, answered_ns: int, back_ns: int) -> None:
        """Take one exchange: sent and back by our clock, received and answered by the other."""
        offset_ns = ((received_ns - sent_ns) + (answered_ns - back_ns)) // 2
        round_trip_ns = max(0, (back_ns - sent_ns) - (answered_ns - received_ns))
        if self._exchanges and abs(offset_ns - self.best[1]) > max(CLOCK_STEP_NS, round_trip_ns):
            self._exchanges.clear()
        self._exchanges.append((round_trip_ns, offset_ns))

    @property
    def best(self) -> tuple[int, int]:
        """Round trip and offset of the best exchange, ns; there must have been one."""
        return min(self._exchanges)

    @property
    def known(self) -> bool:
        """There has been an exchange."""
        return bool(self._exchanges)
