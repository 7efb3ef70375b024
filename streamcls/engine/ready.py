"""The streams that have a hop waiting: filled by the capture threads, emptied by the engine's.

First come, first served, each stream at most once: whoever has more to say queues again behind the
others. So a stream with a backlog takes its turn like everybody else, and under overload each
stream gets the same number of hops through.
"""

import threading
import time
from typing import Generic, TypeVar

T = TypeVar("T")


class ReadyQueue(Generic[T]):
    """An ordered set that one thread waits for until taking it is worth while.

    Args:
        max_wait_s: How long the first in the queue waits for company.

    Attributes:
        enough: So many streams are worth starting for at once; set by the engine.
    """

    def __init__(self, max_wait_s: float):
        self._max_wait_s = max_wait_s
        self._news = threading.Condition(threading.Lock())
        self._streams: dict[T, None] = {}
        self._first_s = 0.0
        self._woken = False
        self.enough = 1

    def put(self, stream: T) -> None:
        """Queue a stream unless it is queued already; from any thread."""
        with self._news:
            if not self._streams:
                self._first_s = time.monotonic()
            self._streams[stream] = None
            if len(self._streams) == 1 or len(self._streams) >= self.enough:
                self._news.notify()

    def take_all(self) -> list[T]:
        """Return the streams in the order they came, and leave an empty queue."""
        with self._news:
            streams, self._streams = self._streams, {}
        return list(streams)

    def wait(self, timeout_s: float) -> None:
        """Sleep until there are enough streams or the first has waited for long enough.

        Returns after about `timeout_s` even if there is none, and at once when woken.
        """
        with self._news:
            if not self._streams and not self._woken:
                self._news.wait(timeout_s)
            while 0 < len(self._streams) < self.enough and not self._woken:
                left_s = self._first_s + self._max_wait_s - time.monotonic()
                if left_s <= 0:
                    break
                self._news.wait(left_s)
            self._woken = False

    def wake(self) -> None:
        """End the wait in progress, or else the next one; from any thread."""
        with self._news:
            self._woken = True
            self._news.notify()
