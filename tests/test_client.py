"""The client: the rules of gaps without sockets, then everything against a real publisher."""

import asyncio
import math
import threading
import time

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcls.client import (
    AsyncSubscriber,
    ControlClient,
    ControlError,
    ControlTimeoutError,
    Gap,
    HealthMessage,
    HeartbeatMessage,
    Message,
    PredictionMessage,
    Subscriber,
)
from streamcls.errors import PublishError
from streamcls.inbox import RUNS_REMEMBERED, Inbox
from streamcls.publish.control import ControlServer
from streamcls.publish.messages import Vocabulary
from streamcls.publish.publisher import Publisher
from streamcls.publish.rpc import InvalidParamsError
from streamcls.publish.schema import ProtocolError, encode
from streamcls.types import Health, HealthState, Prediction

VOCABULARY = Vocabulary("commands", ("yes", "no"))


def health(seq: int, stream: str = "porch", run: str = "a") -> bytes:
    message = HealthMessage(
        run=run,
        stream=stream,
        seq=seq,
        published_ns=0,
        state="live",
        dropped_samples=0,
        xruns=0,
        overruns=0,
        reason="",
    )
    return encode(message)


def heartbeat(last_seq: dict[str, int], run: str = "a") -> bytes:
    message = HeartbeatMessage(
        run=run,
        stream="",
        seq=0,
        published_ns=0,
        interval_s=1,
        uptime_s=0,
        last_seq=last_seq,
        dropped={},
    )
    return encode(message)


def summarise(inbox: Inbox, payloads: list[bytes]) -> list:
    """Return what is delivered: seq of a message, (first, last) of a gap."""
    return [
        (item.first_missing_seq, item.last_missing_seq) if isinstance(item, Gap) else item.seq
        for payload in payloads
        for item in inbox.accept(payload)
    ]


# -- the rules, without sockets -----------------------------------------------------------


def test_joining_late_is_no_gap():
    assert summarise(Inbox(), [health(41), health(42)]) == [41, 42]


def test_a_hole_is_reported_before_the_message_that_shows_it():
    inbox = Inbox()
    [gap] = [item for seq in (3, 7) for item in inbox.accept(health(seq)) if isinstance(item, Gap)]
    assert gap == Gap("porch", "health", 4, 6, "a")
    assert (gap.missing, inbox.missed, inbox.received) == (3, 3, 2)
    assert summarise(inbox, [health(9)]) == [(8, 8), 9]


def test_a_repeated_last_value_is_delivered_once():
    inbox = Inbox()
    assert summarise(inbox, [health(5), health(5), health(6), health(5)]) == [5, 6]
    assert inbox.repeated == 2


def test_a_heartbeat_reveals_what_never_came():
    inbox = Inbox()
    beat = heartbeat({"health/porch/": 8})
    assert summarise(inbox, [health(5), beat, beat, health(9)]) == [5, (6, 8), 9]


def test_a_heartbeat_is_where_a_silent_sequence_starts():
    beats = [heartbeat({"health/porch/": 8}), heartbeat({"health/porch/": 9})]
    assert summarise(Inbox(), [beats[0], health(9)]) == [9]
    assert summarise(Inbox(), [beats[0], health(8)]) == []
    assert summarise(Inbox(), [beats[0], beats[1]]) == [(9, 9)]


def test_a_sequence_that_starts_while_we_listen_starts_at_0():
    assert summarise(Inbox(), [heartbeat({}), health(0)]) == [0]
    assert summarise(Inbox(), [heartbeat({}), health(2)]) == [(0, 1), 2]
    assert summarise(Inbox(), [heartbeat({}), heartbeat({"health/porch/": 1})]) == [(0, 1)]


def test_an_old_heartbeat_takes_nothing_back():
    payloads = [heartbeat({}), health(0), health(1), heartbeat({"health/porch/": 0}), health(2)]
    assert summarise(Inbox(), payloads) == [0, 1, 2]


def test_a_restarted_daemon_is_no_gap():
    inbox = Inbox()
    payloads = [health(100, run="a"), heartbeat({}, run="b"), health(0, run="b")]
    assert summarise(inbox, payloads) == [100, 0]
    assert summarise(inbox, [health(1, run="b"), health(3, run="b")]) == [1, (2, 2), 3]
    assert inbox.missed == 1


