"""What one stream's detector has said so far: ids given out, events opened and closed, rejections.

Shared by the tracks of one detector and owned by it.
"""

import secrets
from collections import Counter
from enum import StrEnum
from typing import NamedTuple


class RejectionReason(StrEnum):
    """Why a detection was held back."""

    BELOW_THRESHOLD = "below_threshold"
    """Came near the onset threshold and did not reach it."""
    TOO_SHORT = "too_short"
    NOT_CONFIRMED = "not_confirmed"
    COOLDOWN = "cooldown"
    """Began and ended while the previous event of its class was still too recent."""
    DENIED = "denied"
    """Would have been an event, but the class is denied or not among the allowed."""


class CloseReason(StrEnum):
    """Why an event ended (`Event.reason` of its offset)."""

    SCORE = "score"
    """The score fell below the offset threshold: the normal end."""
    LOST = "lost"
    """Audio was lost or the source is gone."""
    ENDED = "ended"
    """A finite stream was read to its end."""
    RELOAD = "reload"
    """Model or settings are being replaced."""
    REMOVED = "removed"
    """The stream is no longer wanted."""
    SHUTDOWN = "shutdown"


class Summary(NamedTuple):
    """Totals of one detector; ``opened == closed + sounding`` at any time."""

    opened: int
    closed: int
    sounding: int
    rejected: dict[str, int]
    """By `RejectionReason`; near misses that were too many to report are counted here too."""
    unreported: int
    """Near misses that were counted only."""
    skipped: int
    """Predictions that could not be used: not finite, or not later than the one before."""


class Ledger:
    """Gives out event ids and counts.

    An id is 64 random bits of this detector and a number, so it needs no memory of earlier runs
    to be new.
    """

    def __init__(self, stream: str):
        self.stream = stream
        self._prefix = secrets.token_hex(8)
        self._opened = 0
        self._closed = 0
        self._rejected: Counter[str] = Counter()
        self._unreported = 0
        self.skipped = 0

    def open(self) -> str:
        """Count an onset and return the id of its event."""
        self._opened += 1
        return f"{self._prefix}-{self._opened:x}"

    def close(self) -> None:
        """Count an offset."""
        self._closed += 1

    def reject(self, reason: RejectionReason, reported: bool = True) -> None:
        """Count a rejection."""
        self._rejected[reason.value] += 1
        self._unreported += not reported

    def summarise(self) -> Summary:
        """Return the totals so far."""
        return Summary(
            opened=self._opened,
            closed=self._closed,
            sounding=self._opened - self._closed,
            rejected=dict(self._rejected),
            unreported=self._unreported,
            skipped=self.skipped,
        )
