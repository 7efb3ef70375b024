"""Streams that come and go in a daemon without its sockets: real engine, real feeders."""

import dataclasses
import os
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from streamcls.capture.device import DeviceSource
from streamcls.capture.pipe import PipeSource
from streamcls.capture.source import SourceLost
from streamcls.config import Config, StreamConfig, load_config
from streamcls.engine import Engine, Executor, build_executor
from streamcls.errors import ConfigError, ModelError, PublishError, ReloadError, SourceError
from streamcls.features import FrontEnd
from streamcls.ingest import Ingest
from streamcls.postprocess.settings import StreamEventSettings
from streamcls.publish import outbox
from streamcls.publish.publisher import Publisher
from streamcls.publish.schema import STREAM_TYPES
from streamcls.registrar import Registrar
from streamcls.roster import Roster
from streamcls.served import ServedModel, load_model
from streamcls.types import HealthState
from tests.engine.conftest import checkpoint, executor, seasoned_path
from tests.models.checkpoints import save_seasoned

__all__ = ["checkpoint", "executor", "seasoned_path"]

RATE_HZ = 16_000
AT_8_KHZ = FrontEnd(
    sample_rate_hz=8_000, frame_samples=200, hop_samples=80, n_fft=256, fmax_hz=3_800.0
)
TIMEOUT_S = 20.0


class Site:
    """A registrar with all that it needs, and what waits to be published."""

    def __init__(self, folder: Path, config: Config, executor: Executor):
        self.config = config
        self.model: ServedModel = load_model(config)
        self.publisher = Publisher(config.publish.endpoint, self.model.vocabulary)
        self.roster = Roster(self.publisher)
        self.registrar = Registrar(config, self.model, self.roster, self.publisher)
        self.engine = Engine(executor, self.roster.take_predictions, self.roster.take_end)
        self.ingest = Ingest(f"ipc://{folder}/ingest")
        self.engine.start()
        self.registrar.start(self.engine, self.ingest)

    def queued(self, sequence: str) -> int:
        return sum(item.sequence == sequence for item in list(self.publisher._outbox._queue))

    def wait_for_the_end(self) -> None:
        give_up_s = time.monotonic() + TIMEOUT_S
        while not self.registrar.finished:
            assert time.monotonic() < give_up_s
            time.sleep(0.01)


@pytest.fixture
def site(tmp_path: Path, seasoned_path: Path, executor: Executor) -> Iterator[Site]:
    overrides = {
        "model": str(seasoned_path),
        "publish.endpoint": f"ipc://{tmp_path}/pub",
        # An untrained model spreads its probability over 12 classes.
        "events.onset_threshold": "0.03",
        "events.offset_threshold": "0.01",
        "events.min_duration_ms": "0",
    }
    site = Site(tmp_path, load_config(None, overrides, environ={}), executor)
    yield site
    site.registrar.stop_capture()
    site.engine.stop()
    site.publisher.close()
    site.ingest.close()
    assert site.engine.failure is None


def test_nothing_that_an_added_stream_says_at_once_is_lost(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * RATE_HZ)
    soundfile.write(tmp_path / "noise.wav", noise, RATE_HZ)
    add = site.roster.add

    def add_late(*arguments) -> None:
        threading.Event().wait(0.5)  # as where another thread runs just then
        add(*arguments)

    monkeypatch.setattr(site.roster, "add", add_late)
    site.registrar.build("a", StreamConfig(source=f"file:{tmp_path}/noise.wav", pace="fast"))
    site.wait_for_the_end()
    assert site.engine.windows > 0
    assert site.queued("prediction/a/") == site.engine.windows


def test_streams_that_have_ended_hold_no_audio(site: Site, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * RATE_HZ)
    soundfile.write(tmp_path / "noise.wav", noise, RATE_HZ)
    tracemalloc.start()
    try:
        for name in ("first", "second", "third", "fourth"):
            site.registrar.build(
                name, StreamConfig(source=f"file:{tmp_path}/noise.wav", pace="fast")
            )
            site.wait_for_the_end()
        by_ring = tracemalloc.Filter(True, "*/streamcls/ring.py")
        held = tracemalloc.take_snapshot().filter_traces([by_ring])
    finally:
        tracemalloc.stop()
    rings = [stream.ring for stream in site.roster.streams.values()]
    assert sum(each.size for each in held.traces) < rings[0].capacity_samples
    assert {ring.read for ring in rings} == {3 * RATE_HZ}


