"""The whole way from a source into the ring, with every kind of trouble on it."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from streamcls.capture import feeder as feeder_module
from streamcls.capture.feeder import Feeder
from streamcls.capture.file import FileSource
from streamcls.capture.pipe import PipeSource
from streamcls.capture.resample import Channel
from streamcls.capture.source import EndOfStream, Source, SourceLost
from streamcls.ring import Ring
from streamcls.types import Block, Health, HealthState, Hop
from streamcls.units import NS_PER_S

RATE_HZ = 16_000
HOP_SAMPLES = 160
START_NS = 1_700_000_000 * NS_PER_S


class Capture:
    """A feeder, its ring and an engine's side that reads all hops until the end."""

    def __init__(
        self, source: Source, channel: Channel = 0, capacity_samples: int = RATE_HZ
    ) -> None:
        self.news = threading.Event()
        self.ring = Ring(capacity_samples, RATE_HZ, self.news.set)
        self.reports: list[Health] = []
        self.feeder = Feeder("s", source, self.ring, channel, self.reports.append)
        self.hops: list[Hop] = []
        self.audio: list[np.ndarray] = []

    def run(self) -> "Capture":
        self.feeder.start()
        out = np.empty(HOP_SAMPLES, np.float32)
        while not self.ring.ended:
            assert self.news.wait(20), self.reports
            self.news.clear()
            while (hop := self.ring.read_hop(out)) is not None:
                self.hops.append(hop)
                self.audio.append(out[: hop.n_real].copy())
        assert self.feeder.stop()
        return self

    @property
    def heard(self) -> np.ndarray:
        return np.concatenate(self.audio)

    @property
    def states(self) -> list[HealthState]:
        return [report.state for report in self.reports]


class ScriptedSource:
    """A live source that plays a script: blocks, and exceptions to raise, one a read."""

    live = True
    finite = False
    channels = 1

    def __init__(self, rate_hz: int, *captures: list[Block | Exception]) -> None:
        self.sample_rate_hz = rate_hz
        self.captures: Iterator[list[Block | Exception]] = iter(captures)
        self.script: Iterator[Block | Exception] = iter(())

    def check(self) -> None: ...

    def open(self) -> None:
        self.script = iter(next(self.captures))
        if isinstance(step := next(self.script), Exception):
            raise step
        self.script = iter([step, *self.script])

    def read(self) -> Block | None:
        step = next(self.script, EndOfStream())
        if isinstance(step, Exception):
            raise step
        return step

    def close(self) -> None: ...


def block_at(t_s: float, rate_hz: int, seconds: float, **losses: int) -> Block:
    """Return a block whose samples are their own time in units of a minute."""
    n = round(seconds * rate_hz)
    samples = ((t_s + np.arange(n) / rate_hz) / 60).astype(np.float32)
    return Block(samples[:, np.newaxis], START_NS + round(t_s * NS_PER_S), **losses)


@pytest.mark.parametrize("rate_hz", [16_000, 44_100, 48_000])
@pytest.mark.parametrize("channel", [0, 1, "mix"])
def test_a_stereo_file_arrives_whole_at_the_models_rate(
    tmp_path: Path, rate_hz: int, channel: Channel
) -> None:
    rng = np.random.default_rng(5)
    soundfile.write(tmp_path / "a.wav", rng.uniform(-0.5, 0.5, (2 * rate_hz + 37, 2)), rate_hz)
    samples, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    mono = samples.mean(axis=1) if channel == "mix" else samples[:, channel]
    source = FileSource(tmp_path / "a.wav", "fast", START_NS)
    capture = Capture(source, channel, capacity_samples=1000).run()  # back-pressure all the time
    np.testing.assert_array_equal(capture.heard, soxr.resample(mono, rate_hz, RATE_HZ))
    assert capture.states == [HealthState.STARTING, HealthState.LIVE, HealthState.ENDED]
    assert capture.ring.dropped == 0
    end_ns = capture.ring.time_ns(capture.ring.index_end)
    assert abs(end_ns - START_NS - samples.shape[0] * NS_PER_S / rate_hz) < NS_PER_S / RATE_HZ


def test_a_pipe_that_is_read_slowly_loses_nothing() -> None:
    sent = np.arange(-20_000, 20_000, dtype=np.int16)
    read_fd, write_fd = os.pipe()

    def write() -> None:
        with os.fdopen(write_fd, "wb") as out:
            out.write(sent.tobytes())

    writer = threading.Thread(target=write)
    writer.start()
    capture = Capture(PipeSource(RATE_HZ, fd=read_fd), capacity_samples=400).run()
    writer.join()
    os.close(read_fd)
    np.testing.assert_array_equal(capture.heard * 32768, sent)
    assert capture.reports[-1].captured_samples == sent.size
    assert capture.reports[-1].dropped_samples == 0


