"""The publisher over real sockets, heard with plain zmq (the client has its own tests)."""

import json
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zmq

from streamcls.errors import PublishError
from streamcls.publish.control import ControlServer
from streamcls.publish.journal import JournalLimits
from streamcls.publish.messages import Vocabulary
from streamcls.publish.methods import MethodTable, ReplayParams
from streamcls.publish.publisher import MESSAGES_PER_PASS, SEND_QUEUE_MESSAGES, Publisher
from streamcls.publish.schema import (
    EventMessage,
    HealthMessage,
    HeartbeatMessage,
    PredictionMessage,
    ReplayPage,
    decode,
)
from streamcls.types import EventState, Prediction

MANY_LABELS = tuple(f"class number {index}" for index in range(521))


def _receive(socket: zmq.Socket[bytes]):
    topic, payload = socket.recv_multipart()
    return topic, decode(payload)


def _wait_for_heartbeat(
    socket, condition: Callable[[HeartbeatMessage], object] = lambda beat: True
) -> HeartbeatMessage:
    while True:
        message = _receive(socket)[1]
        if isinstance(message, HeartbeatMessage) and condition(message):
            return message


def test_every_number_arrives_in_order_from_many_threads(
    endpoint, vocabulary, make_prediction, health, connect
):
    streams = ["porch", "kitchen", "hall"]
    with Publisher(endpoint, vocabulary) as publisher:
        socket = connect(zmq.SUB, publisher.endpoint, b"")
        _receive(socket)  # a heartbeat: the subscription works

        def work(stream):
            for _ in range(200):
                publisher.publish_prediction(make_prediction(stream))
            publisher.publish_health(health)

        threads = [threading.Thread(target=work, args=(name,)) for name in streams]
        for thread in threads:
            thread.start()
        seqs = defaultdict(list)
        while sum(map(len, seqs.values())) < 603:
            topic, message = _receive(socket)
            if not isinstance(message, HeartbeatMessage):
                assert message.run == publisher.run
                seqs[topic].append(message.seq)
        for thread in threads:
            thread.join()
    assert seqs.pop(b"health/porch/") == [0, 1, 2]
    assert seqs == {f"prediction/{name}/".encode(): list(range(200)) for name in streams}


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_a_late_joiner_gets_the_last_values_it_asked_for(
    encoding, vocabulary, make_prediction, health, connect
):
    with Publisher("tcp://127.0.0.1:*", vocabulary, encoding=encoding) as publisher:
        for _ in range(3):
            publisher.publish_prediction(make_prediction("porch"))
        publisher.publish_prediction(make_prediction("porch2"))
        publisher.publish_health(health)
        while [message.seq for message in publisher.snapshot()] != [0, 2, 0]:
            time.sleep(0.005)
        # Twice the same topic: the second subscriber must get it as well.
        for _ in range(2):
            socket = connect(zmq.SUB, publisher.endpoint, b"prediction/porch/")
            topic, message = _receive(socket)
            assert (topic, message.seq) == (b"prediction/porch/", 2)
            assert isinstance(message, PredictionMessage)
            assert list(message.scores) == ["no", "up", "yes", "down"]
        socket = connect(zmq.SUB, publisher.endpoint, b"prediction/")
        assert {_receive(socket)[0] for _ in range(2)} == {
            b"prediction/porch/",
            b"prediction/porch2/",
        }
        socket = connect(zmq.SUB, publisher.endpoint, b"health/porch/")
        topic, message = _receive(socket)
        assert isinstance(message, HealthMessage)
        assert message.reason == "device unplugged"


def test_a_full_queue_drops_the_oldest_counts_it_and_leaves_a_hole(connect):
    vocabulary = Vocabulary("sounds", MANY_LABELS)
    posterior = np.full(len(MANY_LABELS), 0.25, np.float32)
    with Publisher("tcp://127.0.0.1:*", vocabulary, top_k=0, queue_messages=4) as publisher:
        socket = connect(zmq.SUB, publisher.endpoint, b"")
        _receive(socket)
        # Encoding 521 scores takes far longer than queueing them: the queue must overflow.
        for index in range(500):
            publisher.publish_prediction(
                Prediction("porch", 0, index, index + 1, 16000, 0, 0, -20.0, (), posterior)
            )
        seqs = []
        while not seqs or seqs[-1] < 499:
            message = _receive(socket)[1]
            if isinstance(message, PredictionMessage):
                seqs.append(message.seq)
        beat = _wait_for_heartbeat(socket, lambda beat: beat.last_seq)
    holes = 500 - len(seqs)
    assert holes > 0
    assert seqs == sorted(set(seqs))
    assert beat.dropped == {"prediction/porch/": holes}
    assert publisher.stats()["dropped"] == {"prediction/porch/": holes}


