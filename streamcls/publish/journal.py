"""What was sent lately: the last value of each sequence, the events still open, and a bounded past.

The publisher thread records each message with the frames it has sent; the control thread reads
pages of them for ``replay``. Kept as encoded bytes, in one queue per field: compact, exactly
countable, and nothing for the garbage collector to walk, which would stop all threads meanwhile. (A
tuple a message has cost a pause of 160 ms with 256 streams.)
"""

import bisect
import heapq
import itertools
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from streamcls.publish.schema import DataMessage, EventMessage, message_sequence, split_topic

ENTRY_OVERHEAD_BYTES = 270
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
        return _size_bytes(self.topic, self.payload)


class Page(NamedTuple):
    """A bounded part of one sequence; see `ReplayPage` for the fields' meaning."""

    first_seq: int | None
    last_seq: int | None
    next_seq: int | None
    payloads: list[bytes]


@dataclass(slots=True, eq=False)
class _Sequence:
    """Messages, oldest first; the fields of one have the same place in all queues."""

    seqs: deque[int] = field(default_factory=deque)
    kept_at_s: deque[float] = field(default_factory=deque)
    topics: deque[bytes] = field(default_factory=deque)
    payloads: deque[bytes] = field(default_factory=deque)
    size_bytes: int = 0

    def __len__(self) -> int:
        return len(self.seqs)

    def append(self, entry: Entry) -> int:
        """Keep a message and return what it costs."""
        seq, kept_at_s, topic, payload = entry
        self.seqs.append(seq)
        self.kept_at_s.append(kept_at_s)
        self.topics.append(topic)
        self.payloads.append(payload)
        size_bytes = entry.size_bytes
        self.size_bytes += size_bytes
        return size_bytes

    def pop_oldest(self) -> int:
        """Forget a message and return what it has cost."""
        self.seqs.popleft()
        self.kept_at_s.popleft()
        size_bytes = _size_bytes(self.topics.popleft(), self.payloads.popleft())
        self.size_bytes -= size_bytes
        return size_bytes

    def newest(self) -> Entry:
        return Entry(self.seqs[-1], self.kept_at_s[-1], self.topics[-1], self.payloads[-1])


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
        name = message_sequence(message)
        with self._lock:
            sequence = self._sequences.get(name)
            if sequence is None:
                sequence = self._sequences[name] = _Sequence()
            self._size_bytes += sequence.append(entry)
            while len(sequence) > max(1, self._limits.messages):
                self._size_bytes -= sequence.pop_oldest()
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
            return [one.newest() for _, one in sorted(self._sequences.items())]

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
            seqs = sequence.seqs
            start = bisect.bisect_left(seqs, from_seq)
            payloads: list[bytes] = []
            size_bytes, next_seq = 0, None
            kept = zip(seqs, sequence.payloads, strict=True)
            for seq, payload in itertools.islice(kept, start, None):
                if to_seq is not None and seq > to_seq:
                    break
                size_bytes += len(payload)
                # At least one, however large: the reader must get on.
                if payloads and (
                    len(payloads) == PAGE_LIMIT_MESSAGES or size_bytes > PAGE_LIMIT_BYTES
                ):
                    next_seq = seq
                    break
                payloads.append(payload)
            return Page(seqs[0], seqs[-1], next_seq, payloads)

    def expire(self) -> None:
        """Forget what is too old, also of sequences that have fallen silent."""
        oldest_s = time.monotonic() - self._limits.age_s
        with self._lock:
            for sequence in self._sequences.values():
                while len(sequence) > 1 and sequence.kept_at_s[0] < oldest_s:
                    self._size_bytes -= sequence.pop_oldest()

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
        """Let the largest sequences give way until there is room for some hundred messages."""
        goal_bytes = self._limits.total_bytes * 255 // 256
        largest = [
            (-one.size_bytes, number, one)
            for number, one in enumerate(self._sequences.values())
            if len(one) > 1  # the last values stay
        ]
        heapq.heapify(largest)
        while largest and self._size_bytes > goal_bytes:
            _, number, sequence = heapq.heappop(largest)
            # An eighth at once, so that the search is not made for every message.
            rest_bytes = sequence.size_bytes * 7 // 8
            while len(sequence) > 1 and sequence.size_bytes > rest_bytes:
                self._size_bytes -= sequence.pop_oldest()
            if len(sequence) > 1:
                heapq.heappush(largest, (-sequence.size_bytes, number, sequence))


def _size_bytes(topic: bytes, payload: bytes) -> int:
    return len(topic) + len(payload) + ENTRY_OVERHEAD_BYTES
