"""The ring under real threads: nothing lost, repeated or torn, and every loss accounted for."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamcls.clock import SETTLING_S, StreamClock, read_utc_offset_ns
from streamcls.ring import MAX_SEGMENTS, Ring
from streamcls.types import Hop
from streamcls.units import NS_PER_S, samples_to_ns

RATE_HZ = 16_000
T0_NS = 1_700_000_000 * NS_PER_S


def ramp(start: int, n: int) -> np.ndarray:
    """Return samples that name their own absolute index (exact in float32 below 2**24)."""
    return np.arange(start, start + n, dtype=np.float32)


def write_ramp(ring: Ring, n: int) -> None:
    start = ring.index_end
    ring.write(ramp(start, n), T0_NS + samples_to_ns(start, RATE_HZ))


def assert_balanced(ring: Ring) -> None:
    assert ring.written + ring.skipped == ring.read + ring.dropped + ring.pending


def assert_hop_is_ramp(hop: Hop, out: np.ndarray) -> None:
    np.testing.assert_array_equal(out[: hop.n_real], ramp(hop.sample_start, hop.n_real))
    assert not out[hop.n_real :].any()


@dataclass
class Reader(threading.Thread):
    """Drains a ring as the engine does: sleeps on an event, reads hops, checks each sample."""

    ring: Ring
    news: threading.Event
    hop_samples: int
    pause_every: int = 0
    hops: list[Hop] = field(default_factory=list)
    failure: BaseException | None = None

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        try:
            self.drain()
        except BaseException as error:  # noqa: BLE001 - reported by finish() in the test's thread
            self.failure = error

    def drain(self) -> None:
        out = np.empty(self.hop_samples, np.float32)
        while not self.ring.ended:
            self.news.wait(5)
            self.news.clear()
            while (hop := self.ring.read_hop(out)) is not None:
                assert_hop_is_ramp(hop, out)
                self.hops.append(hop)
                if self.pause_every and len(self.hops) % self.pause_every == 0:
                    time.sleep(0.002)

    def finish(self) -> list[Hop]:
        self.join(60)
        assert not self.is_alive()
        if self.failure is not None:
            raise self.failure
        return self.hops


def assert_hops_tell_every_loss(hops: list[Hop]) -> None:
    end = 0
    for hop in hops:
        assert hop.sample_start - end == hop.lost_samples
        end = hop.sample_start + hop.n_real


@pytest.mark.parametrize("seed", range(4))
def test_back_pressure_loses_nothing(seed: int) -> None:
    rng = random.Random(seed)
    news = threading.Event()
    ring = Ring(rng.choice([64, 1000, 4096]), RATE_HZ, news.set)
    limit = ring.capacity_samples // 2
    reader = Reader(ring, news, rng.randint(1, limit), pause_every=50)
    reader.start()
    while ring.written < 60_000:
        n = rng.randint(1, limit)
        while not ring.wait_for_space(n, 1):
            assert reader.is_alive()
        write_ramp(ring, n)
    ring.close()
    hops = reader.finish()
    assert ring.read == ring.written
    assert ring.dropped == ring.pending == ring.overrun_events == 0
    assert all(hop.lost_samples == 0 for hop in hops)
    assert all(hop.n_real == reader.hop_samples for hop in hops[:-1])


@pytest.mark.parametrize("seed", range(8))
def test_free_running_writer_overruns_and_skips_but_tears_nothing(seed: int) -> None:
    rng = random.Random(seed)
    news = threading.Event()
    ring = Ring(rng.choice([200, 3000, 20_000]), RATE_HZ, news.set)
    hop_samples = rng.randint(1, ring.capacity_samples // 2)
    reader = Reader(ring, news, hop_samples, pause_every=rng.choice([0, 3, 20]))
    reader.start()
    while ring.index_end < 2_000_000:
        write_ramp(ring, rng.randint(1, ring.capacity_samples * 2))
        if rng.random() < 0.05:
            ring.skip(rng.randint(1, 5000))
        if rng.random() < 0.1:
            time.sleep(0.0005)
    ring.close()
    hops = reader.finish()
    assert_balanced(ring)
    assert ring.pending == 0
    assert ring.passed == ring.skipped > 0
    assert ring.overrun_events > 0
    assert_hops_tell_every_loss(hops)
    assert sum(hop.n_real for hop in hops) == ring.read


@settings(max_examples=200, deadline=None)
@given(
    hop_samples=st.integers(1, 20),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.integers(1, 100)),
            st.tuples(st.just("skip"), st.integers(1, 30)),
            st.tuples(st.just("read"), st.integers(1, 4)),
            st.tuples(st.just("rewind"), st.integers(1, 9)),
        ),
        max_size=60,
    ),
    keep_samples=st.sampled_from([0, 15]),
)
def test_accounting_holds_after_every_step(
    hop_samples: int, steps: list[tuple[str, int]], keep_samples: int
) -> None:
    ring = Ring(40 + keep_samples, RATE_HZ, keep_samples=keep_samples)
    out = np.empty(hop_samples, np.float32)
    present: set[int] = set()
    seen: list[int] = []
    hops: list[Hop] = []
    told = 0

    def read() -> bool:
        nonlocal told
        hop = ring.read_hop(out)
        if hop is not None:
            assert_hop_is_ramp(hop, out)
            hops.append(hop._replace(lost_samples=hop.lost_samples + told))
            told = 0
            seen.extend(range(hop.sample_start, hop.sample_start + hop.n_real))
        return hop is not None

    for what, n in steps:
        if what == "write":
            present.update(range(ring.index_end, ring.index_end + n))
            write_ramp(ring, n)
        elif what == "skip":
            ring.skip(n)
        elif what == "rewind":
            back = ring.rewind(hop_samples, n)
            assert back <= min(n, len(hops))
            if back:
                # Only audio without a loss in it, and that is read again from where it began.
                assert all(hop.lost_samples == 0 for hop in hops[len(hops) - back + 1 :])
                told += hops[-back].lost_samples  # once is enough
                del hops[-back:], seen[-back * hop_samples :]
        else:
            for _ in range(n):
                read()
        assert_balanced(ring)
    ring.close()
    while read():
        assert_balanced(ring)
    assert ring.ended
    assert_balanced(ring)
    assert ring.read == len(seen) == len(set(seen))
    assert set(seen) <= present
    assert len(present) - len(seen) == ring.discarded + ring.overrun_samples
    assert_hops_tell_every_loss(hops)


def test_overrun_drops_whole_hops_oldest_first_down_to_a_quarter_of_the_ring() -> None:
    ring = Ring(100, RATE_HZ)
    out = np.empty(10, np.float32)
    write_ramp(ring, 15)
    assert ring.read_hop(out) == Hop(0, 10, 0)
    write_ramp(ring, 120)  # 135 written, 35..134 still stored, reader at 10
    assert ring.read_hop(out) == Hop(110, 10, 100)  # 110 = 10 + 10 hops leaves a quarter
    assert_hop_is_ramp(Hop(110, 10, 100), out)
    assert (ring.overrun_samples, ring.overrun_events) == (100, 1)
    assert_balanced(ring)


def test_hole_discards_the_piece_in_front_of_it_and_is_told_by_the_next_hop() -> None:
    ring = Ring(100, RATE_HZ)
    out = np.empty(10, np.float32)
    write_ramp(ring, 14)
    ring.skip(1000)
    ring.skip(6)  # two holes without audio between them are one
    assert ring.read_hop(out) == Hop(0, 10, 0)
    assert ring.read_hop(out) is None
    write_ramp(ring, 10)
    assert ring.read_hop(out) == Hop(1020, 10, 1010)
    assert (ring.discarded, ring.passed, ring.overrun_events) == (4, 1006, 0)
    assert_balanced(ring)


def test_a_rewound_reader_hears_its_newest_audio_again() -> None:
    ring = Ring(100, RATE_HZ, keep_samples=40)
    out = np.empty(10, np.float32)
    write_ramp(ring, 13)
    ring.skip(7)
    write_ramp(ring, 75)  # 20..94
    while ring.read_hop(out):
        pass
    assert (ring.read, ring.pending) == (80, 5)
    # In other hops, and only whole ones; the writer keeps a quarter of the ring to go on.
    assert ring.rewind(8, 100) == 8
    assert (ring.read, ring.pending) == (80 - 64, 5 + 64)
    assert ring.read_hop(out[:8]) == Hop(26, 8, 0)
    assert_hop_is_ramp(Hop(26, 8, 0), out[:8])
    assert_balanced(ring)
    # Not past the loss, however much is asked for, and never in front of the first sample.
    assert ring.rewind(1, 100) == 34 - 20
    assert ring.read_hop(out) == Hop(20, 10, 0)
    assert Ring(100, RATE_HZ).rewind(10, 5) == 0


def test_a_writer_that_waits_leaves_what_is_kept() -> None:
    ring = Ring(100, RATE_HZ, keep_samples=40)
    out = np.empty(10, np.float32)
    for _ in range(30):
        while ring.wait_for_space(10, 0):
            write_ramp(ring, 10)
        assert ring.read_hop(out)
        heard = ring.read // 10
        assert ring.rewind(10, 9) == min(4, heard)
        while ring.available() > 50:
            assert ring.read_hop(out)
    assert ring.overrun_events == 0


def test_end_of_stream_pads_the_last_hop() -> None:
    ring = Ring(100, RATE_HZ)
    out = np.full(10, 9.0, np.float32)
    write_ramp(ring, 13)
    assert ring.read_hop(out) == Hop(0, 10, 0)
    assert ring.read_hop(out) is None
    ring.close()
    assert not ring.ended
    assert ring.read_hop(out) == Hop(10, 3, 0)
    assert_hop_is_ramp(Hop(10, 3, 0), out)
    assert ring.read_hop(out) is None
    assert ring.ended


class Interrupted(np.ndarray):
    """A ring's memory that lets the other side run in the middle of a copy."""

    interrupt: Callable[[], None] | None = None

    def _let_other_side_run(self) -> None:
        if (interrupt := self.interrupt) is not None:
            self.interrupt = None
            interrupt()

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        self._let_other_side_run()

    def __getitem__(self, key: Any) -> Any:
        self._let_other_side_run()
        return super().__getitem__(key)