def test_daemons_behind_a_relay_are_kept_apart():
    payloads = [health(seq, run=run) for seq in (7, 8) for run in ("a", "b")]
    assert summarise(Inbox(), payloads) == [7, 7, 8, 8]


def test_losses_are_found_behind_a_relay_in_front_of_hundreds_of_daemons():
    inbox = Inbox()
    for seq in (0, 2):
        summarise(inbox, [health(seq, run=f"run {index}") for index in range(500)])
    assert (inbox.received, inbox.missed) == (1000, 500)


def test_old_runs_are_forgotten():
    inbox = Inbox()
    runs = [f"run {index}" for index in range(RUNS_REMEMBERED + 1)]
    summarise(inbox, [health(0, run=run) for run in runs])
    assert summarise(inbox, [health(9, run=runs[-1])]) == [(1, 8), 9]
    assert summarise(inbox, [health(9, run=runs[0])]) == [9]


def test_streams_are_counted_apart_and_filtered():
    payloads = [health(1, "porch"), health(5, "hall"), health(2, "porch"), health(7, "hall")]
    assert summarise(Inbox(), payloads) == [1, 5, 2, (6, 6), 7]
    inbox = Inbox(streams=["porch"])
    beat = heartbeat({"health/porch/": 2, "health/hall/": 99, "prediction/porch/": 0})
    assert summarise(inbox, [*payloads, beat]) == [1, 2]
    assert inbox.missed == 0


def test_unwanted_types_are_no_gap():
    inbox = Inbox(types=["health"])
    payloads = [heartbeat({}), heartbeat({"prediction/porch/": 9, "later/porch/": 3})]
    assert summarise(inbox, payloads) == []


def test_heartbeats_are_delivered_on_request():
    assert summarise(Inbox(types=["heartbeat"]), [heartbeat({}), health(0)]) == [0]


def test_topics_end_with_the_heartbeat():
    assert list(Inbox().topics()) == [b"event/", b"health/", b"prediction/", b"heartbeat/"]
    inbox = Inbox(streams=["b", "a"], types=["prediction"])
    assert list(inbox.topics()) == [b"prediction/a/", b"prediction/b/", b"heartbeat/"]


def test_damage_is_skipped_and_counted(caplog):
    inbox = Inbox()
    assert summarise(inbox, [health(1), b"\xff", b"{}", health(2)]) == [1, 2]
    assert inbox.invalid == 2
    assert caplog.text.count("cannot be decoded") == 1


def test_another_protocol_version_is_an_error():
    future = health(0).replace(b"streamcls/1", b"streamcls/2")
    with pytest.raises(ProtocolError, match="install"):
        Inbox().accept(future)


def test_impossible_filters_are_refused():
    with pytest.raises(PublishError, match="'a/b'"):
        Inbox(streams=["a/b"])
    with pytest.raises(PublishError, match=r"'porch' is one name .*: \['porch'\]"):
        Inbox(streams="porch")
    with pytest.raises(PublishError, match=r"'event' is one name"):
        Inbox(types="event")
    with pytest.raises(PublishError, match=r"'sound'.*prediction, event, health, rejected"):
        Inbox(types=["sound"])


@given(st.lists(st.sampled_from(["keep", "keep", "lose", "beat", "repeat"]), max_size=60))
def test_every_lost_number_is_reported_exactly_once(fates):
    inbox = Inbox()
    seq, lost, delivered, missing = 0, [], [], []
    payloads = [heartbeat({})]
    for fate in [*fates, "beat"]:
        if fate == "keep":
            payloads.append(health(seq))
        elif fate == "lose":
            lost.append(seq)
        elif fate == "repeat" and seq:
            payloads.append(payloads[-1])
        elif seq:
            payloads.append(heartbeat({"health/porch/": seq - 1}))
        seq += fate in ("keep", "lose")
    for item in summarise(inbox, payloads):
        if isinstance(item, tuple):
            missing += range(item[0], item[1] + 1)
        else:
            delivered.append(item)
    assert missing == lost
    assert sorted(delivered + missing) == list(range(seq))
    assert inbox.missed == len(lost)


# -- against a real publisher -------------------------------------------------------------


