"""The relay between real publishers and real subscribers."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from streamcls.client import Gap, HealthMessage, HeartbeatMessage, PredictionMessage, Subscriber
from streamcls.errors import PublishError
from streamcls.publish.key_files import Right
from streamcls.publish.keys import ClientKeys, ServerKeys, create_client, create_server
from streamcls.publish.messages import Vocabulary
from streamcls.publish.publisher import Publisher
from streamcls.relay import SEND_QUEUE_MESSAGES, Relay, run_relay
from streamcls.types import Health, HealthState, Prediction

LABELS = tuple(f"class_{index}" for index in range(40))
VOCABULARY = Vocabulary("commands", LABELS)
PROBABILITIES = np.linspace(0, 1, len(LABELS), dtype=np.float32)


def start_daemon(endpoint: str = "tcp://127.0.0.1:*", **options: Any) -> Publisher:
    return Publisher(endpoint, VOCABULARY, top_k=0, **options)


def predict(publisher: Publisher, stream: str) -> None:
    prediction = Prediction(stream, 0, 0, 1, 16_000, 0, 1, -20.0, (), PROBABILITIES)
    publisher.publish_prediction(prediction)


def tell(publisher: Publisher, stream: str, reason: str) -> None:
    publisher.publish_health(Health(stream, HealthState.LIVE, 0, 0, 0, 0, 0, reason))


def wait_until(condition: Callable[[], Any], timeout_s: float = 10.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@pytest.fixture
def fleet() -> Iterator[tuple[Relay, Publisher, Publisher]]:
    with ExitStack() as stack:
        daemons = [stack.enter_context(start_daemon()) for _ in range(2)]
        backs = [daemon.endpoint for daemon in daemons]
        relay = stack.enter_context(Relay("tcp://127.0.0.1:*", backs))
        wait_until(lambda: all(relay.connected().values()))
        yield relay, daemons[0], daemons[1]


def test_a_late_subscriber_gets_the_last_values_of_every_daemon(fleet) -> None:
    relay, one, two = fleet
    tell(one, "porch", "first")
    tell(one, "porch", "second")
    tell(two, "yard", "only")
    wait_until(lambda: len(one.snapshot()) + len(two.snapshot()) == 2)
    for _ in range(2):  # the second one's subscription is a repeated one
        with Subscriber(relay.endpoint, types=["health"]) as subscriber:
            heard = {}
            while len(heard) < 2:
                message = subscriber.receive(10)
                assert isinstance(message, HealthMessage)
                heard[message.stream] = (message.reason, message.run)
            assert heard == {"porch": ("second", one.run), "yard": ("only", two.run)}
    assert relay.ignored == 0


def test_subscriptions_are_forwarded_and_nothing_else_comes_through(fleet) -> None:
    relay, one, two = fleet
    with Subscriber(relay.endpoint, streams=["yard"], types=["prediction"]) as subscriber:
        assert isinstance(subscriber_heartbeat(relay), HeartbeatMessage)
        for _ in range(3):
            predict(one, "porch")
            predict(two, "yard")
        got = [subscriber.receive(10) for _ in range(3)]
    assert {message.stream for message in got} == {"yard"}


def subscriber_heartbeat(relay: Relay) -> Any:
    """Wait for a heartbeat: by then the subscriptions made before have arrived."""
    with Subscriber(relay.endpoint, types=["heartbeat"]) as subscriber:
        return subscriber.receive(10)


def test_gaps_are_found_behind_a_relay_for_each_daemon_alone(fleet) -> None:
    """Both daemons have a stream of the same name and number from 0; the run tells them apart."""
    relay, one, two = fleet
    with Subscriber(relay.endpoint, types=["prediction", "heartbeat"]) as subscriber:
        runs = set()
        while runs != {one.run, two.run}:
            message = subscriber.receive(10)
            assert isinstance(message, HeartbeatMessage)
            runs.add(message.run)
        for _ in range(5):
            predict(one, "porch")
        for _ in range(3):
            predict(two, "porch")
        got = []
        while len(got) < 8:
            if isinstance(message := subscriber.receive(10), PredictionMessage):
                got.append((message.run, message.seq))
        assert sorted(got) == sorted(
            [(one.run, seq) for seq in range(5)] + [(two.run, seq) for seq in range(3)]
        )
        assert (subscriber.inbox.missed, subscriber.inbox.invalid) == (0, 0)


def test_daemons_may_come_and_go(fleet) -> None:
    relay, one, two = fleet
    endpoint = one.endpoint
    with Subscriber(relay.endpoint, types=["prediction"]) as subscriber:
        subscriber_heartbeat(relay)
        one.close()
        wait_until(lambda: not relay.connected()[endpoint])
        predict(two, "yard")
        assert subscriber.receive(10).stream == "yard"
        with start_daemon(endpoint) as again:
            wait_until(lambda: relay.connected()[endpoint])
            wait_until(lambda: heard_after_predicting(subscriber, again))


def heard_after_predicting(subscriber: Subscriber, daemon: Publisher) -> bool:
    """The relay repeats its subscriptions to a daemon that came back, a moment later."""
    predict(daemon, "porch")
    try:
        message = subscriber.receive(0.2)
    except TimeoutError:
        return False
    return isinstance(message, PredictionMessage) and message.run == daemon.run


def test_a_daemon_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/late.sock"
    with (
        Relay("tcp://127.0.0.1:*", [endpoint]) as relay,
        Subscriber(relay.endpoint, types=["health"]) as subscriber,
    ):
        assert relay.connected() == {endpoint: False}
        with start_daemon(endpoint) as daemon:
            tell(daemon, "porch", "hello")
            message = subscriber.receive(10)
            assert isinstance(message, HealthMessage)
            assert message.reason == "hello"


def test_a_stalled_subscriber_costs_the_others_nothing_and_learns_of_its_loss(fleet) -> None:
    relay, one, _ = fleet
    n_messages = 20 * SEND_QUEUE_MESSAGES
    heard: list[int] = []
    with (
        Subscriber(relay.endpoint, types=["prediction"]) as good,
        Subscriber(relay.endpoint, types=["prediction"]) as stalled,
    ):
        for subscriber in (good, stalled):
            subscriber_heartbeat(relay)
            predict(one, "porch")
            while not isinstance(subscriber.receive(10), PredictionMessage):
                pass

        def listen() -> None:
            while len(heard) < n_messages:
                message = good.receive(10)
                if isinstance(message, PredictionMessage):
                    heard.append(message.seq)

        thread = threading.Thread(target=listen)
        thread.start()
        for count in range(n_messages):
            predict(one, "porch")
            if count % 32 == 31:  # a flood would be dropped by the publisher itself
                wait_until(lambda count=count: len(heard) > count - 64)
        thread.join(20)
        assert heard[-1] - heard[0] == n_messages - 1
        assert good.inbox.missed == 0
        assert relay.forwarded >= n_messages
        got, missed, last = 0, 0, -1
        while last < heard[-1]:
            message = stalled.receive(10)
            if isinstance(message, Gap):
                missed += message.missing
                last = message.last_missing_seq
            elif isinstance(message, PredictionMessage):
                got += 1
                last = message.seq
    assert missed > 0
    assert got + missed >= n_messages


def test_what_is_not_of_the_protocol_stops_at_the_relay(fleet) -> None:
    relay, _, _ = fleet
    context = zmq.Context()
    rude = context.socket(zmq.XSUB)
    rude.linger = 0
    rude.connect(relay.endpoint)
    rude.send(b"hello daemon")
    rude.send_multipart([b"\x01a", b"b"])
    wait_until(lambda: relay.ignored == 2)
    rude.close()
    context.term()
    assert isinstance(subscriber_heartbeat(relay), HeartbeatMessage)


def test_keys_in_front_and_behind(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    server_public = create_server(folder)
    relay_key, _ = create_client(folder, "relay", [Right.LISTEN])
    tablet_key, _ = create_client(folder, "tablet", [Right.LISTEN])
    keys = ServerKeys.load(folder)
    with (
        start_daemon(keys=keys) as daemon,
        Relay(
            "tcp://127.0.0.1:*",
            [daemon.endpoint],
            keys=keys,
            back_keys=ClientKeys.load(relay_key, server_public),
        ) as relay,
    ):
        tablet = ClientKeys.load(tablet_key, server_public)
        with Subscriber(relay.endpoint, types=["heartbeat"], keys=tablet) as subscriber:
            assert isinstance(subscriber.receive(10), HeartbeatMessage)
        with (
            Subscriber(relay.endpoint, types=["heartbeat"]) as stranger,
            pytest.raises(TimeoutError),
        ):
            stranger.receive(1.2)


@pytest.mark.parametrize(
    ("front", "backs", "message"),
    [
        ("tcp://0.0.0.0:5580", ["tcp://127.0.0.1:5570"], "keys"),
        ("tcp://127.0.0.1:5580", ["gopher:x"], "not an address to connect to"),
        ("tcp://127.0.0.1:5580", ["tcp://h\udcff:1"], r"\(it is not UTF-8\): use tcp://HOST:PORT"),
        ("tcp://127.0.0.1:5580", ["tcp://127.0.0.1:5580"], "cannot listen to itself"),
    ],
)
def test_mistakes_are_refused(front: str, backs: list[str], message: str) -> None:
    with pytest.raises(PublishError, match=message):
        Relay(front, backs)


def test_the_command_relays_until_it_is_told_to_stop(tmp_path: Path) -> None:
    front = f"ipc://{tmp_path}/front.sock"
    with start_daemon() as daemon:
        command = [sys.executable, "-W", "error", "-m", "streamcls", "relay"]
        command += ["--front", front, "--back", daemon.endpoint]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        with Subscriber(front, types=["heartbeat"]) as subscriber:
            message = subscriber.receive(20)
        assert isinstance(message, HeartbeatMessage)
        assert message.run == daemon.run
        process.terminate()
        _, said = process.communicate(timeout=20)
    assert process.returncode == 0, said
    assert f"connected to the daemon at {daemon.endpoint}" in said


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_relay_that_nobody_can_hear_any_more_ends_as_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def die(*_: object) -> None:
        raise ValueError("as a bug would")

    monkeypatch.setattr(Relay, "_forward", die)
    with pytest.raises(PublishError, match="has died"):
        run_relay(Relay("tcp://127.0.0.1:*", ["tcp://127.0.0.1:9"]))