def interruptible_ring(capacity_samples: int) -> tuple[Ring, Interrupted]:
    ring = Ring(capacity_samples, RATE_HZ)
    memory = np.zeros(capacity_samples, np.float32).view(Interrupted)
    ring._samples = cast(memoryview, memory)
    return ring, memory


def test_a_copy_that_the_writer_ran_into_is_thrown_away() -> None:
    ring, memory = interruptible_ring(100)
    out = np.empty(10, np.float32)
    write_ramp(ring, 100)
    memory.interrupt = lambda: write_ramp(ring, 5)
    assert ring.read_hop(out) == Hop(80, 10, 80)
    assert_hop_is_ramp(Hop(80, 10, 80), out)
    assert_balanced(ring)


def test_a_reader_in_the_middle_of_a_write_keeps_away_from_it() -> None:
    ring, memory = interruptible_ring(100)
    out = np.empty(10, np.float32)
    hops = []

    def read() -> None:
        hops.append(ring.read_hop(out))
        assert_hop_is_ramp(hops[0], out)

    write_ramp(ring, 100)
    memory.interrupt = read
    write_ramp(ring, 5)  # the reader runs when 0..4 are overwritten and not yet committed
    assert hops == [Hop(80, 10, 80)]
    assert_balanced(ring)


class HoleInBetween(Ring):
    """The writer marks a hole and goes on just before the reader looks how much is written."""

    armed = False

    def __getattribute__(self, name: str) -> Any:
        if name == "written" and self.armed:
            self.armed = False
            self.skip(3)
            write_ramp(self, 20)
        return super().__getattribute__(name)