def test_a_stalled_subscriber_costs_nobody_anything(connect):
    vocabulary = Vocabulary("sounds", MANY_LABELS)
    posterior = np.linspace(0, 1, len(MANY_LABELS), dtype=np.float32)
    total = 2500

    def publish(index):
        publisher.publish_prediction(
            Prediction("porch", 0, index, index + 1, 16000, 0, 0, -20.0, (), posterior)
        )

    def receive_new(socket, seq):
        while True:  # every new subscriber makes the last value come again for all
            payload = socket.recv_multipart()[1]
            if decode(payload).seq >= seq:
                return decode(payload).seq, len(payload)

    last_values_only = JournalLimits(messages=1)
    with Publisher("tcp://127.0.0.1:*", vocabulary, top_k=0, journal=last_values_only) as publisher:
        publish(0)
        stalled, healthy = (
            connect(zmq.SUB, publisher.endpoint, b"prediction/", rcvhwm=10, rcvbuf=65536)
            for _ in range(2)
        )
        receive_new(stalled, 0)
        receive_new(healthy, 0)
        before_bytes, size_bytes = _resident_bytes(), 0
        for index in range(1, total):
            publish(index)
            seq, size_bytes = receive_new(healthy, index)
            assert seq == index
        grown_bytes = _resident_bytes() - before_bytes
        assert publisher.stats()["dropped"] == {}

        heard = []
        while stalled.poll(300):
            heard.append(_receive(stalled)[1].seq)
    # What waits for the stalled one is bounded by its high-water mark, not by the total.
    assert grown_bytes < (SEND_QUEUE_MESSAGES + 300) * size_bytes < total * size_bytes / 1.9
    assert len(heard) < SEND_QUEUE_MESSAGES + 300
    assert sorted(heard) == heard


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_heartbeats_say_how_far_each_sequence_got(vocabulary, make_prediction, health, connect):
    with Publisher("tcp://127.0.0.1:*", vocabulary) as publisher:
        socket = connect(zmq.SUB, publisher.endpoint, b"heartbeat/")
        first = _wait_for_heartbeat(socket)
        assert (first.last_seq, first.dropped) == ({}, {})
        for _ in range(4):
            publisher.publish_prediction(make_prediction())
        publisher.publish_health(health)
        beat = _wait_for_heartbeat(socket, lambda beat: beat.last_seq)
    assert beat.last_seq == {"prediction/porch/": 3, "health/porch/": 0}
    assert beat.seq > first.seq
    assert beat.uptime_s > first.uptime_s
    assert beat.stream == ""


def test_close_sends_what_is_queued_and_a_last_heartbeat(
    endpoint, vocabulary, make_prediction, connect
):
    publisher = Publisher(endpoint, vocabulary).start()
    socket = connect(zmq.SUB, publisher.endpoint, b"")
    _receive(socket)
    for _ in range(500):
        publisher.publish_prediction(make_prediction())
    publisher.close()
    seqs = []
    while True:
        message = _receive(socket)[1]
        if isinstance(message, PredictionMessage):
            seqs.append(message.seq)
        elif (
            isinstance(message, HeartbeatMessage)
            and message.last_seq.get("prediction/porch/") == 499
        ):
            break
    assert seqs == list(range(500))
    assert not publisher.alive
    publisher.publish_prediction(make_prediction())  # a capture thread still winding down
    assert publisher.stats()["dropped"] == {"prediction/porch/": 1}
    publisher.close()
    if endpoint.startswith("ipc://"):
        assert not Path(endpoint.removeprefix("ipc://")).exists()


def test_the_endpoint_can_be_used_again_at_once(endpoint, vocabulary):
    with Publisher(endpoint, vocabulary) as publisher:
        first_run, actual = publisher.run, publisher.endpoint
    with Publisher(actual, vocabulary) as publisher:
        assert publisher.endpoint == actual
        assert publisher.run != first_run


