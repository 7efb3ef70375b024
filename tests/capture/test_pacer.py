"""The shared thread of paced sources: everybody's turn comes, an error hurts only its own."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from streamcls.capture import Feeder, Pacer
from streamcls.capture.file import FileSource
from streamcls.ring import Ring
from streamcls.types import HealthState

RATE_HZ = 16_000


def test_all_work_is_done_by_one_thread_that_ends_with_it() -> None:
    pacer = Pacer()
    threads: set[threading.Thread] = set()
    ended = threading.Semaphore(0)

    def work(turns: int) -> Iterator[float]:
        for _ in range(turns):
            threads.add(threading.current_thread())
            yield 0.001
        ended.release()

    for _ in range(2):  # works again after it had nothing to do
        for turns in (0, 1, 30):
            pacer.add(work(turns))
        for _ in range(3):
            assert ended.acquire(timeout=20)
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
        assert len(threads) == 1
        threads.clear()


def test_work_that_fails_is_logged_and_leaves_the_rest_alone(caplog) -> None:
    pacer, ended = Pacer(), threading.Event()

    def fail() -> Iterator[float]:
        yield 0.001
        raise ZeroDivisionError("oops")

    def go_on() -> Iterator[float]:
        for _ in range(20):
            yield 0.001
        ended.set()

    pacer.add(fail())
    pacer.add(go_on())
    assert ended.wait(20)
    assert "the others go on" in caplog.text


def test_hurrying_work_that_is_at_it_cuts_its_next_pause_short() -> None:
    pacer, at_work, hurried, ended = (
        Pacer(),
        threading.Event(),
        threading.Event(),
        threading.Event(),
    )

    def work() -> Iterator[float]:
        at_work.set()
        assert hurried.wait(20)
        yield 3600.0
        ended.set()

    one = work()
    pacer.add(one)
    assert at_work.wait(20)
    pacer.hurry(one)
    hurried.set()
    assert ended.wait(20)


def test_files_share_a_thread_and_lose_nothing(tmp_path: Path) -> None:
    audio = np.random.default_rng(0).uniform(-0.9, 0.9, RATE_HZ // 2).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", audio, RATE_HZ, subtype="FLOAT")
    pacer = Pacer()
    before = threading.active_count()
    feeders = [
        Feeder(f"s{index}", FileSource(tmp_path / "a.wav"), Ring(RATE_HZ, RATE_HZ))
        for index in range(20)
    ]
    for feeder in feeders:
        feeder.start(pacer)
    assert threading.active_count() <= before + 1
    deadline_s = time.monotonic() + 60
    while any(feeder.state is not HealthState.ENDED for feeder in feeders):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    out = np.empty(len(audio), np.float32)
    for feeder in feeders:
        assert feeder.stop()
        assert feeder.ring.read_hop(out) is not None
        np.testing.assert_array_equal(out, audio)


def test_stopping_does_not_wait_for_the_end_of_the_file(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(60 * 8000, np.int16), 8000)
    pacer = Pacer()
    feeder = Feeder("s", FileSource(tmp_path / "a.wav"), Ring(RATE_HZ, RATE_HZ))
    feeder.start(pacer)
    assert feeder.stop()
    assert feeder.ring.closed
