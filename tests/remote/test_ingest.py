"""The ingest socket as senders of any kind meet it: raw DEALER sockets, good and bad manners."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamcls import ingest as ingest_module
from streamcls.capture.packets import (
    Answer,
    AudioPacket,
    Beat,
    End,
    FromDaemon,
    Refusal,
    SenderMessage,
    decode_from_daemon,
    encode_message,
    encode_samples,
)
from streamcls.errors import PublishError, SourceError
from streamcls.ingest import Ingest
from streamcls.types import HealthState
from streamcls.units import NS_PER_S
from tests.remote.streams import RATE_HZ, Receiver, connect, ramp

N = 320


class Dealer:
    """A hand-made sender."""

    def __init__(self, context: zmq.Context[Any], endpoint: str, session: str, stream: str) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.rcvtimeo = 10_000
        self.socket.connect(endpoint)
        self.session = session
        self.stream = stream

    def send(self, message: SenderMessage, *payload: bytes) -> None:
        self.socket.send_multipart([encode_message(message), *payload])

    def beat(self, **fields: Any) -> FromDaemon:
        values = {"sent_ns": time.time_ns(), "host": "pi", "state": "live", **fields}
        self.send(Beat(stream=self.stream, session=self.session, **values))
        return decode_from_daemon(self.socket.recv())

    def audio(self, seq: int, t_start_ns: int | None = None) -> None:
        packet = AudioPacket(
            stream=self.stream,
            session=self.session,
            seq=seq,
            codec="s16",
            sample_rate_hz=RATE_HZ,
            sample_start=seq * N,
            samples=N,
            t_start_ns=time.time_ns() if t_start_ns is None else t_start_ns,
        )
        self.send(packet, encode_samples(ramp(N, seq * N), "s16", RATE_HZ))


@pytest.fixture
def dealer(ingest: Ingest) -> Iterator[Callable[..., Dealer]]:
    context = zmq.Context()
    dealers: list[Dealer] = []

    def make(session: str = "0" * 16, stream: str = "porch") -> Dealer:
        dealers.append(Dealer(context, ingest.endpoint, session, stream))
        return dealers[-1]

    yield make
    for one in dealers:
        one.socket.close()
    context.term()


def test_a_beat_is_answered_with_the_times_of_a_clock_exchange(ingest: Ingest, dealer) -> None:
    receiver = connect(ingest, Receiver())
    before_ns = time.time_ns()
    answer = dealer().beat(sent_ns=77)
    assert isinstance(answer, Answer)
    assert answer.sent_ns == 77
    assert before_ns <= answer.received_ns <= answer.answered_ns <= time.time_ns()
    assert ingest.stats()["senders"]["porch"]["connected"]
    assert str(receiver.source) == "remote:porch (pi)"


def test_audio_reaches_the_ring_and_the_figures_tell_about_it(ingest: Ingest, dealer) -> None:
    hour_ns = 3600 * NS_PER_S
    with connect(ingest, Receiver()) as receiver:
        sender = dealer()
        sender.beat(clock_offset_ns=hour_ns, round_trip_ns=2_000_000, dropped_samples=9)
        began_ns = time.time_ns()
        for seq in range(10):
            sender.audio(seq, began_ns - hour_ns + seq * N * NS_PER_S // RATE_HZ)
        receiver.wait_for(lambda: len(receiver.hops) == 20, "audio")
        assert receiver.ring.time_ns(0) == began_ns
        told = "audio arrives from remote:porch (pi, clock 3600.0 s behind, known to 1.0 ms)"
        assert receiver.reports[-1].reason == told
    figures = ingest.stats()["senders"]["porch"]
    assert figures["packets"] == 10
    assert figures["payload_bytes"] == 10 * 2 * N
    assert figures["clock_offset_ms"] == 3_600_000
    assert figures["round_trip_ms"] == 2
    assert figures["sender_dropped_samples"] == 9
    assert figures["host"] == "pi"
    assert ingest.stats()["malformed"] == 0


def test_a_clock_that_moves_is_told(ingest: Ingest, dealer) -> None:
    receiver = connect(ingest, Receiver())
    sender = dealer()
    for offset_ms in (0, 20, 80, 90):
        sender.beat(clock_offset_ns=offset_ms * 1_000_000)
    assert [report.reason for report in receiver.reports] == [
        "the sender's clock has moved: pi, clock 80.0 ms behind, known to 0.0 ms"
    ]


def test_unknown_streams_are_refused_with_those_there_are(ingest: Ingest, dealer) -> None:
    connect(ingest, Receiver("porch"))
    connect(ingest, Receiver("yard"))
    refusal = dealer(stream="prch").beat()
    assert isinstance(refusal, Refusal)
    assert refusal.code == "unknown_stream"
    assert refusal.reason == "no stream here is remote:prch; there is porch, yard"
    assert ingest.stats()["refused"] == {"unknown_stream": 1}


def test_a_second_sender_is_refused_visibly_until_the_first_one_ends(
    ingest: Ingest, dealer
) -> None:
    with connect(ingest, Receiver()) as receiver:
        first, second = dealer("a" * 16), dealer("b" * 16)
        first.beat()
        for seq in range(5):
            first.audio(seq)
        receiver.wait_for(lambda: len(receiver.hops) == 10, "audio")
        for seq in range(3):
            refusal = second.beat(host="laptop")
            assert isinstance(refusal, Refusal)
            assert (refusal.code, refusal.reason) == ("taken", "pi already sends porch")
            second.audio(seq)  # ignored
        told = [r.reason for r in receiver.reports if "second" in r.reason]
        assert told == ["a second sender, on laptop, was refused"]
        assert ingest.stats()["senders"]["porch"]["refused_senders"] == 3
        first.send(End(stream="porch", session="a" * 16, next_seq=5, reason="bye"))
        receiver.wait_for(lambda: "lost" in receiver.states[3:], "end")
        assert "the sender on pi has ended (bye)" in receiver.reports[-1].reason
        assert isinstance(second.beat(), Answer)
        second.audio(0)
        receiver.wait_for(lambda: len(receiver.hops) == 12, "second sender")
    assert receiver.feeder.state is HealthState.LIVE


def test_a_sender_that_is_silent_gives_way(
    ingest: Ingest, dealer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_module, "HOLD_S", 0.3)
    connect(ingest, Receiver())
    first, second = dealer("a" * 16), dealer("b" * 16)
    first.beat()
    time.sleep(0.35)
    assert isinstance(second.beat(), Answer)
    assert isinstance(first.beat(), Refusal)


def test_a_sender_keeps_its_stream_over_a_new_connection(ingest: Ingest, dealer) -> None:
    connect(ingest, Receiver())
    assert isinstance(dealer("a" * 16).beat(), Answer)
    assert isinstance(dealer("a" * 16).beat(), Answer)


def test_what_the_sender_has_lost_is_told_at_once(ingest: Ingest, dealer) -> None:
    with connect(ingest, Receiver()) as receiver:
        sender = dealer()
        sender.beat()
        sender.audio(0)
        receiver.wait_for(lambda: receiver.hops, "audio")
        sender.beat(state="lost", reason="no microphone")
        receiver.wait_for(lambda: receiver.feeder.state is HealthState.RECOVERING, "loss")
        assert receiver.reports[-1].reason.endswith("at the sender: no microphone")
        sender.audio(1)  # it is back: no pause
        receiver.wait_for(lambda: receiver.feeder.state is HealthState.LIVE, "return", 5)


def test_a_senders_words_stay_in_their_line(
    ingest: Ingest, dealer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    forged = "pi\n2026-01-01 ERROR \x1b[2Jforged"
    with connect(ingest, Receiver()) as receiver:
        sender = dealer()
        sender.beat(host=forged, clock_offset_ns=0)
        sender.beat(host=forged, state="lost", reason=forged)
        receiver.wait_for(lambda: "forged" in receiver.feeder.reason, "reason")
        sender.send(End(stream="porch", session=sender.session, next_seq=0, reason=forged))
        receiver.wait_for(lambda: "has ended" in caplog.text, "end")
    assert all(record.getMessage().isprintable() for record in caplog.records)
    assert receiver.feeder.reason.isprintable()
    assert ingest.stats()["senders"]["porch"]["host"] == "pi 2026-01-01 ERROR \ufffd[2Jforged"


def test_another_version_is_refused_by_name(ingest: Ingest, dealer) -> None:
    sender = dealer()
    sender.socket.send(msgspec.msgpack.encode({"schema": "streamcls-audio/2", "type": "hello"}))
    refusal = decode_from_daemon(sender.socket.recv())
    assert isinstance(refusal, Refusal)
    assert refusal.code == "schema"
    assert "speaks streamcls-audio/1, not streamcls-audio/2" in refusal.reason


@given(messages=st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=6), max_size=20))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_noise_is_counted_and_disturbs_nobody(ingest: Ingest, dealer, messages) -> None:
    if "porch" not in ingest.stats()["senders"]:
        connect(ingest, Receiver())
    before = ingest.stats()["malformed"]
    sender = dealer()
    for frames in messages:
        sender.socket.send_multipart(frames)
    assert isinstance(sender.beat(), Answer)  # the messages of a connection stay in order
    assert ingest.stats()["malformed"] - before == len(messages)
    sender.socket.close()


def test_an_oversized_message_costs_only_its_connection(ingest: Ingest, dealer) -> None:
    connect(ingest, Receiver())
    rude, polite = dealer("a" * 16, "yard"), dealer("b" * 16)
    rude.socket.send_multipart([b"x", bytes(1 << 20)])
    assert isinstance(polite.beat(), Answer)
    assert ingest.stats()["malformed"] == 0  # libzmq did not let it in


def test_removed_streams_are_unknown(ingest: Ingest, dealer) -> None:
    receiver = connect(ingest, Receiver())
    ingest.remove(receiver.feeder)
    assert isinstance(dealer().beat(), Refusal)


def test_two_streams_of_one_name_are_refused(ingest: Ingest) -> None:
    connect(ingest, Receiver())
    with pytest.raises(SourceError, match="give each remote: another name"):
        connect(ingest, Receiver())


def test_an_open_address_needs_keys() -> None:
    with pytest.raises(PublishError, match="keys"):
        Ingest("tcp://0.0.0.0:5572")
