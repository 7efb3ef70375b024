"""What `scripts/fuzz.py` attacks: the daemon's sockets with the real parts behind them.

Two sets, one open and one with keys: publisher with journal, control socket, ingest socket with a
remote source, feeder and ring; only the model is left out. Prints its endpoints as one line of
JSON, serves until standard input closes, then prints its counters.
"""

import json
import logging
import sys
import threading
import time
from contextlib import ExitStack

import numpy as np

from streamcls.capture import Feeder
from streamcls.capture.remote import RemoteSource
from streamcls.ingest import Ingest
from streamcls.publish.control import ControlServer
from streamcls.publish.keys import ServerKeys
from streamcls.publish.messages import Vocabulary
from streamcls.publish.methods import MethodTable
from streamcls.publish.publisher import Publisher
from streamcls.ring import Ring
from streamcls.types import Event, EventState, Prediction

RATE_HZ = 16_000
HOP_SAMPLES = 1280
TICK_S = 0.05
LABELS = tuple(f"class {index}" for index in range(30))
ANY = "tcp://127.0.0.1:*"


class Target:
    """One set of sockets; with keys or open to all."""

    def __init__(self, stack: ExitStack, keys: ServerKeys | None):
        self.publisher = stack.enter_context(Publisher(ANY, Vocabulary("fuzz", LABELS), keys=keys))
        self.ingest = stack.enter_context(Ingest(ANY, keys=keys))
        methods = MethodTable({"status": lambda _: self.stats(), **self.publisher.methods()})
        self.control = stack.enter_context(ControlServer(ANY, methods, keys=keys))
        self.ring = Ring(2 * RATE_HZ, RATE_HZ, lambda: None)
        feeder = Feeder("porch", RemoteSource("porch"), self.ring, 0, self.publisher.publish_health)
        self.ingest.add(feeder)
        feeder.start()
        stack.callback(feeder.stop)
        self._hop = np.empty(HOP_SAMPLES, np.float32)
        self._ticks = 0
        self.hops_heard = 0

    def endpoints(self) -> dict[str, str]:
        """Return what there is to attack."""
        return {
            "publish": self.publisher.endpoint,
            "control": self.control.endpoint,
            "ingest": self.ingest.endpoint,
        }

    def stats(self) -> dict[str, object]:
        """Return everything that is counted."""
        return {
            "publisher": self.publisher.stats(),
            "ingest": self.ingest.stats(),
            "hops_heard": self.hops_heard,
            "connections": {
                "publish": self.publisher.connections(),
                "control": self.control.connections(),
                "ingest": self.ingest.connections(),
            },
        }

    def tick(self) -> None:
        """Read what the sender delivered, and publish as a daemon with one stream does."""
        while self.ring.read_hop(self._hop) is not None:
            self.hops_heard += 1
        now_ns, start = time.time_ns(), self._ticks * HOP_SAMPLES
        probabilities = np.full(len(LABELS), 1 / len(LABELS), np.float32)
        self.publisher.publish_prediction(
            Prediction(
                "porch",
                0,
                start,
                start + RATE_HZ,
                RATE_HZ,
                now_ns,
                now_ns,
                -30.0,
                (),
                probabilities,
            )
        )
        if self._ticks % 20 == 0:
            event = (str(self._ticks), EventState.ONSET, LABELS[0], now_ns, None, 0.9, 0.8)
            self.publisher.publish_event(Event("porch", *event))
        self._ticks += 1


def main() -> None:
    """Serve until standard input closes."""
    logging.basicConfig(level="WARNING", stream=sys.stderr)
    with ExitStack() as stack:
        targets = {
            "open": Target(stack, None),
            "keys": Target(stack, ServerKeys.load(sys.argv[1])),
        }
        print(json.dumps({name: one.endpoints() for name, one in targets.items()}), flush=True)
        closed = threading.Event()
        threading.Thread(target=lambda: (sys.stdin.read(), closed.set()), daemon=True).start()
        while not closed.wait(TICK_S):
            for one in targets.values():
                one.tick()
        print(json.dumps({name: one.stats() for name, one in targets.items()}), flush=True)


if __name__ == "__main__":
    main()
