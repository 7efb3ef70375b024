"""Anything at all, sent to real sockets: the services live on and valid clients are served.

`scripts/fuzz.py` does the same a million times over, with memory watched; see docs/security.md.
"""

import re
import socket as posix_socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from streamcls.client import ClientKeys, ControlClient, Subscriber
from streamcls.publish.auth import secure_client
from streamcls.publish.control import REQUEST_LIMIT_BYTES, ControlServer
from streamcls.publish.key_files import Right
from streamcls.publish.keys import ServerKeys, create_client, create_server
from streamcls.publish.messages import Vocabulary
from streamcls.publish.methods import MethodTable
from streamcls.publish.publisher import Publisher

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "fuzz.py"
TEXTS = st.sampled_from(
    ["", "jsonrpc", "2.0", "method", "status", "replay", "params", "id", "\x00"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)
CALLS = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0"), "method": TEXTS, "id": st.integers()},
    optional={"params": JSON, "extra": JSON},
)
FRAMES = st.lists(st.binary(max_size=64), min_size=1, max_size=12)
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + bytes(32)
Connect = Callable[[int, str], zmq.Socket[Any]]


@pytest.fixture(scope="module", params=["open", "keys"])
def keys(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the keys of server and client, or neither."""
    if request.param == "open":
        return None, None
    folder = tmp_path_factory.mktemp("fuzz") / "keys"
    create_server(folder)
    private, _ = create_client(folder, "fuzzer", list(Right))
    return ServerKeys.load(folder), ClientKeys.load(private, folder / "server.pub")


@pytest.fixture(scope="module")
def publisher(keys: Any) -> Iterator[Publisher]:
    with Publisher("tcp://127.0.0.1:*", Vocabulary("m", ("a",)), keys=keys[0]) as publisher:
        yield publisher


@pytest.fixture(scope="module")
def control(keys: Any, publisher: Publisher) -> Iterator[ControlServer]:
    methods = MethodTable({"status": lambda _: publisher.stats(), **publisher.methods()})
    with ControlServer("tcp://127.0.0.1:*", methods, keys=keys[0]) as control:
        yield control


@pytest.fixture(scope="module")
def connect(keys: Any) -> Iterator[Connect]:
    """Open sockets that may send whatever they like; all of them close at the end."""
    context = zmq.Context()
    opened: list[zmq.Socket[Any]] = []

    def open_socket(kind: int, endpoint: str) -> zmq.Socket[Any]:
        socket = context.socket(kind)
        opened.append(socket)
        socket.linger, socket.rcvtimeo, socket.sndtimeo = 0, 10_000, 10_000
        if keys[1] is not None:
            secure_client(socket, keys[1])
        socket.connect(endpoint)
        return socket

    yield open_socket
    for socket in opened:
        socket.close()
    context.term()


@pytest.fixture(scope="module")
def valid_client(control: ControlServer, keys: Any) -> Iterator[ControlClient]:
    with ControlClient(control.endpoint, keys=keys[1]) as client:
        yield client


@pytest.fixture(scope="module")
def request_socket(connect: Connect, control: ControlServer) -> zmq.Socket[Any]:
    return connect(zmq.DEALER, control.endpoint)


@given(call=JSON | CALLS | st.lists(CALLS, max_size=40))
@settings(max_examples=150)
def test_every_json_value_with_an_id_is_answered(request_socket: zmq.Socket[Any], call: Any):
    request_socket.send(msgspec.json.encode([call, {"jsonrpc": "2.0", "method": "?", "id": 7}]))
    replies = msgspec.json.decode(request_socket.recv())
    assert {"result", "error"} & replies[-1].keys()
    assert replies[-1]["id"] == 7
    assert replies[-1]["error"]["code"] == -32601


@given(frames=FRAMES)
@settings(max_examples=150)
def test_any_frames_leave_the_control_socket_in_service(
    request_socket: zmq.Socket[Any], valid_client: ControlClient, frames: list[bytes]
):
    request_socket.send_multipart(frames)
    assert valid_client.call("status")["queued"] >= 0
    while request_socket.poll(0):
        reply = msgspec.json.decode(request_socket.recv_multipart()[-1])
        assert reply["error"]["code"] in (-32700, -32600)


def test_an_oversized_request_costs_its_sender_the_connection_and_nobody_else_anything(
    connect: Connect, control: ControlServer, valid_client: ControlClient
):
    socket = connect(zmq.DEALER, control.endpoint)
    socket.send(b'{"jsonrpc": "2.0", "method": "status", "id": 1}')
    socket.recv()
    socket.send(b" " * (REQUEST_LIMIT_BYTES + 1000))
    assert not socket.poll(300)
    assert valid_client.call("status")["queued"] >= 0


@given(frames=st.binary(max_size=1500).map(lambda topic: [b"\x01" + topic]) | FRAMES)
@settings(max_examples=150)
def test_any_subscription_leaves_the_publisher_in_service(
    subscription_socket: zmq.Socket[Any], publisher: Publisher, frames: list[bytes]
):
    subscription_socket.send_multipart(frames)
    assert publisher.alive


@pytest.fixture(scope="module")
def subscription_socket(
    connect: Connect, publisher: Publisher, keys: Any
) -> Iterator[zmq.Socket[Any]]:
    yield connect(zmq.XSUB, publisher.endpoint)
    with Subscriber(publisher.endpoint, types=["heartbeat"], keys=keys[1]) as subscriber:
        subscriber.receive(10)


@given(
    begin=st.sampled_from([b"", b"\xff", b"GET / HTTP/1.1\r\n\r\n", GREETING, GREETING[:11]]),
    rest=st.binary(max_size=600),
)
@settings(max_examples=100)
def test_any_bytes_over_tcp_leave_both_ports_in_service(
    publisher: Publisher,
    control: ControlServer,
    valid_client: ControlClient,
    begin: bytes,
    rest: bytes,
):
    for service in (publisher, control):
        port = int(service.endpoint.rpartition(":")[2])
        with posix_socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(begin + rest)
    assert valid_client.call("status")["queued"] >= 0
    assert publisher.alive


def test_the_fuzz_script_finds_nobody_harmed():
    command = [sys.executable, str(SCRIPT), "--requests", "3000", "--seed", "1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "nobody was harmed" in result.stdout
    attacks = re.search(r"^(\d+) attacks in", result.stdout, re.MULTILINE)
    assert attacks is not None
    assert int(attacks[1]) >= 3000