def test_a_hole_that_appears_while_the_reader_looks_is_not_read_across() -> None:
    ring = HoleInBetween(100, RATE_HZ)
    out = np.empty(10, np.float32)
    write_ramp(ring, 8)
    ring.armed = True
    assert ring.read_hop(out) == Hop(11, 10, 11)
    assert_hop_is_ramp(Hop(11, 10, 11), out)


def test_more_holes_than_can_be_remembered_count_as_an_overrun() -> None:
    ring = Ring(10_000, RATE_HZ)
    out = np.empty(5, np.float32)
    for _ in range(2 * MAX_SEGMENTS):
        write_ramp(ring, 5)
        ring.skip(5)
    ring.close()
    hops = []
    while (hop := ring.read_hop(out)) is not None:
        assert_hop_is_ramp(hop, out)
        hops.append(hop)
    assert len(hops) == MAX_SEGMENTS - 1
    assert ring.overrun_events == 1
    assert ring.overrun_samples == 5 * (2 * MAX_SEGMENTS - len(hops))
    assert_balanced(ring)
    assert ring.ended


def test_holes_that_can_be_remembered_cost_no_audio() -> None:
    ring = Ring(10_000, RATE_HZ)
    out = np.empty(5, np.float32)
    for _ in range(MAX_SEGMENTS - 1):
        write_ramp(ring, 5)
        for _ in range(5):
            ring.skip(1)
    while (hop := ring.read_hop(out)) is not None:
        assert_hop_is_ramp(hop, out)
    assert (ring.read, ring.passed) == (ring.written, ring.skipped)
    assert ring.overrun_events == ring.discarded == 0


