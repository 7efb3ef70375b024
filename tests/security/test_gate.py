"""CURVE on real sockets: who hears, who is refused and counted, and that changes count at once."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zmq

from streamcls.client import ClientKeys, ControlClient, ControlTimeoutError, Subscriber
from streamcls.client.diagnosis import find_obstacle
from streamcls.publish import auth
from streamcls.publish.auth import NO_CURVE, UNKNOWN_KEY, WRONG_SERVER_KEY, Gate, secure_server
from streamcls.publish.control import ControlServer
from streamcls.publish.key_files import KeyPair, Right
from streamcls.publish.keys import ServerKeys
from streamcls.publish.messages import Vocabulary
from streamcls.publish.publisher import Publisher

MakeClient = Callable[..., ClientKeys]

LONG_S = 20.0
"""For what must happen."""
SHORT_S = 0.3
"""For what must not, after it was counted."""


def hear(publisher: Publisher, keys: ClientKeys | None) -> None:
    """Subscribe, and check that the daemon's heartbeat arrives."""
    with Subscriber(publisher.endpoint, types=["heartbeat"], keys=keys) as subscriber:
        subscriber.receive(LONG_S)


def hear_nothing(publisher: Publisher, keys: ClientKeys | None) -> None:
    """Subscribe, and check that one is refused and counted, and that nothing arrives."""
    before = total(publisher)
    with Subscriber(publisher.endpoint, types=["heartbeat"], keys=keys) as subscriber:
        wait_until(lambda: total(publisher) > before)
        with pytest.raises(TimeoutError):
            subscriber.receive(SHORT_S)


def total(service: Publisher | ControlServer) -> int:
    return sum(refused(service).values())


def answers(endpoint: str, keys: ClientKeys | None, timeout_s: float) -> bool:
    with ControlClient(endpoint, keys=keys) as client:
        try:
            return client.call("status", timeout_s=timeout_s) == "fine"
        except ControlTimeoutError:
            return False


def wait_until(condition: Callable[[], Any]) -> None:
    give_up_at_s = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < give_up_at_s
        time.sleep(0.02)


def refused(service: Publisher | ControlServer) -> dict[str, int]:
    connections = service.connections()
    assert connections is not None
    return connections["refused"]


def test_the_right_key_hears(publisher: Publisher, make_client: MakeClient):
    hear(publisher, make_client("porch", Right.LISTEN))
    assert publisher.connections() == {"accepted": 1, "admitted": 1, "refused": {}}


def test_the_right_key_controls(control: ControlServer, make_client: MakeClient):
    assert answers(control.endpoint, make_client("desk", Right.CONTROL), LONG_S)


def test_ipc_is_encrypted_as_well(folder: Path, tmp_path: Path, make_client: MakeClient):
    keys = make_client("porch", Right.LISTEN)
    vocabulary = Vocabulary("m", ("a",))
    with Publisher(
        f"ipc://{tmp_path}/p.sock", vocabulary, keys=ServerKeys.load(folder)
    ) as publisher:
        hear(publisher, keys)
        hear_nothing(publisher, None)


def test_an_unknown_key_hears_nothing_and_is_counted(
    publisher: Publisher, folder: Path, caplog: pytest.LogCaptureFixture
):
    stranger = ClientKeys(KeyPair.generate(), ServerKeys.load(folder).pair.public)
    hear_nothing(publisher, stranger)
    assert refused(publisher)[UNKNOWN_KEY] >= 1
    assert f"{UNKNOWN_KEY}: {stranger.pair.public.decode()} from 127.0.0.1" in caplog.text


def test_a_wrong_server_key_hears_nothing_and_is_counted(
    publisher: Publisher, make_client: MakeClient
):
    known = make_client("porch", Right.LISTEN)
    confused = ClientKeys(known.pair, KeyPair.generate().public)
    hear_nothing(publisher, confused)
    assert refused(publisher)[WRONG_SERVER_KEY] >= 1


def test_no_key_hears_nothing_and_is_counted(publisher: Publisher):
    hear_nothing(publisher, None)
    # Who notices first, we or the client, is up to the network.
    assert refused(publisher).keys() <= {NO_CURVE, auth.INCOMPLETE}


def test_rights_are_separate(publisher: Publisher, control: ControlServer, make_client: MakeClient):
    listener = make_client("listener", Right.LISTEN)
    sender = make_client("sender", Right.SEND)
    assert not answers(control.endpoint, listener, SHORT_S)
    assert refused(control).keys() == {"no right to control"}
    hear_nothing(publisher, sender)
    assert refused(publisher).keys() == {"no right to listen"}
    hear(publisher, listener)


