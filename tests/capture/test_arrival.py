"""Times from arrivals: jitter and stalls leave them alone, pauses move them."""

import random

from streamcls.capture.arrival import WINDOW_S, ArrivalClock
from streamcls.units import NS_PER_S

RATE_HZ = 16_000
BLOCK = 320
START_NS = 1_700_000_000 * NS_PER_S


def play(clock: ArrivalClock, first: int, n_blocks: int, late_ns) -> int:
    for block in range(first, first + n_blocks):
        end = (block + 1) * BLOCK
        clock.observe(end, START_NS + end * NS_PER_S // RATE_HZ + late_ns(block))
    return first + n_blocks


def test_jitter_does_not_move_the_times() -> None:
    rng = random.Random(1)
    clock = ArrivalClock(RATE_HZ)
    delays = [0, *[rng.randrange(80_000_000) for _ in range(400)]]
    play(clock, 0, 400, lambda block: delays[block])
    assert clock.time_ns(0) == START_NS
    assert clock.time_ns(RATE_HZ) == START_NS + NS_PER_S


def test_a_burst_is_older_than_its_arrival() -> None:
    clock = ArrivalClock(RATE_HZ)
    for block in range(100):
        clock.observe((block + 1) * BLOCK, START_NS)
    assert clock.time_ns(100 * BLOCK) == START_NS


def test_a_stall_that_is_caught_up_is_forgotten_a_pause_is_not() -> None:
    clock = ArrivalClock(RATE_HZ)
    at = play(clock, 0, 100, lambda _: 0)
    at = play(clock, at, 100, lambda block: max(0, 199 - block) * 20_000_000)
    assert clock.time_ns(0) == START_NS
    at = play(clock, at, round((WINDOW_S - 3) / 0.02) - 20, lambda _: 3 * NS_PER_S)
    assert clock.time_ns(0) == START_NS  # could still be a stall
    play(clock, at, 100, lambda _: 3 * NS_PER_S)
    assert clock.time_ns(0) == START_NS + 3 * NS_PER_S