def test_indices_go_on_at_the_moment_of_the_change_to_another_rate(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 30 * RATE_HZ)
    soundfile.write(tmp_path / "noise.wav", noise, RATE_HZ)
    for name in ("a", "b"):
        site.registrar.build(name, StreamConfig(source=f"file:{tmp_path}/noise.wav"))
    model, executor = slow_model(site, tmp_path)
    stop = Registrar._stop_feeder

    def stop_slowly(*arguments: Any) -> None:
        time.sleep(1.0)  # as a device that hangs
        stop(*arguments)

    monkeypatch.setattr(Registrar, "_stop_feeder", stop_slowly)
    present = site.roster.find("a").ring
    with_b = dataclasses.replace(site.config, streams={"b": site.roster.find("b").config})
    site.registrar._config = with_b  # so that the next one removes it
    site.registrar.change(dataclasses.replace(with_b, streams={}), model, executor)
    assert site.registrar.names() == ["a"]
    ring = site.roster.find("a").ring
    assert ring.sample_rate_hz == 8_000
    gap_s = (ring.index_end - ring.written) / 8_000 - present.index_end / RATE_HZ
    assert -0.5 < gap_s <= 0.001  # it goes on by a block or two meanwhile


def slow_model(site: Site, folder: Path) -> tuple[ServedModel, Executor]:
    path = save_seasoned(folder / "slow.safetensors", front_end=AT_8_KHZ)
    model = load_model(dataclasses.replace(site.config, model=str(path)))
    executor = build_executor(model.checkpoint, model.hop_samples, max_streams=1)
    executor.warm_up()
    return model, executor


def test_a_change_that_the_engine_refuses_leaves_streams_heard(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 30 * RATE_HZ)
    soundfile.write(tmp_path / "noise.wav", noise, RATE_HZ)
    site.registrar.build("a", StreamConfig(source=f"file:{tmp_path}/noise.wav"))
    stream = site.roster.find("a")
    model, executor = slow_model(site, tmp_path)

    def refuse(*_: Any) -> None:
        raise ModelError("busy")

    with monkeypatch.context() as patch:
        patch.setattr(site.engine, "swap", refuse)
        with pytest.raises(ModelError, match="busy"):
            site.registrar.change(site.config, model, executor)
    heard, give_up_s = stream.ring.read, time.monotonic() + TIMEOUT_S
    while stream.ring.read < heard + RATE_HZ:
        assert time.monotonic() < give_up_s
        time.sleep(0.01)
    # What it said meanwhile to a ring that nobody reads is a loss, and times are right.
    assert stream.feeder.health().dropped_samples > 0
    lag_ns = time.monotonic_ns() - stream.ring.time_ns(stream.ring.index_end)
    assert abs(lag_ns + stream.ring._utc_offset_ns()) < 0.5e9
    # And another attempt succeeds.
    site.registrar.change(site.config, model, executor)
    assert stream.ring.sample_rate_hz == 8_000


def test_a_change_that_the_engine_is_too_busy_for_removes_no_stream(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 30 * RATE_HZ)
    soundfile.write(tmp_path / "noise.wav", noise, RATE_HZ)
    table = StreamConfig(source=f"file:{tmp_path}/noise.wav")
    present = dataclasses.replace(site.config, streams={"a": table, "b": table, "c": table})
    site.registrar.change(present, site.model, None)
    streams = dict(site.roster.streams)
    wanted = dataclasses.replace(
        present, streams={"a": table, "b": dataclasses.replace(table, channel="mix")}
    )
    monkeypatch.setattr(Engine.call, "__defaults__", (0.5,))
    move, busy, released = Registrar._move_feeders, threading.Event(), threading.Event()

    def compute() -> None:
        busy.set()
        released.wait(TIMEOUT_S)

    def get_busy(*arguments: Any) -> None:
        move(*arguments)
        threading.Thread(target=site.engine.call, args=(compute, TIMEOUT_S)).start()
        assert busy.wait(TIMEOUT_S)

    with monkeypatch.context() as patch:
        patch.setattr(Registrar, "_move_feeders", get_busy)
        with pytest.raises(ModelError, match="the engine has not finished its work"):
            site.registrar.change(wanted, site.model, None)
    released.set()
    assert site.roster.streams == streams
    heard = {name: one.ring.read for name, one in streams.items()}
    give_up_s = time.monotonic() + TIMEOUT_S
    while any(one.ring.read < heard[name] + RATE_HZ for name, one in streams.items()):
        assert time.monotonic() < give_up_s
        time.sleep(0.01)
    site.registrar.change(wanted, site.model, None)
    assert site.registrar.names() == ["a", "b"]
    assert site.roster.find("a") is streams["a"]
    assert site.roster.find("b") is not streams["b"]