def test_nonfinite_samples_become_zeros_and_are_counted(tmp_path: Path) -> None:
    samples = np.full(RATE_HZ, 0.25, np.float32)
    bad = [100, 101, 5000, 9000]
    samples[bad] = [np.nan, np.inf, -np.inf, 1e30]
    soundfile.write(tmp_path / "bad.wav", samples, RATE_HZ, subtype="FLOAT")
    capture = Capture(FileSource(tmp_path / "bad.wav", "fast")).run()
    samples[bad] = 0
    np.testing.assert_array_equal(capture.heard, samples)
    assert capture.reports[-1].nonfinite_samples == 4
    flagged = {hop.sample_start // 640 for hop in capture.hops if hop.nonfinite}
    assert flagged == {0, 7, 14}  # the 40 ms blocks that held them


def test_opposite_infinities_mix_to_a_counted_zero(tmp_path: Path) -> None:
    samples = np.full((1600, 2), 0.25, np.float32)
    samples[7] = [np.inf, -np.inf]
    soundfile.write(tmp_path / "bad.wav", samples, RATE_HZ, subtype="FLOAT")
    capture = Capture(FileSource(tmp_path / "bad.wav", "fast"), "mix").run()
    assert capture.heard[7] == 0
    assert np.isfinite(capture.heard).all()
    assert capture.reports[-1].nonfinite_samples == 1


@pytest.mark.parametrize("rate_hz", [16_000, 44_100, 48_000])
def test_driver_losses_become_holes_and_indices_keep_time(rate_hz: int) -> None:
    """Fifty losses of odd length: their rounding must not add up."""
    script: list[Block | Exception] = []
    frames = 0
    rng = np.random.default_rng(2)
    for _ in range(50):
        lost = int(rng.integers(1, rate_hz // 10))
        frames += lost if script else 0
        block = block_at(frames / rate_hz, rate_hz, 0.1, lost_frames=lost, xruns=1)
        script.append(block)
        frames += len(block.samples)
    capture = Capture(ScriptedSource(rate_hz, script), capacity_samples=20 * RATE_HZ).run()
    assert sum(hop.lost_samples > 0 for hop in capture.hops) == 49
    assert capture.reports[-1].xruns == 50
    ring = capture.ring
    assert ring.index_end == pytest.approx(frames * RATE_HZ / rate_hz, abs=2)
    assert capture.reports[-1].dropped_samples == ring.dropped == ring.skipped + ring.discarded
    for hop, audio in zip(capture.hops, capture.audio, strict=True):
        # The middle of a hop, away from the resampler's edges, must be worth its own time.
        middle = hop.sample_start + hop.n_real // 2
        assert audio[hop.n_real // 2] * 60 == pytest.approx(middle / RATE_HZ, abs=3e-3)


def test_an_outage_is_skipped_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeder_module, "RETRY_FIRST_S", 0.001)
    gone = SourceLost("gone")
    source = ScriptedSource(
        48_000,
        [gone],
        [block_at(0, 48_000, 1), gone],
        [SourceLost("still gone")],
        [gone],
        [block_at(31.25, 48_000, 1, lost_frames=5, xruns=1)],
    )
    capture = Capture(source, capacity_samples=4 * RATE_HZ).run()
    assert capture.states == [
        HealthState.STARTING,
        HealthState.LOST,
        HealthState.RECOVERING,
        HealthState.LIVE,
        HealthState.LOST,
        HealthState.RECOVERING,
        HealthState.RECOVERING,
        HealthState.RECOVERING,
        HealthState.LIVE,
        HealthState.ENDED,
    ]
    reasons = [r.reason for r in capture.reports if r.state is HealthState.RECOVERING]
    assert [reason.partition(";")[0] for reason in reasons] == [
        "attempt 1 in 0.001 s",
        "attempt 1 in 0.001 s",
        "attempt 2 in 0.002 s",
        "attempt 3 in 0.004 s",
    ]
    assert "still gone" in reasons[2]
    (back,) = [hop for hop in capture.hops if hop.lost_samples]
    assert back.sample_start == 31.25 * RATE_HZ
    assert back.lost_samples == 30.25 * RATE_HZ
    assert capture.ring.time_ns(back.sample_start) == START_NS + round(31.25 * NS_PER_S)
    assert capture.reports[-1].dropped_samples == 30.25 * RATE_HZ
    assert capture.ring.read == 2 * RATE_HZ  # what the resampler held when it broke is there


def test_the_pause_between_attempts_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeder_module, "RETRY_FIRST_S", 0.001)
    monkeypatch.setattr(feeder_module, "RETRY_LONGEST_S", 0.003)
    gone = SourceLost("gone")
    source = ScriptedSource(RATE_HZ, [gone], [gone], [gone], [gone], [block_at(0, RATE_HZ, 1)])
    capture = Capture(source).run()
    pauses = [r.reason.split()[3] for r in capture.reports if r.state is HealthState.RECOVERING]
    assert pauses == ["0.001", "0.002", "0.003", "0.003"]


def test_a_loss_in_a_new_ring_begins_with_the_first_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feeder_module, "RETRY_FIRST_S", 0.001)
    gone = SourceLost("gone")
    blocks = [block_at(t_s, RATE_HZ, 1) for t_s in range(3)]
    back = [block_at(t_s, RATE_HZ, 1) for t_s in (9, 10)]
    source = ScriptedSource(RATE_HZ, [*blocks, gone], [*back, gone], [block_at(20, RATE_HZ, 1)])
    old = Ring(4 * RATE_HZ, RATE_HZ)
    new = old.succeed(2 * RATE_HZ, RATE_HZ // 2, 0)
    reports: list[Health] = []

    def change_over(health: Health) -> None:
        """Do what a reload to another rate does, when the source is back."""
        reports.append(health)
        if "arrives again" in health.reason and feeder.ring is old:
            feeder.move_to(new)
            feeder.settle(new)

    feeder = Feeder("s", source, old, 0, change_over)
    feeder.start()
    while feeder.state is not HealthState.ENDED:
        time.sleep(0.001)
    assert feeder.stop()
    assert 0 < new.written < old.written
    outages = [r for r in reports if r.state in (HealthState.LOST, HealthState.RECOVERING)]
    assert [r.state for r in outages] == 2 * [HealthState.LOST, HealthState.RECOVERING]
    assert all(r.reason.startswith("attempt 1 ") for r in outages[1::2])


def test_digital_silence_is_told_and_ends(tmp_path: Path) -> None:
    samples = np.zeros(14 * RATE_HZ)
    samples[:RATE_HZ] = samples[-RATE_HZ:] = 0.01
    soundfile.write(tmp_path / "a.wav", samples, RATE_HZ)
    capture = Capture(FileSource(tmp_path / "a.wav", "fast")).run()
    assert capture.states == [
        HealthState.STARTING,
        HealthState.LIVE,
        HealthState.SILENT,
        HealthState.LIVE,
        HealthState.ENDED,
    ]
    assert capture.reports[2].captured_samples == 11 * RATE_HZ


def test_losses_are_told_while_they_happen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeder_module, "REPORT_PERIOD_S", 0.0)
    blocks = [block_at(0, RATE_HZ, 0.1), block_at(0.2, RATE_HZ, 0.1, lost_frames=1600, xruns=1)]
    capture = Capture(ScriptedSource(RATE_HZ, list(blocks))).run()
    told = [r for r in capture.reports if r.state is HealthState.LIVE][1]
    assert told.reason == "1600 samples dropped, 1 xruns"
    assert (told.dropped_samples, told.xruns) == (1600, 1)


@pytest.mark.parametrize(
    ("make", "channel", "message"),
    [
        (lambda folder: FileSource(folder / "missing.wav"), 0, "no such file"),
        (lambda folder: write_short(folder), 3, "channel 3 does not exist"),
    ],
)
def test_what_can_never_work_fails_and_ends_the_stream(
    tmp_path: Path, make: Callable[[Path], Source], channel: int, message: str
) -> None:
    capture = Capture(make(tmp_path), channel).run()
    assert capture.states == [HealthState.STARTING, HealthState.FAILED]
    assert message in capture.reports[-1].reason


def write_short(folder: Path) -> FileSource:
    soundfile.write(folder / "a.wav", np.zeros(100), RATE_HZ)
    return FileSource(folder / "a.wav")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_is_loud_and_ends_the_stream() -> None:
    capture = Capture(ScriptedSource(RATE_HZ, [ZeroDivisionError("oops")])).run()
    assert capture.states == [HealthState.STARTING, HealthState.FAILED]
    assert capture.reports[-1].reason == "internal error: ZeroDivisionError('oops')"


def test_stop_ends_a_capture_that_waits_for_a_reader(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(5 * RATE_HZ, 0.1), RATE_HZ)
    capture = Capture(FileSource(tmp_path / "a.wav", "fast"), capacity_samples=1000)
    capture.feeder.start()
    assert capture.news.wait(20)
    assert capture.feeder.stop()
    assert capture.ring.written <= 1000
    assert capture.feeder.health().state is HealthState.LIVE


def test_stop_ends_the_pause_of_a_lost_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeder_module, "RETRY_FIRST_S", 3600.0)
    capture = Capture(ScriptedSource(RATE_HZ, [SourceLost("gone")]))
    capture.feeder.start()
    while HealthState.RECOVERING not in capture.states:
        time.sleep(0.001)
    assert capture.feeder.stop()


def test_a_driver_that_was_left_behind_says_nothing_any_more() -> None:
    hanging, released = threading.Event(), threading.Event()

    class HangingSource(ScriptedSource):
        def read(self) -> Block | None:
            hanging.set()
            released.wait(20)
            raise SourceLost("no answer")

    capture = Capture(HangingSource(RATE_HZ, [block_at(0, RATE_HZ, 1)]))
    capture.feeder.start()
    assert hanging.wait(20)
    assert not capture.feeder.stop(0.01)
    released.set()
    assert capture.feeder.stop()
    assert capture.states == [HealthState.STARTING]


def test_a_feeder_that_never_started_can_be_stopped() -> None:
    capture = Capture(ScriptedSource(RATE_HZ))
    assert capture.feeder.stop()
    assert capture.ring.ended
