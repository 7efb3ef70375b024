"""Downloads from a real server: the file whole and checked, or nothing and a reason."""

import hashlib
import socket
from pathlib import Path

import pytest

from streamcls.errors import DownloadError
from streamcls.importers.download import ATTEMPTS, RemoteFile, download, has_content
from tests.importers.file_server import FileServer, cut, hang_up, reset, serve, status, whole

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def remote(url: str) -> RemoteFile:
    return RemoteFile(f"{url}/models/it.bin", len(CONTENT), SHA256)


def fetch(server: FileServer, target: Path) -> list[str]:
    """Download; return the reasons of the pauses."""
    reasons: list[str] = []
    download(
        remote(server.url),
        target,
        on_retry=lambda reason, pause_s: reasons.append(reason),
        first_pause_s=0.001,
    )
    return reasons


def test_the_file_arrives_and_progress_is_told(tmp_path: Path) -> None:
    target = tmp_path / "new" / "it.bin"
    progress: list[int] = []
    with serve(whole(CONTENT)) as server:
        download(remote(server.url), target, progress.append)
    assert target.read_bytes() == CONTENT
    assert has_content(target, remote(""))
    assert server.requests == ["/models/it.bin"]
    assert progress == sorted(progress)
    assert progress[-1] == len(CONTENT)
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (status(503), "the server answers 503"),
        (status(429), "the server answers 429"),
        (hang_up, "closed connection without response"),
        (reset, "Connection reset by peer"),
        (cut(CONTENT, 70_000), f"the connection ended after 70000 of {len(CONTENT)} bytes"),
        (cut(CONTENT, 0), f"the connection ended after 0 of {len(CONTENT)} bytes"),
    ],
    ids=["503", "429", "hang up", "reset", "cut", "empty"],
)
def test_what_passes_is_tried_again(tmp_path: Path, failure, reason: str) -> None:
    with serve(failure, failure, whole(CONTENT)) as server:
        reasons = fetch(server, tmp_path / "it.bin")
    assert (tmp_path / "it.bin").read_bytes() == CONTENT
    assert len(reasons) == 2
    assert all(reason in one for one in reasons)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (whole(CONTENT[::-1]), "has sha256 .* altered on its way, nothing was kept"),
        (whole(CONTENT[:-1]), f"has {len(CONTENT) - 1} bytes, expected are {len(CONTENT)}"),
        (whole(CONTENT * 2), f"has more than {len(CONTENT)} bytes"),
        (status(404), "the server answers 404 Not Found"),
    ],
    ids=["altered", "shorter", "longer", "404"],
)
def test_another_file_is_refused_at_once(tmp_path: Path, answer, reason: str) -> None:
    target = tmp_path / "it.bin"
    target.write_bytes(b"what was here before")
    with serve(answer) as server, pytest.raises(DownloadError, match=reason):
        fetch(server, target)
    assert len(server.requests) == 1
    assert target.read_bytes() == b"what was here before"
    assert list(tmp_path.iterdir()) == [target]


def test_a_server_that_never_recovers(tmp_path: Path) -> None:
    with serve(cut(CONTENT, 10)) as server, pytest.raises(DownloadError, match="in 4 attempts"):
        fetch(server, tmp_path / "it.bin")
    assert len(server.requests) == ATTEMPTS
    assert list(tmp_path.iterdir()) == []


def test_nobody_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    reasons: list[str] = []
    with pytest.raises(DownloadError, match="Connection refused.*check the network connection"):
        download(
            remote(f"http://127.0.0.1:{port}"),
            tmp_path / "it.bin",
            on_retry=lambda reason, pause_s: reasons.append(reason),
            first_pause_s=0.001,
        )
    assert len(reasons) == ATTEMPTS - 1


def test_a_proxy_is_asked(tmp_path: Path, monkeypatch) -> None:
    with serve(whole(CONTENT)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        download(remote("http://models.invalid"), tmp_path / "it.bin")
    assert proxy.requests == ["http://models.invalid/models/it.bin"]
    assert (tmp_path / "it.bin").read_bytes() == CONTENT


def test_no_place_to_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with serve(whole(CONTENT)) as server, pytest.raises(DownloadError, match="cannot write"):
        fetch(server, tmp_path / "file" / "it.bin")


def test_other_schemes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="must begin with https:// or http://"):
        download(remote("file:///etc"), tmp_path / "it.bin")


@pytest.mark.parametrize("url", ["http://[", "http://127.0.0.1:9/\u00e9"])
def test_what_is_no_address_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadError, match="is no address"):
        download(remote(url), tmp_path / "it.bin", first_pause_s=0.001)
