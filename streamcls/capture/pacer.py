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

_SLOT_S = 0.002
"""What is due within so short a time is done in one go, so that wake-ups do not grow with
streams."""

log = logging.getLogger(__name__)


class Pacer:
    """Takes turns with iterators that yield how many seconds they want to pause.

    The thread lives as long as there is one.
    """

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._due: list[tuple[float, int, Iterator[float]]] = []  # a heap; the number breaks ties
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
        """Cut the pause of an iterator short, if it is in one."""
        with self._news:
            rest = [entry for entry in self._due if entry[2] is not work]
            if len(rest) < len(self._due):
                self._due = [(0.0, next(self._numbers), work), *rest]
                heapq.heapify(self._due)
                self._news.notify()

    def _run(self) -> None:
        while (due := self._take_due()) is not None:
            for work in due:
                try:
                    pause_s = next(work)
                except StopIteration:
                    continue
                except Exception:
                    log.exception("a source ended with an error; the others go on")
                    continue
                entry = (time.monotonic() + pause_s, next(self._numbers), work)
                with self._news:
                    heapq.heappush(self._due, entry)

    def _take_due(self) -> list[Iterator[float]] | None:
        """Wait for what is due next and return it; None when nothing is left to do."""
        with self._news:
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