def test_hops_with_replaced_samples_are_flagged_also_from_a_backlog() -> None:
    ring = Ring(1000, RATE_HZ)
    out = np.empty(10, np.float32)
    for k in range(40):
        if k == 30:
            ring.skip(7)
        ring.write(ramp(ring.index_end, 10), T0_NS, has_nonfinite=k in (3, 4, 9, 30))
    flagged = []
    while (hop := ring.read_hop(out)) is not None:
        if hop.nonfinite:
            flagged.append(hop.sample_start)
    assert flagged == [30, 40, 90, 307]


def test_impossible_sizes_are_refused() -> None:
    ring = Ring(100, RATE_HZ)
    with pytest.raises(ValueError, match="1 to 50 samples in this ring, not 51"):
        ring.read_hop(np.empty(51, np.float32))
    with pytest.raises(ValueError, match="the limit is 50"):
        ring.wait_for_space(51, 0)
    with pytest.raises(ValueError, match="must be at least 2"):
        Ring(1, RATE_HZ)


def test_waiting_for_space_gives_up_after_its_timeout() -> None:
    ring = Ring(100, RATE_HZ)
    write_ramp(ring, 80)
    assert ring.wait_for_space(20, 0)
    assert not ring.wait_for_space(21, 0.01)


def test_nobody_waits_for_a_reader_that_has_gone() -> None:
    ring = Ring(100, RATE_HZ)
    write_ramp(ring, 100)
    assert not ring.wait_for_space(50, 0)
    ring.abandon()
    assert ring.wait_for_space(50, 0)


def test_times_after_a_hole_come_from_the_source() -> None:
    ring = Ring(RATE_HZ, RATE_HZ)
    ring.write(ramp(0, 1600), T0_NS)
    ring.skip(1600)
    ring.write(ramp(3200, 1600), T0_NS + NS_PER_S)  # the loss was longer than declared
    assert ring.time_ns(3200) == T0_NS + NS_PER_S
    assert ring.index_at(T0_NS + 2 * NS_PER_S) == 3200 + RATE_HZ


