"""The daemon's end of remote audio without its model: a feeder, its ring and an ingest socket."""

import threading
import time
from collections.abc import Callable
from typing import Any, Self

import numpy as np

from streamcls.capture import Feeder, RemoteSource
from streamcls.ingest import Ingest
from streamcls.ring import Ring
from streamcls.types import Health, HealthState, Hop

RATE_HZ = 16_000
HOP_SAMPLES = 160


class Receiver:
    """A ``remote:`` stream whose ring is read as the engine would; closes with the context."""

    def __init__(self, name: str = "porch", buffer_s: float = 10.0) -> None:
        self.news = threading.Event()
        self.ring = Ring(round(buffer_s * RATE_HZ), RATE_HZ, self.news.set)
        self.reports: list[Health] = []
        self.source = RemoteSource(name, lambda: 0)
        self.feeder = Feeder(name, self.source, self.ring, 0, self.reports.append)
        self.hops: list[Hop] = []
        self.audio: list[np.ndarray] = []

    def __enter__(self) -> Self:
        self.feeder.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert self.feeder.stop()
        self.drain()

    @property
    def states(self) -> list[HealthState]:
        return [report.state for report in self.reports]

    def drain(self) -> None:
        out = np.empty(HOP_SAMPLES, np.float32)
        while (hop := self.ring.read_hop(out)) is not None:
            self.hops.append(hop)
            self.audio.append(out[: hop.n_real].copy())

    def wait_for(self, condition: Callable[[], Any], what: str, timeout_s: float = 15.0) -> None:
        """Read on until `condition` holds."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline_s, f"{what}: {self.reports[-3:]}"
            self.news.wait(0.02)
            self.news.clear()
            self.drain()

    def samples_by_index(self) -> dict[int, int]:
        """Return absolute index -> 16-bit sample of everything heard."""
        return {
            hop.sample_start + offset: round(float(value) * 32768)
            for hop, piece in zip(self.hops, self.audio, strict=True)
            for offset, value in enumerate(piece)
        }


def connect(ingest: Ingest, receiver: Receiver) -> Receiver:
    """Let `receiver` take its audio from `ingest`."""
    ingest.add(receiver.feeder)
    return receiver


def ramp(n_samples: int, first: int = 0) -> np.ndarray:
    """Return int16 samples that name their position (as long as it is below 65536)."""
    return (np.arange(first, first + n_samples) - 32768).astype(np.int16)
