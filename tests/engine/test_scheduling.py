"""Streams that join, leave, stall, burst and overload: nobody starves, every sample is accounted.

The real engine on real rings, ticked by hand, so that what happens in which tick is certain.
"""

import threading
import time
from itertools import pairwise

import jax
import numpy as np
import pytest

from streamcls.engine import Engine, Executor
from streamcls.engine.ready import ReadyQueue
from streamcls.ring import Ring
from streamcls.types import Prediction

RATE_HZ = 16_000


class Desk:
    """An engine without its thread, and what it said."""

    def __init__(self, executor: Executor):
        self.executor = executor
        self.hop = executor.hop_samples
        self.predictions: list[Prediction] = []
        self.rows: list[int] = []
        """How many streams each compiled step took."""
        self.engine = Engine(executor, self._take, lambda name: None)
        self.rings: dict[str, Ring] = {}

    def _take(self, predictions) -> None:
        self.predictions.extend(predictions)
        self.rows.append(len(predictions))

    def add(self, name: str, seconds: float = 2.0) -> Ring:
        ring = self.rings[name] = Ring(int(seconds * RATE_HZ), RATE_HZ)
        self.engine.add_stream(name, ring)
        return ring

    def write(self, name: str, n_hops: float = 1.0) -> None:
        ring = self.rings[name]
        n = int(n_hops * self.hop)
        audio = np.random.default_rng([ring.written, *name.encode()]).normal(0, 0.1, n)
        ring.write(audio.astype(np.float32), 10**18 + ring.index_end * 10**9 // RATE_HZ)

    def of(self, name: str) -> list[Prediction]:
        return [p for p in self.predictions if p.stream == name]

    def settle(self) -> None:
        while self.engine.tick():
            pass


@pytest.fixture
def desk(executor: Executor) -> Desk:
    return Desk(executor)


def check_accounts(ring: Ring) -> None:
    assert ring.written + ring.skipped == ring.read + ring.dropped + ring.pending


def test_a_tick_takes_one_hop_of_each_stream_in_one_step(desk: Desk) -> None:
    names = ["a", "b", "c", "d", "e"]
    for name in names:
        desk.add(name)
        desk.write(name, 15)
    ticks = 0
    while desk.engine.tick():
        ticks += 1
    assert ticks == desk.engine.ticks == 15
    assert set(desk.rows) == {5}


def test_nothing_compiles_while_streams_join_and_leave(desk: Desk) -> None:
    compilations: list[str] = []

    def note(event: str, duration_secs: float, **_: str | int) -> None:
        compilations.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    jax.jit(lambda x: x + len(compilations))(1.0)
    assert compilations  # that is how they would be noticed
    compilations.clear()
    for count in range(1, 6):
        desk.add(f"s{count}")
        for index in range(1, count + 1):
            desk.write(f"s{index}")
        desk.settle()
    for count in range(5):
        desk.engine.remove_stream(f"s{count + 1}")
        for index in range(1, 6):
            desk.write(f"s{index}")
        desk.settle()
    assert compilations == []
    jax.monitoring.unregister_event_duration_listener(note)


def test_streams_around_one_do_not_change_what_it_hears(desk: Desk, executor: Executor) -> None:
    """Joins, leaves, stalls and bursts of others: the same predictions as alone."""
    alone = Desk(executor)
    alone.add("steady")
    for _ in range(30):
        alone.write("steady")
        alone.engine.tick()
    desk.add("steady")
    for index in range(30):
        if index % 6 == 1:
            desk.add(f"guest{index}")
        if index % 6 == 4:
            desk.engine.remove_stream(f"guest{index - 3}")
        for name in desk.rings.keys() - {"steady"}:
            desk.write(name, [0, 0.3, 5, 1][index % 4])  # stalls, pieces, bursts
        desk.write("steady")
        desk.engine.tick()
    ours, theirs = desk.of("steady"), alone.of("steady")
    assert [p.sample_end for p in ours] == [p.sample_end for p in theirs]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)
    assert {p.epoch for p in ours} == {0}


def test_a_removed_stream_says_nothing_more_and_its_slot_starts_afresh(desk: Desk) -> None:
    for index in range(5):
        desk.add(f"s{index}")
        desk.write(f"s{index}", 20)
    desk.engine.tick()
    before = len(desk.of("s2"))
    desk.engine.remove_stream("s2")  # with nineteen hops to go, and queued
    desk.add("new")
    desk.write("new", 14)
    desk.settle()
    assert len(desk.of("s2")) == before
    fresh = Desk(desk.executor)
    fresh.add("new")
    fresh.write("new", 14)
    fresh.settle()
    for one, other in zip(desk.of("new"), fresh.of("new"), strict=True):
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)


