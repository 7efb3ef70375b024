"""Fixtures of the tests of remote audio: real sockets on loopback."""

from collections.abc import Iterator

import pytest

from streamcls.ingest import Ingest
from tests.audio_server import audio_server

__all__ = ["audio_server", "ingest"]


@pytest.fixture
def ingest() -> Iterator[Ingest]:
    with Ingest("tcp://127.0.0.1:*") as ingest:
        yield ingest