def test_a_stream_that_the_engine_has_not_finished_takes_a_slot(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 2 * RATE_HZ)
    soundfile.write(tmp_path / "noise.wav", noise, RATE_HZ)
    finishing, released = threading.Event(), threading.Event()
    finish = site.engine._finish

    def finish_late(*arguments: Any) -> None:
        finishing.set()
        released.wait(TIMEOUT_S)
        finish(*arguments)

    monkeypatch.setattr(site.engine, "_finish", finish_late)
    site.registrar.build("a", StreamConfig(source=f"file:{tmp_path}/noise.wav", pace="fast"))
    site.registrar.build("b", StreamConfig(source="remote:porch"))
    assert finishing.wait(TIMEOUT_S)
    assert site.roster.find("a").ring.ended
    inference = dataclasses.replace(site.config.inference, max_streams=1)
    config = dataclasses.replace(site.config, inference=inference)
    with pytest.raises(ConfigError, match="2 streams would run"):
        site.registrar.check(config, site.model)
    released.set()
    give_up_s = time.monotonic() + TIMEOUT_S
    while site.engine.names() != {"b"}:
        assert time.monotonic() < give_up_s
        time.sleep(0.01)
    site.registrar.check(config, site.model)


def test_a_loss_ends_events_only_when_the_last_prediction_was_told(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Waits for a sender that never comes: the test writes its audio, and the source is away.
    site.registrar.build("a", StreamConfig(source="remote:porch"))
    stream = site.roster.find("a")
    give_up_s = time.monotonic() + TIMEOUT_S
    while stream.feeder.state is not HealthState.RECOVERING:
        assert time.monotonic() < give_up_s
        time.sleep(0.01)
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * RATE_HZ).astype(np.float32)
    hop_samples = site.model.hop_samples
    n_hops = site.model.window_samples // hop_samples + 5
    stepping, released = threading.Event(), threading.Event()
    step = site.engine._executor.step_tile

    def step_slowly(*arguments: Any) -> Any:
        if stream.ring.read == n_hops * hop_samples:
            stepping.set()
            released.wait(TIMEOUT_S)
        return step(*arguments)

    monkeypatch.setattr(site.engine._executor, "step_tile", step_slowly)
    for index in range(n_hops):
        piece = noise[index * hop_samples :][:hop_samples]
        stream.ring.write(piece, round(index * hop_samples / RATE_HZ * 1e9))
    assert stepping.wait(TIMEOUT_S)
    watching = threading.Thread(target=site.registrar.end_lost_events)
    watching.start()
    watching.join(0.1)
    assert stream.detector.summarise().closed == 0
    released.set()
    watching.join()
    said = stream.detector.summarise()
    assert said.opened == said.closed > 0
    time.sleep(0.1)
    assert stream.detector.summarise() == said


def test_a_second_taker_of_a_senders_audio_is_refused_without_a_trace(site: Site) -> None:
    site.registrar.build("a", StreamConfig(source="remote:porch"))
    for _ in range(site.engine._executor.max_streams):
        with pytest.raises(SourceError, match="two streams take the audio of the sender 'porch'"):
            site.registrar.build("b", StreamConfig(source="remote:porch"))
    assert site.registrar.names() == ["a"]
    site.registrar.build("b", StreamConfig(source="remote:yard"))
    assert site.registrar.names() == ["a", "b"]