def test_an_endpoint_in_use_is_an_error_and_leaves_the_first_alone(
    endpoint, vocabulary, make_prediction, connect
):
    with Publisher(endpoint, vocabulary) as first:
        second = Publisher(first.endpoint, vocabulary)
        with pytest.raises(PublishError, match=r"in use by another process.*choose another"):
            second.start()
        assert not second.alive
        first.publish_prediction(make_prediction())
        socket = connect(zmq.SUB, first.endpoint, b"prediction/")
        assert _receive(socket)[1].run == first.run


def test_the_network_is_refused_before_anything_starts(vocabulary):
    with pytest.raises(PublishError, match="insecure = true"):
        Publisher("tcp://0.0.0.0:*", vocabulary)
    with Publisher("tcp://0.0.0.0:*", vocabulary, insecure=True) as publisher:
        assert publisher.alive


def test_one_bad_posterior_is_a_counted_hole_not_the_end(vocabulary, make_prediction, connect):
    with Publisher("tcp://127.0.0.1:*", vocabulary) as publisher:
        publisher.publish_prediction(make_prediction(probabilities=(np.nan, 0, 0, 0)))
        publisher.publish_prediction(make_prediction())
        socket = connect(zmq.SUB, publisher.endpoint, b"prediction/")
        assert _receive(socket)[1].seq == 1
        assert publisher.stats()["dropped"] == {"prediction/porch/": 1}


def test_mistakes_of_the_caller_come_back_to_the_caller(vocabulary, make_prediction):
    with Publisher("tcp://127.0.0.1:*", vocabulary) as publisher:
        with pytest.raises(PublishError, match="'a/b'"):
            publisher.publish_prediction(make_prediction("a/b"))
        with pytest.raises(ValueError, match="4 labels"):
            publisher.publish_prediction(make_prediction(probabilities=(0.5, 0.5)))


def test_a_new_vocabulary_counts_from_the_next_prediction(vocabulary, make_prediction):
    publisher = Publisher("tcp://127.0.0.1:*", vocabulary)
    publisher.publish_prediction(make_prediction("before"))
    publisher.set_vocabulary(Vocabulary("animals", ("cat", "dog")))
    publisher.publish_prediction(make_prediction("after", probabilities=(0.25, 0.75)))
    with publisher:
        deadline_s = time.monotonic() + 5
        while len(publisher.snapshot()) < 2 and time.monotonic() < deadline_s:
            time.sleep(0.01)
    after, before = publisher.snapshot()
    assert isinstance(before, PredictionMessage)
    assert isinstance(after, PredictionMessage)
    assert (before.model, next(iter(before.scores))) == ("commands", "no")
    assert (after.model, after.scores) == ("animals", {"dog": 0.75, "cat": 0.25})


def test_a_flood_of_subscriptions_is_survived(vocabulary, make_prediction, connect):
    with Publisher("tcp://127.0.0.1:*", vocabulary) as publisher:
        publisher.publish_prediction(make_prediction())
        rude = connect(zmq.XSUB, publisher.endpoint, sndhwm=0)
        for index in range(5000):
            rude.send(b"\x01prediction/" + str(index).encode())
        for junk in (b"", b"\x07", b"\x01\xff\xfe", b"\x00never subscribed"):
            rude.send(junk)
        socket = connect(zmq.SUB, publisher.endpoint, b"prediction/porch/")
        assert _receive(socket)[1].seq == 0
        assert publisher.alive


