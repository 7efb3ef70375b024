"""Records on their way to the publisher thread: numbered, queued, and dropped where that must be.

Every stage's thread puts, the publisher thread takes; one lock guards it all. A record gets its
number before anything can happen to it, so whatever is lost from here on leaves a hole in `seq`.
"""

import threading
from collections import Counter, deque
from collections.abc import Sequence
from typing import NamedTuple

from streamcls.errors import PublishError
from streamcls.publish.messages import Record, Vocabulary
from streamcls.publish.schema import (
    STREAM_TYPES,
    check_stream_name,
    sequence_topic,
    split_topic,
)

SEQUENCES_LIMIT = 65_536
"""Numbers are never forgotten within a run, so the streams that can have any are counted."""


class Item(NamedTuple):
    """A record with its place in its sequence."""

    sequence: str
    seq: int
    record: Record
    vocabulary: Vocabulary


class Outbox:
    """The bounded queue between the stages and the publisher thread.

    When it is full the oldest prediction gives way: the next hop replaces it. What is rare and
    said once (events, health) is dropped only when no prediction is left to drop.

    Args:
        limit_messages: Records that may wait.
    """

    def __init__(self, limit_messages: int):
        self._limit_messages = limit_messages
        self._lock = threading.Lock()
        self._queue: deque[Item] = deque()
        self._next_seq: dict[str, int] = {}
        self._passed_seq: dict[str, int] = {}
        self._dropped: Counter[str] = Counter()
        self._closed = False

    def __len__(self) -> int:
        return len(self._queue)

    def admit(self, stream: str) -> None:
        """Make room for the numbers of a stream, so that whatever it says can be put.

        Raises:
            PublishError: Its name is not allowed, or there were too many.
        """
        with self._lock:
            for sequence in (sequence_topic(one, stream) for one in STREAM_TYPES):
                if sequence not in self._next_seq:
                    self._check_new(sequence, stream)
                    self._next_seq[sequence] = 0

    def put(self, message_type: str, records: Sequence[Record], vocabulary: Vocabulary) -> bool:
        """Number records and queue them; return whether the queue was empty before.

        Raises:
            PublishError: A stream's name is not allowed, or there were too many.
        """
        with self._lock:
            was_empty = not self._queue
            for record in records:
                sequence = sequence_topic(message_type, record.stream)
                seq = self._next_seq.get(sequence)
                if seq is None:
                    self._check_new(sequence, record.stream)
                    seq = 0
                self._next_seq[sequence] = seq + 1
                if self._closed:
                    self._dropped[sequence] += 1
                    continue
                if len(self._queue) >= self._limit_messages:
                    self._drop_one()
                self._queue.append(Item(sequence, seq, record, vocabulary))
            return was_empty and bool(self._queue)

    def take(self) -> Item | None:
        """Return the oldest record; None when there is none."""
        with self._lock:
            if not self._queue:
                return None
            item = self._queue.popleft()
            self._passed_seq[item.sequence] = item.seq
            return item

    def count_drop(self, item: Item) -> None:
        """Count a record that was taken and could not be sent."""
        with self._lock:
            self._dropped[item.sequence] += 1

    def close(self) -> None:
        """Drop all that waits and all that comes, counted."""
        with self._lock:
            self._closed = True
            while self._queue:
                self._drop_one()

    def has_passed(self, stream: str) -> bool:
        """Return whether nothing of a stream waits: all that was put is taken or dropped."""
        with self._lock:
            return all(
                self._passed_seq.get(sequence, -1) + 1 == self._next_seq.get(sequence, 0)
                for sequence in (sequence_topic(one, stream) for one in STREAM_TYPES)
            )

    def passed_seq(self) -> dict[str, int]:
        """Return for each sequence the last number that was taken or dropped."""
        with self._lock:
            return dict(self._passed_seq)

    def dropped(self) -> dict[str, int]:
        """Return for each sequence that lost any how many were dropped."""
        with self._lock:
            return dict(self._dropped)

    def _check_new(self, sequence: str, stream: str) -> None:
        check_stream_name(stream)
        if len(self._next_seq) >= SEQUENCES_LIMIT:
            raise PublishError(
                f"{sequence} would be sequence {len(self._next_seq) + 1}; a daemon numbers at most "
                f"{SEQUENCES_LIMIT}: use stream names again, or restart the daemon"
            )

    def _drop_one(self) -> None:
        predictions = (
            index
            for index, item in enumerate(self._queue)
            if split_topic(item.sequence)[0] == "prediction"
        )
        # The oldest of its own sequence in any case, so that the numbers passed only grow.
        index = next(predictions, 0)
        item = self._queue[index]
        del self._queue[index]
        self._passed_seq[item.sequence] = item.seq
        self._dropped[item.sequence] += 1