def test_standard_input_has_one_reader(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    read_fd, write_fd = os.pipe()
    monkeypatch.setattr(PipeSource, "_find_fd", lambda _: read_fd)
    pipe = StreamConfig(source="pipe:", sample_rate_hz=RATE_HZ)
    site.registrar.build("a", pipe)
    with pytest.raises(ConfigError, match="streams a, b: there is only one standard input"):
        site.registrar.build("b", pipe)
    with pytest.raises(ConfigError, match="streams a, b: there is only one standard input"):
        site.registrar.check(dataclasses.replace(site.config, streams={"b": pipe}), site.model)
    assert site.registrar.names() == ["a"]
    site.registrar.remove("a")
    site.registrar.build("b", pipe)
    site.registrar.remove("b")
    os.close(write_fd)
    os.close(read_fd)


def test_a_reload_with_a_sender_that_is_taken_changes_nothing(site: Site) -> None:
    site.registrar.build("a", StreamConfig(source="remote:porch"))
    site.registrar.build("c", StreamConfig(source="remote:yard"))
    wanted = {"b": StreamConfig(source="remote:porch"), "c": StreamConfig(source="remote:gate")}
    config = dataclasses.replace(site.config, streams=wanted)
    taken = "'a' already takes the audio of the sender 'porch'"
    with pytest.raises(ConfigError, match=taken):
        site.registrar.check(config, site.model)
    with pytest.raises(ConfigError, match=taken):
        site.registrar.change(config, site.model, None)
    assert site.registrar.names() == ["a", "c"]
    assert site.roster.find("c").config.source == "remote:yard"


def test_what_took_the_place_of_a_files_stream_stays_until_its_table_changes(
    site: Site, tmp_path: Path
) -> None:
    for name in ("own", "other"):
        noise = np.random.default_rng(0).normal(0, 0.1, 30 * RATE_HZ)
        soundfile.write(tmp_path / f"{name}.wav", noise, RATE_HZ)
    table = StreamConfig(source=f"file:{tmp_path}/own.wav", pace="realtime")
    config = dataclasses.replace(site.config, streams={"porch": table})
    site.registrar.change(config, site.model, None)
    site.registrar.remove("porch")
    events = StreamEventSettings(deny=("class_3",))
    other = StreamConfig(source=f"file:{tmp_path}/other.wav", pace="realtime", events=events)
    site.registrar.build("porch", other)
    stream = site.roster.find("porch")
    site.registrar.change(config, site.model, None)
    assert site.roster.find("porch") is stream
    assert (stream.config, stream.events.deny) == (other, ("class_3",))
    quiet = dataclasses.replace(table, events=StreamEventSettings(onset_threshold=0.9))
    changed = dataclasses.replace(config, streams={"porch": quiet})
    site.registrar.change(changed, site.model, None)
    assert site.roster.find("porch").config == quiet


def test_a_device_that_is_away_is_waited_for_in_a_file_and_refused_in_a_request(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(source: DeviceSource) -> None:
        raise SourceLost(f"there is no {source}")

    monkeypatch.setattr(DeviceSource, "check", check)
    path = tmp_path / "streamcls.toml"
    path.write_text('[streams.porch]\nsource = "device:USB"\n')
    config = load_config(path, environ={})
    registrar = Registrar(config, site.model, site.roster, site.publisher)
    registrar.build("porch", config.streams["porch"])
    assert list(site.roster.streams) == ["porch"]
    with pytest.raises(SourceLost, match="there is no device:USB"):
        registrar.build("yard", StreamConfig("device:USB"))
    assert list(site.roster.streams) == ["porch"]
    registrar.remove("porch")
    with pytest.raises(SourceLost, match="there is no device:USB"):
        registrar.build("porch", StreamConfig("device:USB"))
    assert list(site.roster.streams) == []


def test_one_name_too_many_is_refused_and_hurts_no_other_stream(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "SEQUENCES_LIMIT", 2 * len(STREAM_TYPES))
    for name in ("a", "b"):
        site.registrar.build(name, StreamConfig(source=f"remote:{name}"))
    with pytest.raises(PublishError, match="use stream names again"):
        site.registrar.build("c", StreamConfig(source="remote:c"))
    assert site.registrar.names() == ["a", "b"]
    site.registrar.remove("a")
    site.registrar.build("a", StreamConfig(source="remote:c"))


def test_nothing_is_added_to_a_daemon_that_shuts_down(site: Site) -> None:
    site.registrar.stop_capture()
    with pytest.raises(ReloadError, match="shutting down; nothing was added"):
        site.registrar.build("a", StreamConfig(source="remote:porch"))
    assert site.registrar.names() == []
