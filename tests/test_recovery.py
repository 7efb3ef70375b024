"""Recovery: what was missed comes back from the journal, in order, once, or is said to be lost."""

import asyncio
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcls.client import (
    AsyncControlClient,
    AsyncSubscriber,
    ControlError,
    ControlTimeoutError,
    Gap,
    Message,
    PredictionMessage,
    Subscriber,
)
from streamcls.client.recovery import fill_gap
from streamcls.errors import PublishError
from streamcls.publish.control import ControlServer
from streamcls.publish.journal import JournalLimits
from streamcls.publish.messages import Vocabulary
from streamcls.publish.methods import MethodTable
from streamcls.publish.publisher import SEND_QUEUE_MESSAGES, Publisher
from streamcls.publish.schema import HealthMessage, ReplayPage, encode
from streamcls.types import Prediction
from tests.lossy_relay import LossyRelay

VOCABULARY = Vocabulary("commands", ("yes", "no"))
GAP = Gap("porch", "health", 10, 19, "a")


def health(seq: int) -> HealthMessage:
    return HealthMessage(
        run="a",
        stream="porch",
        seq=seq,
        published_ns=0,
        state="live",
        dropped_samples=0,
        xruns=0,
        overruns=0,
        reason="",
    )


def page(seqs: Sequence[int], next_seq: int | None = None, **fields: Any) -> ReplayPage:
    values = {"run": "a", "first_seq": 0, "last_seq": 99, **fields}
    return ReplayPage(messages=tuple(health(seq) for seq in seqs), next_seq=next_seq, **values)


def summarise(items: Sequence[Message | Gap]) -> list[Any]:
    """Return seq of a recovered message, (first, last, reason) of a gap."""
    summary: list[Any] = []
    for item in items:
        if isinstance(item, Gap):
            summary.append((item.first_missing_seq, item.last_missing_seq, item.reason))
        else:
            assert item.recovered is True
            summary.append(item.seq)
    return summary


# -- what becomes of one page, without sockets --------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (page(range(10, 20)), [*range(10, 20)]),
        (page(range(8, 25)), [*range(10, 20)]),  # more than asked for
        (page(range(14, 20), first_seq=14), [(10, 13, "expired"), *range(14, 20)]),
        (page([], first_seq=30), [(10, 19, "expired")]),
        (page([10, 15]), [10, (11, 14, "unsent"), 15, (16, 19, "unsent")]),
        (
            page([15], first_seq=12),
            [(10, 11, "expired"), (12, 14, "unsent"), 15, (16, 19, "unsent")],
        ),
        (page([10, 11], next_seq=12), [10, 11, (12, 19, "")]),
        (page([10], next_seq=15), [10, (11, 14, "unsent"), (15, 19, "")]),
        (page([10], next_seq=99), [10, (11, 19, "unsent")]),
        (page([], next_seq=10), [(10, 19, "refused")]),  # would be asked for ever
        (page(range(10, 20), run="b"), [(10, 19, "run_over")]),
    ],
)
def test_what_takes_the_place_of_a_gap(answer, expected):
    assert summarise(fill_gap(GAP, answer)) == expected


@given(st.sets(st.integers(0, 40)), st.integers(0, 45), st.integers(1, 6), st.integers(0, 40))
def test_every_number_is_recovered_or_lost_once(sent, first_kept, page_messages, first_missing):
    kept = sorted(seq for seq in sent if seq >= first_kept)
    gap = replace(GAP, first_missing_seq=first_missing, last_missing_seq=40)
    recovered, lost = [], []
    todo = gap
    while True:
        found = [seq for seq in kept if todo.first_missing_seq <= seq <= 40]
        answer = page(
            found[:page_messages],
            next_seq=found[page_messages] if len(found) > page_messages else None,
            first_seq=kept[0] if kept else None,
        )
        *items, last = fill_gap(todo, answer)
        is_done = not isinstance(last, Gap) or bool(last.reason)
        for item in [*items, last] if is_done else items:
            if isinstance(item, Gap):
                assert item.reason in ("expired", "unsent")
                lost += range(item.first_missing_seq, item.last_missing_seq + 1)
            else:
                recovered.append(item.seq)
        if is_done:
            break
        assert isinstance(last, Gap)
        assert last.first_missing_seq > todo.first_missing_seq
        todo = last
    assert recovered == [seq for seq in kept if seq >= first_missing]
    assert sorted(recovered + lost) == list(range(first_missing, 41))


