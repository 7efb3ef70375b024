"""What the security tests share: key folders, and a publisher and control socket with keys."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamcls.client import ClientKeys
from streamcls.publish import auth
from streamcls.publish.control import ControlServer
from streamcls.publish.key_files import Right
from streamcls.publish.keys import ServerKeys, create_client, create_server
from streamcls.publish.messages import Vocabulary
from streamcls.publish.publisher import Publisher

MakeClient = Callable[..., ClientKeys]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a key folder with the daemon's pair and no clients."""
    folder = tmp_path / "keys"
    create_server(folder)
    return folder


@pytest.fixture
def make_client(folder: Path) -> MakeClient:
    """Make and load the keys of a client with the given rights."""

    def make(name: str, *rights: Right) -> ClientKeys:
        private, _ = create_client(folder, name, rights)
        return ClientKeys.load(private, folder / "server.pub")

    return make


@pytest.fixture
def quick_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let refused clients knock again after one second."""
    monkeypatch.setattr(auth, "HANDSHAKE_LIMIT_S", 1)


@pytest.fixture
def publisher(folder: Path, quick_retry: None) -> Iterator[Publisher]:
    vocabulary = Vocabulary("commands", ("yes", "no"))
    with Publisher("tcp://127.0.0.1:*", vocabulary, keys=ServerKeys.load(folder)) as publisher:
        yield publisher


@pytest.fixture
def control(folder: Path, quick_retry: None) -> Iterator[ControlServer]:
    methods = {"status": lambda _: "fine"}
    with ControlServer("tcp://127.0.0.1:*", methods, keys=ServerKeys.load(folder)) as control:
        yield control
