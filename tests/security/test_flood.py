"""A client that may listen, and means no good: libzmq would keep whatever it subscribes to."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from streamcls.client import ClientKeys, HealthMessage, Subscriber
from streamcls.publish.auth import SHUT_OUT, secure_client
from streamcls.publish.key_files import Right
from streamcls.publish.keys import ServerKeys
from streamcls.publish.messages import Vocabulary
from streamcls.publish.publisher import Publisher
from streamcls.publish.subscriptions import ANSWER_INTERVAL_S, LIMIT_BYTES
from streamcls.relay import Relay
from streamcls.types import Health, HealthState

HEALTH = Health("porch", HealthState.LIVE, 0, 0, 0, 0, 0, "")
LONG_S = 20.0
RESET = "all subscribers are disconnected"


@contextlib.contextmanager
def attacker(endpoint: str, keys: ClientKeys | None = None) -> Iterator[zmq.Socket[Any]]:
    """Yield an XSUB, which sends whatever it likes."""
    with zmq.Context() as context, context.socket(zmq.XSUB) as socket:
        socket.linger = 0
        socket.sndtimeo = 1000
        if keys is not None:
            secure_client(socket, keys)
        socket.connect(endpoint)
        yield socket


def flood(socket: zmq.Socket[Any], size_bytes: int) -> None:
    """Subscribe to different topics of so many bytes."""
    with contextlib.suppress(zmq.Again):  # we were cut off
        for _ in range(size_bytes // 900):
            socket.send(b"\x01" + os.urandom(899))


def hear_health(subscriber: Subscriber, publisher: Publisher) -> None:
    """Publish until a message arrives; what was sent while nobody was connected is lost."""
    give_up_at_s = time.monotonic() + LONG_S
    while time.monotonic() < give_up_at_s:
        publisher.publish_health(HEALTH)
        with contextlib.suppress(TimeoutError):
            while not isinstance(subscriber.receive(0.2), HealthMessage):
                pass
            return
    pytest.fail("nothing heard any more")


def test_a_flood_of_subscriptions_costs_everybody_one_reconnect_and_its_author_the_door(
    publisher: Publisher,
    make_client: Callable[..., ClientKeys],
    caplog: pytest.LogCaptureFixture,
):
    keys, endpoint = make_client("porch", Right.LISTEN), publisher.endpoint
    with Subscriber(endpoint, keys=keys) as subscriber:
        hear_health(subscriber, publisher)
        with attacker(endpoint, make_client("mallory", Right.LISTEN)) as socket:
            flood(socket, 2 * LIMIT_BYTES)
            give_up_at_s = time.monotonic() + LONG_S
            while SHUT_OUT not in publisher.connections()["refused"]:  # type: ignore[index]
                assert time.monotonic() < give_up_at_s
                time.sleep(0.02)
        hear_health(subscriber, publisher)
    assert publisher.endpoint == endpoint
    assert caplog.text.count(RESET) == 1


def test_without_keys_the_socket_is_made_anew_as_well(caplog: pytest.LogCaptureFixture):
    with Publisher("tcp://127.0.0.1:*", Vocabulary("m", ("a",))) as publisher:
        endpoint = publisher.endpoint
        with attacker(endpoint) as socket:
            flood(socket, 2 * LIMIT_BYTES)
            give_up_at_s = time.monotonic() + LONG_S
            while "most of them by an unknown client" not in caplog.text:
                assert time.monotonic() < give_up_at_s
                time.sleep(0.02)
        with Subscriber(endpoint) as subscriber:
            hear_health(subscriber, publisher)
        assert publisher.endpoint == endpoint


def test_a_flood_ends_at_the_relay_and_no_daemon_hears_of_it(
    folder: Path, make_client: Callable[..., ClientKeys], caplog: pytest.LogCaptureFixture
):
    keys = make_client("porch", Right.LISTEN)
    with (
        Publisher("tcp://127.0.0.1:*", Vocabulary("m", ("a",))) as publisher,
        Relay("tcp://127.0.0.1:*", [publisher.endpoint], keys=ServerKeys.load(folder)) as relay,
        Subscriber(publisher.endpoint) as direct,
        Subscriber(relay.endpoint, keys=keys) as subscriber,
    ):
        hear_health(subscriber, publisher)
        with attacker(relay.endpoint, make_client("mallory", Right.LISTEN)) as socket:
            flood(socket, 4 * LIMIT_BYTES)
            give_up_at_s = time.monotonic() + LONG_S
            while SHUT_OUT not in relay.connections()["refused"]:  # type: ignore[index]
                assert time.monotonic() < give_up_at_s
                time.sleep(0.02)
            hear_health(subscriber, publisher)  # while the culprit knocks
        hear_health(direct, publisher)
        assert direct.inbox.missed == 0
    assert caplog.text.count(RESET) == 1


def test_the_same_topics_again_and_again_are_no_flood(caplog: pytest.LogCaptureFixture):
    """A relay passes on what each of its subscribers wants, and takes back only the last."""
    with Publisher("tcp://127.0.0.1:*", Vocabulary("m", ("a",))) as publisher:
        topics = [b"\x01" + os.urandom(900) for _ in range(10)]
        with attacker(publisher.endpoint) as socket:
            for _ in range(4 * LIMIT_BYTES // 9000):
                for topic in topics:
                    socket.send(topic)
            with Subscriber(publisher.endpoint) as subscriber:
                hear_health(subscriber, publisher)
                time.sleep(0.3)
                hear_health(subscriber, publisher)
                assert subscriber.inbox.missed == 0
    assert RESET not in caplog.text


@pytest.mark.parametrize("secure", [False, True])
def test_many_that_come_and_go_are_no_flood(
    secure: bool,
    folder: Path,
    make_client: Callable[..., ClientKeys],
    caplog: pytest.LogCaptureFixture,
):
    """What is unsubscribed, by request or by leaving, no longer counts."""
    server_keys = ServerKeys.load(folder) if secure else None
    keys = make_client("visitor", Right.LISTEN) if secure else None
    with Publisher("tcp://127.0.0.1:*", Vocabulary("m", ("a",)), keys=server_keys) as publisher:
        for _ in range(4):
            with attacker(publisher.endpoint, keys) as socket:
                flood(socket, LIMIT_BYTES // 2)
                time.sleep(0.2)  # so that all of it is counted before we leave
        with attacker(publisher.endpoint, keys) as socket:
            for _ in range(2 * LIMIT_BYTES // 500):
                topic = os.urandom(499)
                socket.send(b"\x01" + topic)
                socket.send(b"\x00" + topic)
            time.sleep(0.2)
        with Subscriber(publisher.endpoint, keys=keys) as subscriber:
            hear_health(subscriber, publisher)
    assert RESET not in caplog.text


def test_a_stream_of_nonsense_does_not_keep_the_publisher_from_its_work():
    """Messages that are no subscriptions, and one subscription over and over."""
    with Publisher("tcp://127.0.0.1:*", Vocabulary("m", ("a",))) as publisher:
        publisher.publish_health(HEALTH)
        with (
            Subscriber(publisher.endpoint) as subscriber,
            attacker(publisher.endpoint) as socket,
        ):
            hear_health(subscriber, publisher)
            began_s = time.monotonic()
            for _ in range(30_000):
                socket.send(b"\x02nonsense")
                socket.send(b"\x01health/")
                socket.send(b"\x00health/")
            hear_health(subscriber, publisher)
            # Each of them wants the last value, and all who match would get it.
            bound = (time.monotonic() - began_s) / ANSWER_INTERVAL_S + 2
            assert subscriber.inbox.repeated <= bound
        assert publisher.alive