def test_events_and_rejections_are_numbered_per_stream_and_type(
    vocabulary, make_event, rejection, health, connect
):
    with Publisher("tcp://127.0.0.1:*", vocabulary) as publisher:
        everything = connect(zmq.SUB, publisher.endpoint, b"")
        _receive(everything)
        publisher.publish_event(make_event(EventState.ONSET, "yes"))
        publisher.publish_event(make_event(EventState.ONSET, "on/off"))
        publisher.publish_rejection(rejection)
        publisher.publish_health(health)
        publisher.publish_event(make_event(EventState.OFFSET, "yes"))
        publisher.publish_rejection(rejection)
        heard = []
        while len(heard) < 6:
            topic, message = _receive(everything)
            if not isinstance(message, HeartbeatMessage):
                heard.append((topic, message.seq))
        assert heard == [
            (b"event/porch/yes/", 0),
            (b"event/porch/on%2Foff/", 1),
            (b"rejected/porch/no/", 0),
            (b"health/porch/", 0),
            (b"event/porch/yes/", 2),
            (b"rejected/porch/no/", 1),
        ]
        # The last event, and the one that is still open.
        events = [message for message in publisher.snapshot() if isinstance(message, EventMessage)]
        assert [(message.label, message.state) for message in events] == [
            ("on/off", "onset"),
            ("yes", "offset"),
        ]
        with pytest.raises(PublishError, match="rename"):
            publisher.publish_event(make_event(EventState.ONSET, "bad\n"))
        with pytest.raises(PublishError, match="rename"):
            publisher.publish_rejection(replace(rejection, label=""))


def test_who_asked_for_events_hears_no_rejections(vocabulary, make_event, rejection, connect):
    with Publisher("tcp://127.0.0.1:*", vocabulary) as publisher:
        events = connect(zmq.SUB, publisher.endpoint, b"event/porch/")
        publisher.publish_event(make_event(EventState.ONSET))
        assert _receive(events)[0] == b"event/porch/yes/"
        for _ in range(50):
            publisher.publish_rejection(rejection)
        publisher.publish_event(make_event(EventState.OFFSET))
        heard = [_receive(events)[1].seq]
        if heard == [0]:  # the last value for a new subscriber, who had heard it live as well
            heard = [_receive(events)[1].seq]
        assert heard == [1]
        # Nobody heard them; their numbers ran on, and what was held back can still be asked.
        late = connect(zmq.SUB, publisher.endpoint, b"rejected/porch/no/")
        assert _receive(late)[1].seq == 49
        page = publisher.replay(ReplayParams(stream="porch", type="rejected", from_seq=0))
        assert len(page["messages"]) == 50


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_replay_returns_what_was_sent(encoding, vocabulary, make_prediction, connect):
    limits = JournalLimits(messages=20)
    with (
        Publisher("tcp://127.0.0.1:*", vocabulary, encoding=encoding, journal=limits) as publisher,
        ControlServer("tcp://127.0.0.1:*", MethodTable(publisher.methods())) as control,
    ):
        socket = connect(zmq.SUB, publisher.endpoint, b"")
        dealer = connect(zmq.DEALER, control.endpoint)
        _receive(socket)

        def ask(**params):
            request = {"jsonrpc": "2.0", "method": "replay", "params": params, "id": 1}
            dealer.send(json.dumps(request).encode())
            return json.loads(dealer.recv())

        for _ in range(30):
            publisher.publish_prediction(make_prediction())
        sent = []
        while len(sent) < 30:
            message = _receive(socket)[1]
            if isinstance(message, PredictionMessage):
                sent.append(message)

        of = {"stream": "porch", "type": "prediction"}
        page = msgspec.convert(
            ask(**of, from_seq=5, to_seq=14, run=publisher.run)["result"], ReplayPage
        )
        assert page.messages == tuple(sent[10:15])
        assert (page.first_seq, page.last_seq, page.next_seq) == (10, 29, None)
        assert page.run == publisher.run
        error = ask(**of, from_seq=0, run="another")["error"]
        assert (error["code"], error["data"]) == (-32000, {"run": publisher.run})
        error = ask(stream="hall", type="prediction", from_seq=0)["error"]
        assert "prediction/hall/" in error["message"]


@pytest.mark.parametrize("waiting", [2, 2 * MESSAGES_PER_PASS])
def test_a_retired_stream_is_forgotten_but_not_its_numbers(
    waiting, vocabulary, make_prediction, health, connect
):
    publisher = Publisher("tcp://127.0.0.1:*", vocabulary)
    publisher.publish_health(health)
    publisher.publish_predictions([make_prediction("hall") for _ in range(waiting)])
    publisher.retire_stream("hall")
    with publisher:  # beats first when it has sent no more than one pass of them
        while [message.stream for message in publisher.snapshot()] != ["porch"]:
            time.sleep(0.01)
        publisher.publish_prediction(make_prediction("hall"))
        socket = connect(zmq.SUB, publisher.endpoint, b"prediction/hall/")
        assert _receive(socket)[1].seq == waiting
