"""From packets to the ring: every kind of trouble on the way, to the sample."""

import random
import time

import numpy as np
import pytest

from streamcls.capture import remote, sequence
from streamcls.capture.packets import AudioPacket, encode_samples
from streamcls.capture.remote import MAX_QUEUED_PACKETS, Arrival, RemoteSource
from streamcls.capture.source import SourceLost
from streamcls.types import HealthState
from streamcls.units import NS_PER_S
from tests.remote.streams import HOP_SAMPLES, RATE_HZ, Receiver, ramp

N = 320
SESSION = "0123456789abcdef"


def arrival(seq: int, start: int | None = None, **changes) -> Arrival:
    """Packet `seq` of a ramp of packets of 20 ms that began five seconds ago."""
    start = seq * N if start is None else start
    now_ns = time.time_ns()
    fields = {
        "stream": "porch",
        "session": SESSION,
        "seq": seq,
        "codec": "s16",
        "sample_rate_hz": RATE_HZ,
        "sample_start": start,
        "samples": N,
        "t_start_ns": BEGAN_NS + start * NS_PER_S // RATE_HZ,
    }
    packet = AudioPacket(**{**fields, **changes})
    return Arrival(packet, encode_samples(ramp(N, start), "s16", RATE_HZ), now_ns, 0)


BEGAN_NS = 0


@pytest.fixture(autouse=True)
def begin_lately() -> None:
    """Audio minutes older than now is not believed, and this module was imported minutes ago."""
    global BEGAN_NS
    BEGAN_NS = time.time_ns() - 5 * NS_PER_S


def play(receiver: Receiver, arrivals: list[Arrival]) -> None:
    for one in arrivals:
        receiver.source.offer(one)
        receiver.wait_for(lambda: not receiver.source._queue, "not taken")
    receiver.source.tell_absent("done")
    receiver.wait_for(lambda: HealthState.LOST in receiver.states[2:], "not lost")


def test_a_ramp_with_losses_repeats_and_reordering_arrives_with_exactly_the_right_holes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sequence, "HOLD_S", 60.0)  # by count only: the machine may be slow
    rng = random.Random(7)
    lost_by_network = {5, 6, 40, 41, 42, 43, 70}
    # The sender lost 100 frames before packet 20 and 777 before 60: indices jump, numbers do not.
    shift = [100 * (seq >= 20) + 777 * (seq >= 60) for seq in range(100)]
    lost_by_sender = {20: 100, 60: 777}
    arrivals = [
        arrival(seq, seq * N + shift[seq], lost_samples=lost_by_sender.get(seq, 0))
        for seq in range(100)
        if seq not in lost_by_network
    ]
    for at in range(1, len(arrivals) - 4, 3):
        if rng.random() < 0.5:
            arrivals[at], arrivals[at + 2] = arrivals[at + 2], arrivals[at]
        if rng.random() < 0.3:
            arrivals.insert(at, arrivals[at - 1])
    expected = {
        index: index - 32768
        for seq in range(100)
        if seq not in lost_by_network
        for index in range(seq * N + shift[seq], (seq + 1) * N + shift[seq])
    }
    with Receiver() as receiver:
        play(receiver, arrivals)
        source = receiver.source
    assert receiver.samples_by_index() == expected
    assert receiver.ring.skipped == 877 + len(lost_by_network) * N
    assert receiver.ring.discarded == 0
    assert source.sequence.missing == len(lost_by_network)
    assert source.sequence.repeated > 5
    assert source.sequence.reordered > 5
    assert source.sender_lost_samples == 877
    assert source.network_lost_samples == len(lost_by_network) * N
    jumps = {hop.sample_start: hop.lost_samples for hop in receiver.hops if hop.lost_samples}
    assert jumps == {
        7 * N: 2 * N,
        20 * N + 100: 100,
        44 * N + 100: 4 * N,
        60 * N + 877: 777,
        71 * N + 877: N,
    }
    assert N % HOP_SAMPLES == 0  # otherwise the ring would have to discard pieces


def test_damaged_and_contradicting_packets_are_losses() -> None:
    good = [arrival(seq) for seq in range(6)]
    bad = [
        Arrival(good[2].packet, good[2].payload[:-1], time.time_ns(), 0),
        arrival(3, start=N),  # was here before
    ]
    with Receiver() as receiver:
        play(receiver, [good[0], good[1], *bad, good[4], good[5]])
    assert receiver.source.damaged == 2
    assert receiver.ring.skipped == 2 * N == receiver.source.network_lost_samples
    assert set(receiver.samples_by_index()) == {*range(2 * N), *range(4 * N, 6 * N)}


def test_times_are_the_senders_corrected_by_the_offset_of_its_clock() -> None:
    source = RemoteSource("porch", lambda: 0)
    hour_ns = 3600 * NS_PER_S
    for seq in range(3):
        late = arrival(seq)
        source.offer(
            Arrival(
                arrival(seq, t_start_ns=late.packet.t_start_ns - hour_ns).packet,
                late.payload,
                late.arrived_ns,
                hour_ns,
            )
        )
    source.open()
    for seq in range(3):
        block = source.read()
        assert block is not None
        assert block.t_first_ns == BEGAN_NS + seq * N * NS_PER_S // RATE_HZ
    assert source.clock_doubts == 0