# -- against a real publisher, with real losses -------------------------------------------


def prediction(index: int, yes: float = 0.75) -> Prediction:
    posterior = np.array([yes, 1 - yes], np.float32)
    return Prediction("porch", 0, index, index + 1, 16000, 0, 0, -20.0, (), posterior)


@pytest.fixture(params=["json", "msgpack"])
def daemon(request) -> Iterator[tuple[Publisher, ControlServer]]:
    """A publisher that keeps 100 messages, and its control socket."""
    limits = JournalLimits(messages=100)
    with (
        Publisher(
            "tcp://127.0.0.1:*", VOCABULARY, encoding=request.param, journal=limits
        ) as publisher,
        ControlServer("tcp://127.0.0.1:*", MethodTable(publisher.methods())) as control,
    ):
        yield publisher, control


def wait_until_connected(subscriber: Subscriber) -> None:
    """Wait for a sign of life: whatever is published from now on is heard."""
    while math.isinf(subscriber.silence_s):
        with pytest.raises(TimeoutError):
            subscriber.receive(0.05)


def loses(*seqs: range):
    lost = {seq for one in seqs for seq in one}
    return lambda message: isinstance(message, PredictionMessage) and message.seq in lost


def test_what_got_lost_comes_in_order_and_marked(daemon):
    publisher, control = daemon
    lost = {5, *range(20, 40), *range(97, 100)}
    with (
        LossyRelay(publisher.endpoint, loses(range(5, 6), range(20, 40), range(97, 100))) as relay,
        Subscriber(
            relay.endpoint, timeout_s=10, recover=True, control_endpoint=control.endpoint
        ) as subscriber,
    ):
        wait_until_connected(subscriber)
        for index in range(100):
            publisher.publish_prediction(prediction(index))
        heard = [next(subscriber) for _ in range(100)]  # the last ones a heartbeat reveals
        with pytest.raises(TimeoutError):
            subscriber.receive(0)
    seqs, recovered = [], set()
    for message in heard:
        assert isinstance(message, PredictionMessage)
        assert message.sample_start == message.seq
        seqs.append(message.seq)
        if message.recovered:
            recovered.add(message.seq)
    assert seqs == list(range(100))
    assert recovered == lost
    inbox = subscriber.inbox
    assert (inbox.received, inbox.missed, inbox.recovered) == (76, 24, 24)


def test_the_async_subscriber_recovers_too_even_when_cancelled(daemon):
    publisher, control = daemon

    async def listen(endpoint: str) -> list[int]:
        options: dict[str, Any] = {"recover": True, "control_endpoint": control.endpoint}
        async with AsyncSubscriber(endpoint, timeout_s=10, **options) as subscriber:
            while math.isinf(subscriber.silence_s):
                with contextlib.suppress(TimeoutError):
                    await subscriber.receive(0.05)
            for index in range(60):
                publisher.publish_prediction(prediction(index))
            seqs = []
            while len(seqs) < 60:
                # From outside, so that it may hit the fetching as well as the waiting.
                with contextlib.suppress(TimeoutError):
                    message = await asyncio.wait_for(anext(subscriber), 0.002)
                    assert not isinstance(message, Gap)
                    seqs.append(message.seq)
            assert subscriber.inbox.recovered == 32
            return seqs

    with LossyRelay(publisher.endpoint, loses(range(10, 40), range(50, 52))) as relay:
        assert asyncio.run(listen(relay.endpoint)) == list(range(60))


