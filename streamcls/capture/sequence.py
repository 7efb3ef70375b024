"""Puts packets that came over a network back into order and finds out which are missing.

Used by `RemoteSource` on the feeder's thread. Over TCP nothing overtakes anything, but a sender
that reconnects may repeat packets or leave some behind, and other transports do worse.
"""

from typing import Generic, TypeVar

HOLD_S = 0.2
"""A hole that is not filled within this time is a loss ..."""
HOLD_PACKETS = 8
"""... or when so many later packets are here."""

T = TypeVar("T")


class Resequencer(Generic[T]):
    """Takes numbered items in any order and returns them ascending, each once.

    Attributes:
        missing: Numbers given up.
        repeated: Items that came again, or after they had been given up.
        reordered: Items that were overtaken.
    """

    def __init__(self) -> None:
        self.missing = 0
        self.repeated = 0
        self.reordered = 0
        self._next: int | None = None
        self._held: dict[int, tuple[T, float]] = {}

    def restart(self) -> None:
        """Forget what is held; the next item is a first one."""
        self._next = None
        self._held.clear()

    def push(self, seq: int, item: T, now_s: float) -> None:
        """Take one item as it came; call `pop` until it returns None before the next one."""
        if self._next is None:
            self._next = seq
        if seq < self._next or seq in self._held:
            self.repeated += 1
            return
        if self._held and seq < max(self._held):
            self.reordered += 1
        self._held[seq] = (item, now_s)

    def pop(self, now_s: float) -> T | None:
        """Return the next item if it is here, or its successor once it is given up."""
        if not self._held or self._next is None:
            return None
        first = self._next
        if first not in self._held:
            oldest_s = min(came_s for _, came_s in self._held.values())
            if len(self._held) < HOLD_PACKETS and now_s - oldest_s < HOLD_S:
                return None
            first = min(self._held)
            self.missing += first - self._next
        self._next = first + 1
        return self._held.pop(first)[0]