def publish(publisher: Publisher, first: int, count: int, stream: str = "porch") -> None:
    for index in range(first, first + count):
        publisher.publish_prediction(
            Prediction(
                stream,
                0,
                index,
                index + 1,
                16000,
                time.time_ns(),
                time.time_ns(),
                -20.0,
                (),
                np.array([0.75, 0.25], np.float32),
            )
        )


def wait_until_connected(subscriber: Subscriber) -> None:
    """Wait for a sign of life: whatever is published from now on is heard."""
    while math.isinf(subscriber.silence_s):
        with pytest.raises(TimeoutError):
            subscriber.receive(0.05)


def wait_until_sent(publisher: Publisher, seq: int) -> None:
    """Wait until the last value of the only stream is ``seq``."""
    while [message.seq for message in publisher.snapshot()] != [seq]:
        time.sleep(0.005)


def take(message: Message | Gap) -> Message:
    assert not isinstance(message, Gap)
    return message


@pytest.fixture(params=["json", "msgpack"])
def publisher(request):
    with Publisher("tcp://127.0.0.1:*", VOCABULARY, encoding=request.param) as publisher:
        yield publisher


def test_messages_arrive_typed_and_filtered(publisher):
    with Subscriber(publisher.endpoint, streams=["porch"], timeout_s=10) as subscriber:
        wait_until_connected(subscriber)
        publish(publisher, 0, 2, "hall")
        publish(publisher, 0, 2, "porch")
        publisher.publish_health(Health("porch", HealthState.LIVE, 1, 0, 0, 0, 0, ""))
        first, second, third = (take(next(subscriber)) for _ in range(3))
        with pytest.raises(TimeoutError, match="last sign of life"):
            subscriber.receive(0)
    assert isinstance(first, PredictionMessage)
    assert first.scores == {"yes": 0.75, "no": 0.25}
    assert (first.stream, first.seq, second.seq) == ("porch", 0, 1)
    assert isinstance(third, HealthMessage)
    assert third.state == "live"


def test_the_last_value_comes_at_once_and_only_once(publisher):
    publish(publisher, 0, 5)
    wait_until_sent(publisher, 4)
    with Subscriber(publisher.endpoint, timeout_s=10) as early:
        assert take(next(early)).seq == 4
        with Subscriber(publisher.endpoint, timeout_s=10) as late:
            assert take(next(late)).seq == 4
        publish(publisher, 5, 1)
        assert take(next(early)).seq == 5
        assert (early.inbox.received, early.inbox.missed) == (2, 0)


def test_a_daemon_of_thousands_of_streams_is_heard(tmp_path):
    with (
        Publisher(f"ipc://{tmp_path}/pub", VOCABULARY, queue_messages=50_000) as publisher,
        Subscriber(publisher.endpoint, types=["heartbeat"], timeout_s=10) as subscriber,
    ):
        for index in range(20_000):
            name = f"building-7-floor-12-room-{index}".ljust(64, "-")
            publisher.publish_health(Health(name, HealthState.LIVE, 1, 0, 0, 0, 0, ""))
        while publisher.stats()["queued"]:
            time.sleep(0.01)
        while len(getattr(next(subscriber), "last_seq", ())) < 20_000:
            pass


def test_what_a_slow_subscriber_missed_is_reported_to_the_last_number():
    labels = tuple(f"class number {index}" for index in range(521))
    posterior = np.linspace(0, 1, 521, dtype=np.float32)
    total = 4000
    with (
        Publisher("ipc://@streamcls-test-slow", Vocabulary("sounds", labels), top_k=0) as publisher,
        Subscriber(publisher.endpoint, timeout_s=10) as subscriber,
    ):
        wait_until_connected(subscriber)
        for index in range(total):
            publisher.publish_prediction(
                Prediction("porch", 0, index, index + 1, 16000, 0, 0, -20.0, (), posterior)
            )
        while publisher.stats()["queued"]:
            time.sleep(0.01)
        delivered, missing = [], []
        while len(delivered) + len(missing) < total:
            match next(subscriber):
                case Gap() as gap:
                    missing += range(gap.first_missing_seq, gap.last_missing_seq + 1)
                case message:
                    delivered.append(message.seq)
    assert missing
    assert sorted(delivered + missing) == list(range(total))
    assert subscriber.inbox.missed == len(missing)