def test_a_source_whose_own_clock_is_set_back_begins_a_new_epoch() -> None:
    ring = Ring(RATE_HZ, RATE_HZ)
    out = np.empty(1600, np.float32)
    broken = []
    for k in range(100):
        step_ns = 0 if k < 20 else -3600 * NS_PER_S
        ring.write(np.zeros(1600, np.float32), T0_NS + k * NS_PER_S // 10 + step_ns)
        while (hop := ring.read_hop(out)) is not None:
            if hop.lost_samples:
                broken.append((k, hop.lost_samples))
    assert broken == [(50, 1)]  # seen for three seconds before it is believed
    t_ns = T0_NS + 99 * NS_PER_S // 10 - 3600 * NS_PER_S
    assert abs(ring.time_ns(ring.index_end - 1600) - t_ns) < NS_PER_S // 1000


def test_a_source_that_pauses_without_a_word_begins_a_new_epoch() -> None:
    clock = StreamClock(RATE_HZ)
    held = [clock.observe(k * 1600, T0_NS + k * NS_PER_S // 10) for k in range(200)]
    paused_ns = T0_NS + 3 * NS_PER_S // 4
    held += [clock.observe(k * 1600, paused_ns + k * NS_PER_S // 10) for k in range(200, 231)]
    assert held == [True] * 230 + [False]


def test_clock_follows_a_drifting_card_through_jitter_for_a_day() -> None:
    rng = random.Random(1)
    clock = StreamClock(RATE_HZ)
    block = 1600
    last_ns, worst_ns = 0, 0.0
    for k in range(24 * 36_000):
        index = k * block
        true_ns = T0_NS + round(index * (1 + 80e-6) * NS_PER_S / RATE_HZ)
        late_ns = rng.expovariate(1 / 5e6) + (3e9 if rng.random() < 1e-5 else 0.0)
        assert clock.observe(index, true_ns + round(late_ns))
        assert clock.time_ns(index) > last_ns
        last_ns = clock.time_ns(index)
        if index > 2 * SETTLING_S * RATE_HZ:
            worst_ns = max(worst_ns, abs(last_ns - true_ns))
    assert worst_ns < 10e6  # mean lateness 5 ms, 80 ppm * 5 s, one slewed burst
    assert clock.drift_ppm == pytest.approx(-80, abs=5)


@pytest.mark.parametrize("drift_ppm", [-150.0, 0.0, 30.0])
def test_drift_is_known_within_two_minutes_and_outlives_a_loss(drift_ppm: float) -> None:
    rng = random.Random(2)
    clock = StreamClock(RATE_HZ)
    told_at_s = None
    for k in range(3000):  # five minutes
        true_ns = round(k * 1600 / (1 + drift_ppm * 1e-6) * NS_PER_S / RATE_HZ)
        assert clock.observe(k * 1600, T0_NS + true_ns + round(rng.gauss(0, 5e5)))
        if told_at_s is None and clock.drift_ppm is not None:
            told_at_s = k / 10
            assert clock.drift_ppm == pytest.approx(drift_ppm, abs=15)
    assert told_at_s is not None
    assert told_at_s <= 120
    assert clock.drift_ppm == pytest.approx(drift_ppm, abs=2)
    clock.restart()
    clock.observe(3000 * 1600, T0_NS)
    assert clock.drift_ppm == pytest.approx(drift_ppm, abs=2)


def test_setting_the_systems_clock_moves_all_times_at_once_and_nothing_else() -> None:
    """The offset is injected: a test must not set the clock of the machine it runs on."""
    offset_ns = T0_NS
    ring = Ring(RATE_HZ, RATE_HZ, utc_offset_ns=lambda: offset_ns)
    out = np.empty(1600, np.float32)
    for k, step_s in enumerate([0, 0, 3600, 0, -7200, 0, 0.25, 0] * 10):
        ring.write(np.zeros(1600, np.float32), k * NS_PER_S // 10)  # monotonic
        offset_ns += round(step_s * NS_PER_S)
        hop = ring.read_hop(out)
        assert hop is not None
        assert hop.lost_samples == 0
        assert ring.time_ns(hop.sample_start) == offset_ns + k * NS_PER_S // 10
        # Where a source was in between is measured on the clock that nobody sets.
        assert ring.index_at((k + 5) * NS_PER_S // 10) == (k + 5) * 1600


def test_the_offset_of_utc_is_read() -> None:
    before_ns = time.time_ns() - time.monotonic_ns()
    assert abs(read_utc_offset_ns() - before_ns) < NS_PER_S // 10
