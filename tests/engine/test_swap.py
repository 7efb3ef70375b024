"""Another model takes over between two hops: it says what it would have said all along."""

import copy
import threading
from pathlib import Path

import numpy as np
import pytest

from streamcls.checkpoint import load_checkpoint
from streamcls.engine import Engine, Executor, build_executor, choose_hop_samples
from streamcls.errors import ModelError
from streamcls.ring import Ring
from streamcls.types import Prediction
from tests.engine.test_engine import RATE_HZ, noise
from tests.models.checkpoints import save_seasoned

HOP = 1_280


class Executors:
    """Warmed-up executors of one row, each built once: every test starts its streams afresh."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._built: dict[tuple[int, float, int], Executor] = {}

    def __call__(self, seed: int, hop_ms: float = 80, min_window_frames: int = 97):
        key = (seed, hop_ms, min_window_frames)
        if key not in self._built:
            settings = {"min_window_frames": min_window_frames}
            path = save_seasoned(self._folder / f"{key}.safetensors", seed=seed, settings=settings)
            checkpoint = load_checkpoint(path)
            hop_samples = choose_hop_samples(checkpoint, hop_ms)
            self._built[key] = build_executor(checkpoint, hop_samples, 2, max_bucket=1)
            self._built[key].warm_up()
        return self._built[key]


@pytest.fixture(scope="module")
def build(tmp_path_factory) -> Executors:
    return Executors(tmp_path_factory.mktemp("models"))


class Desk:
    """An engine that is ticked by hand, and what it said."""

    def __init__(self, executor: Executor):
        self.predictions: list[Prediction] = []
        self.ended: list[str] = []
        self.engine = Engine(executor, self.predictions.extend, self.ended.append)

    def add(self, name: str, keep_s: float = 1.5) -> Ring:
        kept = int(keep_s * RATE_HZ)
        ring = Ring(2 * RATE_HZ + kept, RATE_HZ, keep_samples=kept)
        self.engine.add_stream(name, ring)
        return ring

    def work(self) -> None:
        while self.engine.tick():
            pass

    def take(self) -> list[Prediction]:
        taken = self.predictions.copy()
        self.predictions.clear()
        return taken


def feed(desk: Desk, ring: Ring, audio: np.ndarray, step: int = 500) -> None:
    for start in range(0, len(audio), step):
        piece = audio[start : start + step]
        ring.write(piece, 10**18 + ring.index_end * 10**9 // RATE_HZ)
        desk.work()


def predict_all_along(executor: Executor, audio: np.ndarray) -> dict[int, np.ndarray]:
    desk = Desk(executor)
    ring = desk.add("s")
    feed(desk, ring, audio)
    ring.close()
    desk.work()
    return {p.sample_end: p.probabilities for p in desk.predictions}


@pytest.mark.parametrize("n_before", [23 * HOP + 700, 23 * HOP, 13 * HOP + 1])
def test_after_the_swap_the_model_says_what_it_would_have_said(build, n_before) -> None:
    audio = noise(40 * HOP)
    expected = predict_all_along(build(1), audio)
    desk = Desk(build(0))
    ring = desk.add("s")
    feed(desk, ring, audio[:n_before])
    before = desk.take()
    desk.engine.swap(build(1))
    feed(desk, ring, audio[n_before:])
    after = desk.take()
    assert [p.sample_end for p in before + after] == [HOP * k for k in range(13, 41)]
    assert {p.epoch for p in before + after} == {0}
    for p in after:
        np.testing.assert_allclose(p.probabilities, expected[p.sample_end], atol=1e-4)
    assert np.abs(after[0].probabilities - before[-1].probabilities).max() > 0.01
    assert ring.written == ring.read + ring.pending
    assert ring.dropped == 0


def test_a_swap_before_the_first_window_delays_nothing(build) -> None:
    audio = noise(20 * HOP)
    desk = Desk(build(0))
    ring = desk.add("s")
    desk.engine.swap(build(1))
    feed(desk, ring, audio[: 5 * HOP])
    desk.engine.swap(build(0))
    feed(desk, ring, audio[5 * HOP :])
    assert [p.sample_end for p in desk.take()] == [HOP * k for k in range(13, 21)]


def test_another_hop_goes_on_where_the_last_one_ended(build) -> None:
    audio = noise(40 * HOP)
    desk = Desk(build(0))
    ring = desk.add("s")
    feed(desk, ring, audio[: 20 * HOP])
    assert desk.take()[-1].sample_end == 20 * HOP
    desk.engine.swap(build(0, hop_ms=200))
    feed(desk, ring, audio[20 * HOP : 30 * HOP])
    slow = desk.take()
    assert [p.sample_end for p in slow] == [20 * HOP + 3_200 * k for k in range(1, 5)]
    desk.engine.swap(build(0, hop_ms=40))
    feed(desk, ring, audio[30 * HOP :])
    fast = desk.take()
    assert [p.sample_end for p in fast] == list(range(slow[-1].sample_end + 640, 40 * HOP + 1, 640))
    # Each is that of the window it names: shift the audio so that a grid of 40 ms meets it.
    expected = predict_all_along(build(0, hop_ms=40), audio)
    for p in slow + fast:
        np.testing.assert_allclose(p.probabilities, expected[p.sample_end], atol=1e-4)


def test_swaps_that_follow_each_other_at_once_repeat_and_lose_nothing(build) -> None:
    audio = noise(40 * HOP)
    expected = predict_all_along(build(1), audio)
    desk = Desk(build(0))
    executors = [build(1), build(0), build(1)]
    ring = desk.add("s")
    feed(desk, ring, audio[: 20 * HOP])
    for executor in executors:
        desk.engine.swap(executor)
        desk.engine.tick()  # still hears the window again when the next one comes
    feed(desk, ring, audio[20 * HOP :])
    said = desk.take()
    assert [p.sample_end for p in said] == [HOP * k for k in range(13, 41)]
    for p in said[20 - 13 + 1 :]:
        np.testing.assert_allclose(p.probabilities, expected[p.sample_end], atol=1e-4)


def test_flags_and_a_loss_outlive_the_swap(build) -> None:
    audio = noise(60 * HOP)
    audio[20 * HOP + 5] = 1.0
    desk = Desk(build(0))
    ring = desk.add("s")
    feed(desk, ring, audio[: 25 * HOP])
    desk.take()
    desk.engine.swap(build(1))
    feed(desk, ring, audio[25 * HOP : 40 * HOP])
    flags = {p.sample_end // HOP: p.flags for p in desk.take()}
    assert [k for k, found in flags.items() if found] == list(range(26, 34))  # 21 to 33 hear it
    ring.skip(999)
    feed(desk, ring, audio[40 * HOP : 45 * HOP])
    desk.engine.swap(build(0))  # in the warm-up of the second epoch
    feed(desk, ring, audio[45 * HOP :])
    said = desk.take()
    assert {p.epoch for p in said} == {1}
    assert [p.sample_end for p in said] == [999 + HOP * k for k in range(53, 61)]


def test_a_longer_window_takes_what_the_ring_has_and_waits_for_the_rest(build) -> None:
    audio = noise(60 * HOP)
    long = build(2, min_window_frames=197)
    hops_per_window = -(-long.window_samples // HOP)
    expected = predict_all_along(long, audio)
    desk = Desk(build(0))
    ring = desk.add("s")
    feed(desk, ring, audio[: 18 * HOP])
    before = desk.take()
    desk.engine.swap(long)
    feed(desk, ring, audio[18 * HOP :])
    after = desk.take()
    assert before[-1].sample_end == 18 * HOP
    assert [p.sample_end for p in after] == [HOP * k for k in range(hops_per_window, 61)]
    assert {p.epoch for p in after} == {0}
    for p in after:
        np.testing.assert_allclose(p.probabilities, expected[p.sample_end], atol=1e-4)


def test_more_streams_than_the_new_one_has_slots(build) -> None:
    desk = Desk(build(0))
    for name in ("a", "b"):
        desk.add(name)
    few = copy.copy(build(1))
    few.max_streams = 1
    with pytest.raises(ModelError, match="2 streams are there, inference.max_streams is 1"):
        desk.engine.swap(few)
    desk.work()


def test_calls_run_between_ticks_and_hand_their_errors_back(build) -> None:
    engine = Engine(build(0), lambda predictions: None, lambda name: None)
    where: list[str] = []

    def note() -> None:
        where.append(threading.current_thread().name)

    def fail() -> None:
        raise ModelError("no")

    engine.call(note)
    engine.start()
    engine.call(note)
    with pytest.raises(ModelError, match="no"):
        engine.call(fail)
    release = threading.Event()
    blocker = threading.Thread(target=engine.call, args=(release.wait,))
    blocker.start()
    with pytest.raises(ModelError, match="not finished its work for 0.05 s"):
        engine.call(note, timeout_s=0.05)
    release.set()
    blocker.join()
    engine.stop()
    engine.call(note)
    assert where == ["MainThread", "engine", "MainThread"]
    assert engine.failure is None
