"""What was sent lately: the last value of each sequence, the events still open, and a bounded past.

The publisher thread records each message with the frames it has sent; the control thread reads
pages of them for ``replay``. Kept as encoded bytes: compact, exactly countable, and nothing for
the garbage collector to walk.
"""

import bisect
import itertools
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from streamcls.publish.schema import DataMessage, EventMessage, message_sequence, split_topic

ENTRY_OVERHEAD_BYTES = 250
"""What Python adds to a message's frames (measured with tracemalloc, rounded up)."""
PAGE_LIMIT_MESSAGES = 500
PAGE_LIMIT_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class JournalLimits:
    """How much past is kept; whichever limit is met first. The last values are always kept.

    Attributes:
        messages: Per sequence; 1 keeps last values only.
        age_s: Older messages are forgotten, within a second.
        total_bytes: Of all sequences together, with Python's overhead; the largest sequence
            gives way first, so that many predictions do not push out a few events.
    """

    messages: int = 2000
    age_s: float = 3600.0
    total_bytes: int = 64 * 1024 * 1024


class Entry(NamedTuple):
    """One message as it was sent."""

    seq: int
    kept_at_s: float
    topic: bytes
    payload: bytes

    @property
    def size_bytes(self) -> int:
        """What keeping it costs."""
        return len(self.topic) + len(self.payload) + ENTRY_OVERHEAD_BYTES


class Page(NamedTuple):
    """A bounded part of one sequence; see `ReplayPage` for the fields' meaning."""

    first_seq: int | None
    last_seq: int | None
    next_seq: int | None
    payloads: list[bytes]


@dataclass(slots=True)
class _Sequence:
    entries: deque[Entry] = field(default_factory=deque)
    size_bytes: int = 0


class Journal:
    """Keeps sent messages within `JournalLimits`; all methods are thread-safe."""

    def __init__(self, limits: JournalLimits):
        self._limits = limits
        self._lock = threading.Lock()
        self._sequences: dict[str, _Sequence] = {}
        self._open_events: dict[bytes, Entry] = {}
        self._size_bytes = 0

    @property
    def size_bytes(self) -> int:
        """What all that is kept costs."""
        return self._size_bytes

    def record(self, message: DataMessage, topic: bytes, payload: bytes) -> None:
        """Keep a message; its `seq` must be higher than the last one of its sequence."""
        entry = Entry(message.seq, time.monotonic(), topic, payload)
        with self._lock:
            sequence = self._sequences.setdefault(message_sequence(message), _Sequence())
            sequence.entries.append(entry)
            sequence.size_bytes += entry.size_bytes
            self._size_bytes += entry.size_bytes
            while len(sequence.entries) > max(1, self._limits.messages):
                self._drop_oldest(sequence)
            if isinstance(message, EventMessage):
                if message.state == "offset":
                    self._open_events.pop(topic, None)
                else:
                    self._open_events[topic] = entry
            if self._size_bytes > self._limits.total_bytes:
                self._shrink()

    def last_values(self) -> list[Entry]:
        """Return the last message of each sequence, in the order of the sequences' topics."""
        with self._lock:
            return [one.entries[-1] for _, one in sorted(self._sequences.items())]

    def open_events(self) -> list[Entry]:
        """Return the last message of each event that has not ended, in the order of topics."""
        with self._lock:
            return [entry for _, entry in sorted(self._open_events.items())]

    def page(self, sequence_topic: str, from_seq: int, to_seq: int | None = None) -> Page:
        """Return what is kept of a sequence from ``from_seq`` on, as much as fits a page."""
        with self._lock:
            sequence = self._sequences.get(sequence_topic)
            if sequence is None:
                return Page(None, None, None, [])
            entries = sequence.entries
            start = bisect.bisect_left(entries, from_seq, key=lambda entry: entry.seq)
            payloads: list[bytes] = []
            size_bytes, next_seq = 0, None
            for entry in itertools.islice(entries, start, None):
                if to_seq is not None and entry.seq > to_seq:
                    break
                size_bytes += len(entry.payload)
                # At least one, however large: the reader must get on.
                if payloads and (
                    len(payloads) == PAGE_LIMIT_MESSAGES or size_bytes > PAGE_LIMIT_BYTES
                ):
                    next_seq = entry.seq
                    break
                payloads.append(entry.payload)
            return Page(entries[0].seq, entries[-1].seq, next_seq, payloads)

    def expire(self) -> None:
        """Forget what is too old, also of sequences that have fallen silent."""
        oldest_s = time.monotonic() - self._limits.age_s
        with self._lock:
            for sequence in self._sequences.values():
                while len(sequence.entries) > 1 and sequence.entries[0].kept_at_s < oldest_s:
                    self._drop_oldest(sequence)

    def forget(self, stream: str) -> None:
        """Forget all of a stream that was removed."""
        with self._lock:
            for topic in [one for one in self._sequences if split_topic(one)[1] == stream]:
                self._size_bytes -= self._sequences.pop(topic).size_bytes
            for topic in [
                one for one in self._open_events if split_topic(one.decode())[1] == stream
            ]:
                del self._open_events[topic]

    def _shrink(self) -> None:
        while self._size_bytes > self._limits.total_bytes:
            largest = max(
                self._sequences.values(), key=lambda one: (len(one.entries) > 1, one.size_bytes)
            )
            if len(largest.entries) == 1:
                return  # only last values are left
            # An eighth at once, so that the search is not made for every message.
            goal_bytes = largest.size_bytes * 7 // 8
            while len(largest.entries) > 1 and largest.size_bytes > goal_bytes:
                self._drop_oldest(largest)

    def _drop_oldest(self, sequence: _Sequence) -> None:
        size_bytes = sequence.entries.popleft().size_bytes
        sequence.size_bytes -= size_bytes
        self._size_bytes -= size_bytes
