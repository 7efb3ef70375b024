"""Where sockets may listen, and what the errors say."""

import socket as posix_socket
from pathlib import Path

import pytest
import zmq

from streamcls.errors import PublishError
from streamcls.publish.endpoint import bind, check_bind


@pytest.fixture
def xpub():
    context = zmq.Context()
    yield context.socket(zmq.XPUB)
    context.destroy(linger=0)


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://127.0.0.1:5570",
        "tcp://127.8.9.1:0",
        "tcp://localhost:*",
        "tcp://[::1]:5570",
        "ipc:///run/streamcls/publish.sock",
        "ipc://@abstract",
    ],
)
def test_local_endpoints_are_allowed(endpoint):
    check_bind(endpoint, insecure=False)


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://*:5570",
        "tcp://0.0.0.0:5570",
        "tcp://[::]:5570",
        "tcp://192.168.1.5:1",
        "tcp://eth0:1",
    ],
)
def test_the_network_needs_an_explicit_yes(endpoint):
    with pytest.raises(PublishError) as caught:
        check_bind(endpoint, insecure=False)
    for part in (endpoint, "other machines", "encrypted", "127.0.0.1", "insecure = true"):
        assert part in str(caught.value)
    check_bind(endpoint, insecure=True)


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "5570",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:70000",
        "tcp://127.0.0.1:x",
        "udp://h:1",
        "tcp://h\udcff:1",
        "ipc://",
        "ipc:///run/\udcff",
    ],
)
def test_malformed_endpoints_are_refused(endpoint):
    with pytest.raises(PublishError, match=r"use (tcp|ipc)://"):
        check_bind(endpoint, insecure=True)


def test_a_long_ipc_path_is_refused():
    with pytest.raises(PublishError, match=r"120 bytes.*107.*shorter"):
        check_bind("ipc://" + "/" * 120, insecure=False)


def test_the_chosen_port_is_reported(xpub):
    actual = bind(xpub, "tcp://127.0.0.1:*")
    assert int(actual.rpartition(":")[2]) > 0


def test_a_port_in_use_is_named(xpub):
    with posix_socket.create_server(("127.0.0.1", 0)) as other:
        endpoint = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(PublishError, match=f"{endpoint}.*in use.*another endpoint"):
            bind(xpub, endpoint)


def test_a_foreign_address_is_named(xpub):
    with pytest.raises(PublishError, match=r"203\.0\.113\.1.*no such address"):
        bind(xpub, "tcp://203.0.113.1:5570")


def test_a_living_daemon_keeps_its_ipc_file(xpub, tmp_path):
    path = tmp_path / "publish.sock"
    with posix_socket.socket(posix_socket.AF_UNIX) as living:
        living.bind(str(path))
        living.listen()
        with pytest.raises(PublishError, match=r"publish\.sock.*in use"):
            bind(xpub, f"ipc://{path}")
        assert path.is_socket()


def test_a_stale_ipc_file_is_replaced(xpub, tmp_path):
    path = tmp_path / "publish.sock"
    with posix_socket.socket(posix_socket.AF_UNIX) as dead:
        dead.bind(str(path))  # closed without unlink, as after a crash
    assert bind(xpub, f"ipc://{path}") == f"ipc://{path}"


def test_a_plain_file_is_not_deleted(xpub, tmp_path):
    path: Path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(PublishError, match=r"notes\.txt.*not a socket"):
        bind(xpub, f"ipc://{path}")
    assert path.read_text() == "mine"


def test_a_missing_folder_is_named(xpub, tmp_path):
    with pytest.raises(PublishError, match="folder does not exist"):
        bind(xpub, f"ipc://{tmp_path}/nowhere/publish.sock")