def test_a_restarted_daemon_is_heard_again_without_a_gap(tmp_path):
    endpoint = f"ipc://{tmp_path}/publish.sock"
    with Subscriber(endpoint, timeout_s=20) as subscriber:
        runs = []
        for _ in range(2):
            with Publisher(endpoint, VOCABULARY) as publisher:
                publish(publisher, 0, 3)
                message = take(next(subscriber))
                while message.run != publisher.run or message.seq != 2:
                    message = take(next(subscriber))
                runs.append(message.run)
        assert runs[0] != runs[1]
        assert subscriber.inbox.missed == 0


def test_waiting_for_nobody_ends_in_time_with_a_reason(tmp_path):
    with (
        Subscriber(f"ipc://{tmp_path}/nobody.sock", timeout_s=0.05) as subscriber,
        pytest.raises(TimeoutError, match=r"nobody\.sock.*nothing was ever heard.*running"),
    ):
        next(subscriber)


@pytest.mark.parametrize(
    "endpoint", ["", "5570", "tcp://127.0.0.1", "bogus://x", "tcp://h\udcff:1"]
)
def test_an_impossible_endpoint_is_named(endpoint):
    for client in (Subscriber, AsyncSubscriber, ControlClient):
        with pytest.raises(PublishError, match=r"not an address to connect to.*tcp://HOST:PORT"):
            client(endpoint)


def test_the_async_subscriber_does_the_same(publisher):
    async def listen():
        async with AsyncSubscriber(publisher.endpoint, timeout_s=10) as subscriber:
            publish(publisher, 0, 1)
            seqs = [take(await anext(subscriber)).seq]
            publish(publisher, 1, 4)
            async for message in subscriber:
                seqs.append(take(message).seq)
                if seqs[-1] == 4:
                    break
            with pytest.raises(TimeoutError, match="no message"):
                await subscriber.receive(0.05)
            return seqs, subscriber.inbox.missed

    assert asyncio.run(listen()) == ([0, 1, 2, 3, 4], 0)


# -- control ------------------------------------------------------------------------------


def need_stream(params):
    if set(params) != {"stream"}:
        raise InvalidParamsError("parameter 'stream' is needed", ["stream"])
    return f"got {params['stream']}"


def test_control_calls(tmp_path):
    methods = {"status": lambda params: {"up": True}, "need_stream": need_stream}
    with (
        ControlServer(f"ipc://{tmp_path}/control.sock", methods) as server,
        ControlClient(server.endpoint) as client,
    ):
        assert client.call("status") == {"up": True}
        assert client.call("need_stream", {"stream": "porch"}) == "got porch"
        with pytest.raises(ControlError, match="needed") as caught:
            client.call("need_stream")
        assert (caught.value.code, caught.value.data) == (-32602, ["stream"])
        with pytest.raises(ControlError, match="'nothing'"):
            client.call("nothing")


def test_snapshots_travel_over_control(publisher):
    publish(publisher, 0, 3)
    wait_until_sent(publisher, 2)
    methods = {"snapshot": lambda params: publisher.snapshot()}
    with (
        Subscriber(publisher.endpoint, timeout_s=10) as subscriber,
        ControlServer("tcp://127.0.0.1:*", methods) as server,
        ControlClient(server.endpoint) as client,
    ):
        last = next(subscriber)
        assert msgspec.convert(client.call("snapshot"), list[Message]) == [last]


def test_a_late_answer_is_not_taken_for_the_next_one():
    release = threading.Event()
    methods = {"slow": lambda params: release.wait(10), "status": lambda params: "now"}
    with (
        ControlServer("tcp://127.0.0.1:*", methods) as server,
        ControlClient(server.endpoint) as client,
    ):
        client.call("status")
        with pytest.raises(ControlTimeoutError, match=r"slow was not answered.*0\.1 s"):
            client.call("slow", timeout_s=0.1)
        release.set()
        assert client.call("status") == "now"


def test_a_daemon_that_is_not_there_is_said(tmp_path):
    with (
        ControlClient(f"ipc://{tmp_path}/nobody.sock") as client,
        pytest.raises(ControlTimeoutError, match=r"no daemon at.*streamcls run"),
    ):
        client.call("status", timeout_s=0.05)