def test_a_key_added_later_is_let_in_without_any_restart(
    publisher: Publisher, folder: Path, make_client: MakeClient
):
    keys = make_client("porch", Right.LISTEN)
    public = folder / "clients" / "porch.pub"
    waiting = public.rename(folder / "porch.pub")
    with Subscriber(publisher.endpoint, types=["heartbeat"], keys=keys) as subscriber:
        wait_until(lambda: refused(publisher))
        waiting.rename(public)
        subscriber.receive(LONG_S)


def test_a_removed_key_is_cut_off_for_new_connections(
    publisher: Publisher, folder: Path, make_client: MakeClient
):
    keys = make_client("porch", Right.LISTEN)
    hear(publisher, keys)
    (folder / "clients" / "porch.pub").unlink()
    hear_nothing(publisher, keys)
    assert refused(publisher).keys() == {UNKNOWN_KEY}


def test_a_removed_key_loses_control_even_on_an_open_connection(
    control: ControlServer, folder: Path, make_client: MakeClient
):
    other = make_client("other", Right.CONTROL)
    with ControlClient(control.endpoint, keys=make_client("desk", Right.CONTROL)) as client:
        assert client.call("status", timeout_s=LONG_S) == "fine"
        (folder / "clients" / "desk.pub").unlink()
        with pytest.raises(ControlTimeoutError):
            client.call("status", timeout_s=0.5)
    assert answers(control.endpoint, other, LONG_S)


def test_without_a_gate_nobody_gets_in(folder: Path, make_client: MakeClient):
    """Should the gate's thread be missing, libzmq must not let everybody in."""
    keys = make_client("desk", Right.CONTROL)
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        secure_server(socket, ServerKeys.load(folder), Right.CONTROL)
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        assert not answers(f"tcp://127.0.0.1:{port}", keys, SHORT_S)


def test_the_gate_outlives_whatever_is_sent_to_it(
    folder: Path, make_client: MakeClient, quick_retry: None
):
    """Other sockets of the context could reach the gate's address with anything at all."""
    keys = make_client("desk", Right.LISTEN)
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        gate = Gate(ServerKeys.load(folder), Right.LISTEN)
        with gate.guard(socket):
            port = socket.bind_to_random_port("tcp://127.0.0.1")
            with context.socket(zmq.DEALER) as liar:
                liar.linger = 0
                liar.connect(auth.ZAP_ENDPOINT)
                for frames in (
                    [b""],
                    [b"1.0"],
                    [b"1.0", b"1", b"listen", b"", b"", b"CURVE", b"x"],
                ):
                    liar.send_multipart([b"", *frames])
                    assert liar.poll(5000), "every question must be answered"
                    assert liar.recv_multipart()[3] != b"200"
            with Subscriber(f"tcp://127.0.0.1:{port}", keys=keys):
                wait_until(lambda: gate.stats()["admitted"])
        socket.linger = 0


def test_a_flood_of_refusals_is_a_few_lines(
    publisher: Publisher, folder: Path, caplog: pytest.LogCaptureFixture
):
    server_public = ServerKeys.load(folder).pair.public
    caplog.set_level(logging.INFO)
    context = zmq.Context()
    try:
        sockets = [context.socket(zmq.SUB) for _ in range(30)]
        for socket in sockets:
            auth.secure_client(socket, ClientKeys(KeyPair.generate(), server_public))
            socket.connect(publisher.endpoint)
        wait_until(lambda: refused(publisher).get(UNKNOWN_KEY, 0) >= 30)
    finally:
        context.destroy(linger=0)
    lines = [record for record in caplog.records if record.name == auth.__name__]
    assert len(lines) <= 3


def test_a_client_is_told_what_keeps_it_out(
    publisher: Publisher, make_client: MakeClient, tmp_path: Path
):
    controller = make_client("desk", Right.CONTROL)
    assert "it asks for keys" in find_obstacle(publisher.endpoint, None)
    assert "lacks our key or the right" in find_obstacle(publisher.endpoint, controller)
    assert "publishes nothing" in find_obstacle(
        publisher.endpoint, make_client("porch", Right.LISTEN)
    )
    assert "running there?" in find_obstacle(f"ipc://{tmp_path}/none.sock", None, timeout_s=0.2)
    with Publisher("tcp://127.0.0.1:*", Vocabulary("m", ("a",))) as open_publisher:
        # The clear answer may take some attempts: it ends the wait, so this costs nothing.
        said = find_obstacle(open_publisher.endpoint, controller, timeout_s=20)
        assert "it has no keys" in said
