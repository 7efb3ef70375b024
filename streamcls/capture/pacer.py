"""One thread for all sources that only have to wait for the clock: files played in real time.

A thread for each would wake fifty times a second and then wait for the interpreter's lock; with
hundreds of streams the machine would do little else. Sources that wait for a device or a network
keep a thread of their own (see `Feeder`), because nothing here may block.
"""

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Iterator

_SLOT_S = 0.005
"""What is due within so short a time is done in one go, so that wake-ups do not grow with
streams. Each is paid with cold caches: at 2 ms a prediction cost half more with 16 to 256 files."""

_Entry = tuple[float, int, Iterator[float]]
"""When it is due, a number that breaks ties, and the work."""

log = logging.getLogger(__name__)


class Pacer:
    """Takes turns with iterators that yield how many seconds they want to pause.

    The thread lives as long as there is one.
    """

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._due: list[_Entry] = []  # a heap
        self._hurried: set[Iterator[float]] = set()  # while they were at work
        self._numbers = itertools.count()
        self._running = False

    def add(self, work: Iterator[float]) -> None:
        """Begin with an iterator now and come back after each pause until it ends."""
        with self._news:
            heapq.heappush(self._due, (0.0, next(self._numbers), work))
            if self._running:
                self._news.notify()
            else:
                self._running = True
                threading.Thread(target=self._run, name="pacer", daemon=True).start()

    def hurry(self, work: Iterator[float]) -> None:
        """Cut the pause of an iterator short: the one it is in, or else its next."""
        with self._news:
            rest = [entry for entry in self._due if entry[2] is not work]
            if len(rest) < len(self._due):
                self._due = [(0.0, next(self._numbers), work), *rest]
                heapq.heapify(self._due)
                self._news.notify()
            elif self._running:
                self._hurried.add(work)

    def _run(self) -> None:
        paused: list[_Entry] = []
        while (due := self._take_due(paused)) is not None:
            paused = []
            for work in due:
                try:
                    pause_s = next(work)
                except StopIteration:
                    continue
                except Exception:
                    log.exception("a source ended with an error; the others go on")
                    continue
                paused.append((time.monotonic() + pause_s, next(self._numbers), work))

    def _take_due(self, paused: list[_Entry]) -> list[Iterator[float]] | None:
        """Take back what has paused, wait for what is due next and return it; None: all is done."""
        with self._news:
            for due_s, number, work in paused:
                due_s = 0.0 if work in self._hurried else due_s
                heapq.heappush(self._due, (due_s, number, work))
            self._hurried.clear()
            while self._due:
                now_s = time.monotonic()
                wait_s = self._due[0][0] - now_s
                if wait_s <= 0:
                    due = []
                    while self._due and self._due[0][0] <= now_s:
                        due.append(heapq.heappop(self._due)[2])
                    return due
                self._news.wait(max(wait_s, _SLOT_S))
            self._running = False
            return None
