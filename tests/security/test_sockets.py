"""Which addresses may be listened on with and without keys, and who may use an ipc socket."""

import os
from pathlib import Path

import pytest

from streamcls.client import ControlClient
from streamcls.errors import PublishError
from streamcls.publish.control import ControlServer
from streamcls.publish.endpoint import check_bind
from streamcls.publish.keys import ServerKeys

LOCAL = (
    "tcp://127.0.0.1:5570",
    "tcp://127.255.255.254:5570",
    "tcp://localhost:5570",
    "tcp://lo:5570",
    "tcp://[::1]:5570",
    "tcp://[::ffff:127.0.0.1]:5570",
    "ipc:///run/streamcls/publish.sock",
    "ipc://@streamcls",
)
OPEN = (
    "tcp://*:5570",
    "tcp://0.0.0.0:5570",
    "tcp://0:5570",
    "tcp://[::]:5570",
    "tcp://[::ffff:0.0.0.0]:5570",
    "tcp://[::ffff:192.0.2.7]:5570",
    "tcp://[fe80::1%eth0]:5570",
    "tcp://192.0.2.7:5570",
    "tcp://eth0:5570",
    "tcp://daemon.example:5570",
    "tcp://localhost.example:5570",
    "tcp://127.0.0.1.example:5570",
    "tcp://2130706433:5570",  # 127.0.0.1 to some, but nobody means it
)


@pytest.mark.parametrize("endpoint", LOCAL)
def test_this_machine_needs_no_keys(endpoint: str):
    check_bind(endpoint, insecure=False, encrypted=False)


@pytest.mark.parametrize("endpoint", OPEN)
def test_the_network_needs_keys_or_an_explicit_yes(endpoint: str):
    with pytest.raises(PublishError) as caught:
        check_bind(endpoint, insecure=False, encrypted=False)
    remedies = ("streamcls keys new", "security.keys", "publish.insecure = true")
    for part in (endpoint, *remedies, "--keys", "--insecure"):
        assert part in str(caught.value)
    check_bind(endpoint, insecure=False, encrypted=True)
    check_bind(endpoint, insecure=True, encrypted=False)


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1;0.0.0.0:5570", "tcp://[::1]0.0.0.0:5570"])
def test_no_address_hides_behind_a_local_one(endpoint: str):
    with pytest.raises(PublishError):
        check_bind(endpoint, insecure=False)


@pytest.mark.parametrize("endpoint", ["tcp://localhost:*", "tcp://lo:*"])
def test_local_names_are_local_for_libzmq_too(endpoint: str):
    with ControlServer(endpoint, {}) as control:
        assert control.endpoint.startswith("tcp://127.")


def test_an_open_address_works_with_keys(folder: Path):
    with ControlServer("tcp://*:*", {}, keys=ServerKeys.load(folder)) as control:
        assert control.endpoint.startswith("tcp://0.0.0.0:")


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_an_ipc_socket_has_its_mode_whatever_the_umask(tmp_path: Path, mode: int, umask: int):
    path = tmp_path / "control.sock"
    previous = os.umask(umask)
    try:
        with ControlServer(f"ipc://{path}", {"ping": lambda _: "pong"}, ipc_mode=mode) as control:
            assert path.stat().st_mode & 0o777 == mode
            with ControlClient(control.endpoint) as client:
                assert client.call("ping") == "pong"
    finally:
        os.umask(previous)
    assert not path.exists()
