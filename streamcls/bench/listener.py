"""The only subscriber of a measured daemon: notes how late each prediction comes."""

import threading
import time

from streamcls.client import Gap, PredictionMessage, Subscriber
from streamcls.units import NS_PER_S


class Listener:
    """Subscribes on a thread of its own, and keeps how late each prediction came.

    Args:
        endpoint: Where the daemon will publish.

    Attributes:
        heard: Set by the first message.
    """

    def __init__(self, endpoint: str):
        self.heard = threading.Event()
        self._endpoint = endpoint
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)
        self._lock = threading.Lock()
        self._latencies_ms: list[float] = []
        self._missed = 0

    def __enter__(self) -> "Listener":
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        self._thread.join(5.0)

    def take(self) -> tuple[list[float], int]:
        """Return the latencies of what came since the last call, and how many did not come."""
        with self._lock:
            taken = self._latencies_ms, self._missed
            self._latencies_ms, self._missed = [], 0
        return taken

    def _run(self) -> None:
        with Subscriber(self._endpoint, types=["prediction"]) as subscriber:
            while not self._stopping.is_set():
                try:
                    message = subscriber.receive(0.2)
                except TimeoutError:
                    continue
                now_ns = time.time_ns()
                with self._lock:
                    if isinstance(message, Gap):
                        self._missed += message.missing
                    elif isinstance(message, PredictionMessage):
                        self._latencies_ms.append((now_ns - message.t_end_ns) / NS_PER_S * 1000)
                self.heard.set()