def test_a_stall_holds_up_nobody_and_a_burst_waits_its_turn(desk: Desk) -> None:
    for name in ("stalled", "burst", "prompt"):
        desk.add(name, 6.0)
    desk.write("stalled", 0.5)
    desk.write("burst", 30)
    for _ in range(20):
        desk.write("prompt")
        desk.engine.tick()
        assert desk.rings["prompt"].pending == 0  # heard in the very next tick
    assert len(desk.of("burst")) == len(desk.of("prompt"))  # one hop a tick, no more
    desk.write("stalled", 0.5)
    desk.engine.tick()
    assert desk.rings["stalled"].read == desk.hop
    for ring in desk.rings.values():
        check_accounts(ring)


@pytest.mark.parametrize("load", [1.25, 2.5])
def test_overload_is_shared_fairly_and_every_dropped_sample_is_told(desk: Desk, load) -> None:
    """More audio than ticks: each stream loses the same, oldest hops first, in a new epoch."""
    names = ["a", "b", "c", "d", "e"]
    for name in names:
        desk.add(name, 3.0)
    ahead: list[int] = []
    for index in range(400):
        due = int((index + 1) * load) - int(index * load)
        # Never in the same order: who comes first must not win.
        for name in np.random.default_rng(index).permutation(names):
            for _ in range(due):
                desk.write(name)
        desk.engine.tick()
        ahead.append(max(ring.available() for ring in desk.rings.values()))
    read = [ring.read for ring in desk.rings.values()]
    assert max(read) - min(read) <= 2 * desk.hop
    assert min(read) >= 398 * desk.hop  # no tick was wasted on anybody
    assert max(ahead) <= 3.0 * RATE_HZ  # so nothing that is told is older than the ring
    for name, ring in desk.rings.items():
        check_accounts(ring)
        assert ring.overrun_events > 0
        assert ring.overrun_samples % desk.hop == 0  # whole hops
        heard = desk.of(name)
        ends = [p.sample_end for p in heard]
        assert ends == sorted(set(ends))
        assert heard[-1].epoch > 0
        for before, after in pairwise(heard):  # each loss began an epoch, and nothing else did
            lost = after.sample_end - before.sample_end != desk.hop
            assert lost == (after.epoch > before.epoch)


def test_after_overload_every_stream_is_live_again(desk: Desk) -> None:
    for name in ("a", "b"):
        desk.add(name)
        desk.write(name, 60)  # a pause of the machine: more than the ring holds
    desk.settle()
    for _ in range(10):
        for name in ("a", "b"):
            desk.write(name)
        desk.engine.tick()
    for ring in desk.rings.values():
        assert ring.pending == 0
        check_accounts(ring)
    assert desk.of("a")[-1].sample_end == desk.rings["a"].written


def test_the_queue_keeps_order_and_takes_nobody_twice() -> None:
    queue = ReadyQueue[str](max_wait_s=0.0)
    for name in ("b", "a", "b", "c", "a"):
        queue.put(name)
    assert queue.take_all() == ["b", "a", "c"]
    assert queue.take_all() == []
    queue.put("a")
    assert queue.take_all() == ["a"]


def test_the_first_waits_for_company_only_so_long() -> None:
    queue = ReadyQueue[str](max_wait_s=0.05)
    queue.enough = 3
    queue.put("a")
    began_s = time.monotonic()
    queue.wait(10.0)
    assert time.monotonic() - began_s >= 0.05
    assert queue.take_all() == ["a"]


def test_enough_end_the_wait_at_once() -> None:
    queue = ReadyQueue[str](max_wait_s=3600.0)
    queue.enough = 2
    queue.put("a")
    threading.Timer(0.05, queue.put, ["b"]).start()
    queue.wait(3600.0)
    assert queue.take_all() == ["a", "b"]


def test_a_call_from_outside_ends_the_wait() -> None:
    queue = ReadyQueue[str](max_wait_s=3600.0)
    queue.enough = 2
    queue.put("a")
    queue.wake()
    queue.wait(3600.0)  # woken before it began
    threading.Timer(0.05, queue.wake).start()
    queue.wait(3600.0)
    assert queue.take_all() == ["a"]