def test_what_the_daemon_no_longer_has_stays_a_gap(daemon):
    publisher, control = daemon
    with (
        LossyRelay(publisher.endpoint, loses(range(10, 290))) as relay,
        Subscriber(
            relay.endpoint, timeout_s=10, recover=True, control_endpoint=control.endpoint
        ) as subscriber,
    ):
        wait_until_connected(subscriber)
        for index in range(300):
            # The daemon itself cannot send these: a probability is not finite.
            publisher.publish_prediction(
                prediction(index, math.nan if index in (250, 251) else 0.75)
            )
        while publisher.stats()["queued"]:
            time.sleep(0.005)
        heard = [next(subscriber) for _ in range(10)]
        heard += iter_until(subscriber, 299)
    assert [one.seq for one in heard[:10] if not isinstance(one, Gap)] == list(range(10))
    gaps = [one for one in heard if isinstance(one, Gap)]
    seqs = [one.seq for one in heard[10:] if not isinstance(one, Gap)]
    lost = [*range(gaps[0].first_missing_seq, gaps[0].last_missing_seq + 1), 250, 251]
    assert [(gap.reason, gap.missing) for gap in gaps] == [("expired", 188), ("unsent", 2)]
    assert sorted(seqs + lost) == list(range(10, 300))
    assert seqs == sorted(seqs)
    assert subscriber.inbox.missed - subscriber.inbox.recovered == 190


def iter_until(subscriber: Subscriber, seq: int) -> list[Message | Gap]:
    heard: list[Message | Gap] = []
    for item in subscriber:
        heard.append(item)
        if not isinstance(item, Gap) and item.seq == seq:
            break
    return heard


def test_without_an_answer_gaps_are_told_and_nobody_waits_for_each(daemon, tmp_path):
    publisher, _ = daemon
    nobody = f"ipc://{tmp_path}/nobody.sock"
    with (
        LossyRelay(publisher.endpoint, loses(range(1, 60, 2))) as relay,
        Subscriber(
            relay.endpoint, timeout_s=10, recover=True, control_endpoint=nobody
        ) as subscriber,
    ):
        wait_until_connected(subscriber)
        for index in range(61):
            publisher.publish_prediction(prediction(index))
        heard = iter_until(subscriber, 60)
    gaps = [item for item in heard if isinstance(item, Gap)]
    assert [gap.first_missing_seq for gap in gaps] == list(range(1, 60, 2))
    assert {gap.reason for gap in gaps} == {"unreachable"}
    assert len(heard) == 61


def test_another_daemon_is_not_mistaken_for_the_one_that_lost(daemon):
    publisher, _ = daemon
    with (
        Publisher("tcp://127.0.0.1:*", VOCABULARY) as other,
        ControlServer("tcp://127.0.0.1:*", MethodTable(other.methods())) as control,
        LossyRelay(publisher.endpoint, loses(range(3, 5))) as relay,
        Subscriber(
            relay.endpoint, timeout_s=10, recover=True, control_endpoint=control.endpoint
        ) as subscriber,
    ):
        for index in range(9):
            other.publish_prediction(prediction(index))
        wait_until_connected(subscriber)
        for index in range(6):
            publisher.publish_prediction(prediction(index))
        heard = iter_until(subscriber, 5)
    assert [gap for gap in heard if isinstance(gap, Gap)] == [
        Gap("porch", "prediction", 3, 4, publisher.run, "run_over")
    ]


def test_recovery_needs_to_know_where(daemon):
    publisher, _ = daemon
    with pytest.raises(PublishError, match="control_endpoint"):
        Subscriber(publisher.endpoint, recover=True)
    with pytest.raises(PublishError, match="not an address"):
        Subscriber(publisher.endpoint, recover=True, control_endpoint="nowhere")


def test_async_control_calls(daemon, tmp_path):
    _, control = daemon

    async def call():
        async with AsyncControlClient(control.endpoint) as client:
            assert await client.call("snapshot") == []
            with pytest.raises(ControlError, match="from_seq"):
                await client.call("replay", {"stream": "porch", "type": "event"})
        async with AsyncControlClient(f"ipc://{tmp_path}/nobody.sock") as client:
            with pytest.raises(ControlTimeoutError, match="no daemon at"):
                await client.call("snapshot", timeout_s=0.05)

    asyncio.run(call())