@pytest.mark.parametrize("wrong_s", [-3600, 3600])
def test_an_impossible_time_gives_way_to_that_of_the_arrival(wrong_s: int) -> None:
    source = RemoteSource("porch", lambda: 0)
    wrong = arrival(0, t_start_ns=time.time_ns() + wrong_s * NS_PER_S)
    source.offer(wrong)
    source.open()
    block = source.read()
    assert block is not None
    assert block.t_first_ns == wrong.arrived_ns - N * NS_PER_S // RATE_HZ
    assert source.clock_doubts == 1


def test_overflows_of_the_driver_are_counted_from_the_opening_on() -> None:
    source = RemoteSource("porch", lambda: 0)
    for seq, xruns in enumerate((5, 5, 7)):
        source.offer(arrival(seq, xruns=xruns))
    source.open()
    blocks = [source.read() for _ in range(3)]
    assert [block.xruns for block in blocks if block] == [0, 0, 2]


def test_nobody_there_is_a_loss_with_an_invitation() -> None:
    source = RemoteSource("porch", lambda: 0)
    source.check()
    with pytest.raises(SourceLost, match="streamcls send --to tcp://THIS_HOST:PORT --stream porch"):
        source.open()


def test_silence_of_the_sender_is_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "SENDER_TIMEOUT_S", 0.5)
    source = RemoteSource("porch", lambda: 0)
    source.offer(arrival(0))
    source.open()
    assert source.read() is not None
    assert source.read() is None
    time.sleep(0.6)
    with pytest.raises(SourceLost, match=r"no audio for \d\.\d s \(limit 0\.5 s\)"):
        source.read()


@pytest.mark.parametrize("first_seq", [0, 110], ids=["numbers", "samples"])
def test_a_sender_that_begins_again_in_its_session_is_a_loss_with_an_explanation(
    first_seq: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its numbers, or those of its samples, were here before: none of it can be placed."""
    monkeypatch.setattr(remote, "SENDER_TIMEOUT_S", 0.5)
    receiver = Receiver()
    receiver.source.on_audio = receiver.feeder.retry_now
    for seq in range(10):
        receiver.source.offer(arrival(100 + seq, (200 + seq) * N))
    with receiver:
        seq = 0
        while HealthState.LOST not in receiver.states or receiver.states[-1] != "live":
            assert seq < 500
            receiver.source.offer(arrival(first_seq + seq, seq * N))
            seq += 1
            time.sleep(0.02)
    (lost,) = [one.reason for one in receiver.reports if one.state is HealthState.LOST]
    assert "no audio for 0.5 s (limit 0.5 s): the last" in lost
    assert lost.endswith("a sender that begins again takes a new session")
    assert receiver.ring.skipped > 0


def test_a_restarted_sender_is_a_loss_and_a_return_without_a_pause() -> None:
    other = "f" * 16
    with Receiver() as receiver:
        receiver.source.on_audio = receiver.feeder.retry_now
        for seq in range(5):
            receiver.source.offer(arrival(seq))
        receiver.wait_for(lambda: len(receiver.hops) == 10, "first sender")
        began_s = time.monotonic()
        for seq in range(5):  # from 0 again, 4 s after the first one began
            receiver.source.offer(
                arrival(seq, session=other, t_start_ns=BEGAN_NS + 4 * NS_PER_S + seq * 20_000_000)
            )
        receiver.wait_for(lambda: len(receiver.hops) == 20, "second sender")
        assert time.monotonic() - began_s < 5
    assert receiver.states[-4:] == ["live", "lost", "recovering", "live"]
    assert receiver.hops[10].sample_start == 4 * RATE_HZ  # by the clock
    assert receiver.hops[10].lost_samples == 4 * RATE_HZ - 5 * N


def test_a_hole_without_measure_is_judged_by_the_clock() -> None:
    with Receiver() as receiver:
        receiver.source.on_audio = receiver.feeder.retry_now
        receiver.source.offer(arrival(0))
        receiver.wait_for(lambda: receiver.hops, "first")
        for seq in (1, 2):
            later = arrival(seq, start=1 << 60, t_start_ns=BEGAN_NS + 2 * NS_PER_S)
            receiver.source.offer(later)
        receiver.wait_for(lambda: len(receiver.hops) > 2, "second")
    assert receiver.ring.skipped < 3 * RATE_HZ


def test_a_feeder_that_does_not_take_loses_the_oldest_and_the_ingest_never_waits() -> None:
    source = RemoteSource("porch", lambda: 0)
    for seq in range(MAX_QUEUED_PACKETS + 10):
        source.offer(arrival(seq))
    source.open()
    assert source.overflowed == 10
    block = source.read()
    assert block is not None
    np.testing.assert_array_equal(block.samples[:, 0], ramp(N, 10 * N))
