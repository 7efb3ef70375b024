"""What the publish tests share: real sockets that always close, and records to send."""

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import zmq

from streamcls.publish.messages import Vocabulary
from streamcls.types import Event, EventState, Flag, Health, HealthState, Prediction, Rejection

LABELS = ("yes", "no", "up", "down")


@pytest.fixture
def vocabulary() -> Vocabulary:
    return Vocabulary("commands", LABELS)


@pytest.fixture
def make_prediction() -> Callable[..., Prediction]:
    counter = itertools.count()

    def make(stream: str = "porch", probabilities=(0.1, 0.7, 0.15, 0.05), **fields) -> Prediction:
        start = next(counter) * 1280
        values = {
            "stream": stream,
            "epoch": 0,
            "sample_start": start,
            "sample_end": start + 16000,
            "sample_rate_hz": 16000,
            "t_start_ns": 1_700_000_000_000_000_000 + start * 62_500,
            "t_end_ns": 1_700_000_001_000_000_000 + start * 62_500,
            "level_dbfs": -23.456,
            "flags": (Flag.CLIPPED,),
            "probabilities": np.array(probabilities, np.float32),
        }
        return Prediction(**{**values, **fields})

    return make


@pytest.fixture
def health() -> Health:
    return Health("porch", HealthState.LOST, 16000, 320, 1, 2, 3, "device unplugged")


@pytest.fixture
def make_event() -> Callable[..., Event]:
    def make(state: EventState, label: str = "yes", **fields) -> Event:
        ended = state is EventState.OFFSET
        values = {
            "stream": "porch",
            "id": f"{label}-1",
            "onset_ns": 1_700_000_000_000_000_000,
            "offset_ns": 1_700_000_001_000_000_000 if ended else None,
            "peak_score": 0.987654321,
            "mean_score": 0.75,
            "reason": "score" if ended else "",
        }
        return Event(state=state, label=label, **{**values, **fields})

    return make


@pytest.fixture
def rejection() -> Rejection:
    return Rejection("porch", "no", "too_short", "lasted 80 ms", 100, 180, 0.7, 0.6)


@pytest.fixture
def connect() -> Iterator[Callable[..., zmq.Socket[bytes]]]:
    """Open sockets with a receive timeout; all of them close with the test."""
    context = zmq.Context()
    opened: list[zmq.Socket[bytes]] = []

    def open_socket(kind: int, endpoint: str, topic: bytes | None = None, **options: int):
        socket = context.socket(kind)
        opened.append(socket)
        socket.rcvtimeo = 10_000
        for name, value in options.items():
            setattr(socket, name, value)
        socket.connect(endpoint)
        if topic is not None:
            socket.subscribe(topic)
        return socket

    yield open_socket
    context.destroy(linger=0)


@pytest.fixture(params=["tcp", "ipc"])
def endpoint(request: pytest.FixtureRequest, tmp_path) -> str:
    """Return a free endpoint of each transport."""
    return "tcp://127.0.0.1:*" if request.param == "tcp" else f"ipc://{tmp_path}/publish.sock"