def test_age():
    message = msgspec.structs.replace(health(0), published_ns=time.time_ns() - 3_000_000_000)
    assert 3 <= message.age_s() < 60
    assert message.age_s(message.published_ns + 500_000_000) == 0.5


# -- a subscriber that really stalls ------------------------------------------------------

_LISTENER = """
import json, sys
from streamcls.client import Gap, HeartbeatMessage, Subscriber
publish, control, last = sys.argv[1], sys.argv[2], int(sys.argv[3])
options = {"recover": True, "control_endpoint": control} if control else {}
with Subscriber(publish, types=["prediction", "heartbeat"], timeout_s=60, **options) as subscriber:
    seq = -1
    while seq < last:
        item = next(subscriber)
        if isinstance(item, HeartbeatMessage):
            print("alive", flush=True)
        elif isinstance(item, Gap):
            first, seq = item.first_missing_seq, item.last_missing_seq
            print(json.dumps([first, seq, item.reason or "lost"]))
        else:
            seq = item.seq
            print(json.dumps([seq, seq, "recovered" if item.recovered else "live"]))
"""
KEPT = 2000


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.parametrize("with_recovery", [True, False])
def test_a_process_that_stalls_learns_what_it_missed(with_recovery):
    labels = tuple(f"class number {index}" for index in range(100))
    posterior = np.linspace(0, 1, 100, dtype=np.float32)
    total = 6000
    with (
        Publisher(
            "tcp://127.0.0.1:*",
            Vocabulary("sounds", labels),
            top_k=0,
            journal=JournalLimits(messages=KEPT),
        ) as publisher,
        ControlServer("tcp://127.0.0.1:*", MethodTable(publisher.methods())) as control,
        Subscriber(publisher.endpoint, timeout_s=10) as healthy,
    ):
        wait_until_connected(healthy)
        command = [sys.executable, "-c", _LISTENER, publisher.endpoint]
        command += [control.endpoint if with_recovery else "", str(total - 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as stalled:
            assert stalled.stdout is not None
            assert stalled.stdout.readline() == "alive\n"
            os.kill(stalled.pid, signal.SIGSTOP)
            try:
                before_bytes, size_bytes = _resident_bytes(), 0
                for index in range(total):
                    publisher.publish_prediction(
                        Prediction("porch", 0, index, index + 1, 16000, 0, 0, -20.0, (), posterior)
                    )
                    message = healthy.receive(10)
                    assert not isinstance(message, Gap)
                    assert message.seq == index
                    size_bytes = len(encode(message))
                grown_bytes = _resident_bytes() - before_bytes
            finally:
                os.kill(stalled.pid, signal.SIGCONT)
            lines = [json.loads(line) for line in stalled.stdout if line != "alive\n"]
            assert stalled.wait(60) == 0
    assert publisher.stats()["dropped"] == {}

    # Once each, in order, whether heard, fetched or reported as lost.
    spans = [(first, last) for first, last, _ in lines]
    assert [first for first, _ in spans] == [0, *(last + 1 for _, last in spans[:-1])]
    assert spans[-1][1] == total - 1
    count = Counter[str]()
    for first, last, how in lines:
        count[how] += last - first + 1
    if with_recovery:
        # What the daemon has kept must have come, one way or the other.
        assert count["expired"] > 0
        assert count["recovered"] > 0
        assert count["live"] + count["recovered"] >= KEPT
        assert count.keys() == {"live", "recovered", "expired"}
    else:
        assert count["lost"] > 0
        assert count.keys() == {"live", "lost"}
    # One send queue and one journal, whatever else was published meanwhile.
    assert grown_bytes < (SEND_QUEUE_MESSAGES + KEPT) * (size_bytes + 1000) < total * size_bytes
