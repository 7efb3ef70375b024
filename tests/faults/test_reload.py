"""Reloads of the real daemon: what works leaves no gap, what does not changes nothing."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from streamcls.client import ControlClient, ControlError
from streamcls.features import FrontEnd
from streamcls.publish.schema import EventMessage, HealthMessage, Message, PredictionMessage
from tests.end_to_end.conftest import Daemon, Launcher
from tests.models.checkpoints import LABELS, save_seasoned

HOP = 1_280
AT_8_KHZ = FrontEnd(
    sample_rate_hz=8_000, frame_samples=200, hop_samples=80, n_fft=256, fmax_hz=3_800.0
)
EAGER = "events.onset_threshold = 0.03\nevents.offset_threshold = 0.01\n"


@pytest.fixture(scope="session")
def models(tmp_path_factory, model) -> dict[str, Path]:
    """Checkpoints to change to."""
    folder = tmp_path_factory.mktemp("reload-models")
    labels = [*LABELS[:-1], "other"]
    found = {
        "present": Path(model),
        "other": save_seasoned(folder / "other.safetensors", seed=1, name="other"),
        "labels": save_seasoned(
            folder / "labels.safetensors",
            seed=2,
            name="labels",
            labels=labels,
            unknown_labels=["other"],
        ),
    }
    path = folder / "slow.safetensors"
    found["slow"] = save_seasoned(path, front_end=AT_8_KHZ, name="slow")
    return found


class Site:
    """A daemon with a configuration file that can be rewritten."""

    def __init__(self, folder: Path, audio: Path):
        self.config = folder / "streamcls.toml"
        self.audio = audio

    def write(self, model: Path | str, more: str = "", streams: tuple[str, ...] = ("mic",)) -> None:
        tables = "".join(f'[streams.{s}]\nsource = "file:{self.audio}"\n' for s in streams)
        text = f'model = "{model}"\ninference.max_streams = 3\npublish.top_k = 0\n{more}{tables}'
        self.config.write_text(text)


@pytest.fixture
def site(tmp_path: Path, long_noise: Path) -> Site:
    return Site(tmp_path, long_noise)


def is_prediction(message: Message) -> bool:
    return isinstance(message, PredictionMessage)


def listen_until_model(daemon: Daemon, name: str) -> PredictionMessage:
    found = daemon.listen(lambda m: isinstance(m, PredictionMessage) and m.model == name)
    assert isinstance(found, PredictionMessage)
    return found


def check_no_window_is_missing(predictions: list[PredictionMessage], hop: int = HOP) -> None:
    assert [p.seq for p in predictions] == list(range(len(predictions)))
    assert {p.epoch for p in predictions} == {0}
    assert {b.sample_end - a.sample_end for a, b in pairwise(predictions)} == {hop}


def reload_model(control: ControlClient, path: Path) -> dict:
    return control.call("model.reload", {"model": str(path)}, timeout_s=120)


def test_another_model_takes_over_without_a_gap(launcher: Launcher, models, site) -> None:
    site.write(models["present"], EAGER)
    with launcher.run(str(site.config)) as daemon, ControlClient(daemon.control) as control:
        daemon.listen(lambda m: isinstance(m, EventMessage))
        result = reload_model(control, models["other"])
        assert (result["model"], result["sample_rate_hz"]) == ("other", 16_000)
        listen_until_model(daemon, "other")
        reload_model(control, models["labels"])
        listen_until_model(daemon, "labels")
        daemon.listen(is_prediction)
        # Many, and two at a time: they follow each other.
        threads = []
        for index in range(6):
            path = models["present" if index % 2 else "other"]

            def change(path: Path = path) -> None:
                with ControlClient(daemon.control) as another:
                    reload_model(another, path)

            threads.append(threading.Thread(target=change))
            threads[-1].start()
        for thread in threads:
            thread.join()
        status = control.call("status")
        assert (status["reload"]["done"], status["reload"]["failed"]) == (8, 0)
        last = status["model"]
        listen_until_model(daemon, last)
        daemon.process.terminate()
        daemon.process.wait(20)
    predictions = daemon.predictions("mic")
    check_no_window_is_missing([p for p in predictions if "padded" not in p.flags])
    assert set(predictions[0].scores) == set(LABELS)
    labels = next(p for p in predictions if p.model == "labels")
    assert set(labels.scores) == {*LABELS[:-1], "other"}
    ended = [m for m in daemon.messages if isinstance(m, EventMessage) and m.state == "offset"]
    assert "reload" in {m.reason for m in ended}


def test_sighup_changes_hop_thresholds_and_streams(launcher: Launcher, models, site) -> None:
    site.write(models["present"], streams=("mic", "old"))
    with launcher.run(str(site.config)) as daemon, ControlClient(daemon.control) as control:
        daemon.listen(is_prediction)
        site.write(models["other"], EAGER + "inference.hop_ms = 160\n", streams=("mic", "new"))
        os.kill(daemon.process.pid, signal.SIGHUP)
        listen_until_model(daemon, "other")
        daemon.listen(lambda m: isinstance(m, PredictionMessage) and m.stream == "new")
        assert [s["stream"] for s in control.call("streams.list")] == ["mic", "new"]
        daemon.listen(lambda m: isinstance(m, EventMessage))
        daemon.process.terminate()
        daemon.process.wait(20)
    mic = [p for p in daemon.predictions("mic") if "padded" not in p.flags]
    assert [p.seq for p in mic] == list(range(len(mic)))
    assert {p.epoch for p in mic} == {0}
    steps = [b.sample_end - a.sample_end for a, b in pairwise(mic)]
    assert steps == sorted(steps)
    assert set(steps) == {HOP, 2 * HOP}
    ends = [m for m in daemon.messages if isinstance(m, HealthMessage) and m.stream == "old"]
    assert ends[-1].state == "ended"


def test_another_sample_rate_begins_an_epoch_and_loses_less_than_a_hop(
    launcher: Launcher, models, site
) -> None:
    site.write(models["present"])
    with launcher.run(str(site.config)) as daemon, ControlClient(daemon.control) as control:
        daemon.listen(is_prediction)
        reload_model(control, models["slow"])
        first = listen_until_model(daemon, "slow")
        reload_model(control, models["present"])
        daemon.listen(lambda m: isinstance(m, PredictionMessage) and m.epoch == 2)
        (stream,) = control.call("streams.list")
        health, ledger = stream["health"], stream["ledger"]
        daemon.process.terminate()
        daemon.process.wait(20)
    mic = daemon.predictions("mic")
    assert [p.seq for p in mic] == list(range(len(mic)))
    before, between = ([p for p in mic if p.epoch == e] for e in (0, 1))
    assert {p.sample_rate_hz for p in between} == {8_000}
    # The indices go on at the same time of the stream: the first window begins where the last
    # hop of the old model ended, give or take a block of the file.
    gap_s = first.sample_start / 8_000 - before[-1].sample_end / 16_000
    assert -0.05 < gap_s < 0.2
    assert first.t_start_ns - before[-1].t_end_ns == pytest.approx(gap_s * 1e9, abs=60e6)
    assert 0 <= health["dropped_samples"] < 2 * HOP
    accounted = ledger["heard_samples"] + ledger["waiting_samples"] + health["dropped_samples"]
    assert accounted == pytest.approx(health["captured_samples"], abs=3 * HOP)  # it runs on


def test_what_does_not_work_changes_nothing(launcher: Launcher, models, site, tmp_path) -> None:
    site.write(models["present"], "[events.class.class_3]\nonset_threshold = 0.9\n")
    whole = models["present"].read_bytes()
    damaged = {
        "empty": b"",
        "half-written": whole[: len(whole) // 2],
        "truncated": whole[:-1],
        "corrupt": whole[:8] + bytes(200) + whole[208:],
        "not a number": whole[:-400] + np.full(100, np.nan, "<f4").tobytes(),
        "garbage": np.random.default_rng(0).bytes(9_000),
    }
    for name, content in damaged.items():
        (tmp_path / f"{name}.safetensors").write_bytes(content)
    labels = [f"sound_{index}" for index in range(12)]
    save_seasoned(tmp_path / "other labels.safetensors", labels=labels, unknown_labels=[])
    notified = tmp_path / "notify"
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        launcher.run(str(site.config), environment={"NOTIFY_SOCKET": str(notified)}) as daemon,
        ControlClient(daemon.control) as control,
    ):
        manager.bind(str(notified))
        manager.settimeout(20)
        daemon.listen(is_prediction)
        for name in (*damaged, "other labels", "missing"):
            path = tmp_path / f"{name}.safetensors"
            with pytest.raises(ControlError) as refused:
                reload_model(control, path)
            assert refused.value.code == -32000
            assert (path.name in str(refused.value)) != (name == "other labels"), refused.value
        for more, said in (
            ("inference.hop_ms = 50\n", "use 40 ms or 80 ms"),
            ('publish.encoding = "msgpack"\n', "cannot change publish.encoding"),
            ("events.class.dog.cooldown_s = 1\n", "dog"),
            ("inference.nonsense = 1\n", "nonsense"),
            ('streams.more.source = "file:/no/such.wav"\n', "/no/such.wav"),
        ):
            failed = control.call("status")["reload"]["failed"]
            site.write(models["other"], more)
            os.kill(daemon.process.pid, signal.SIGHUP)
            give_up_s = time.monotonic() + 30
            while (state := control.call("status")["reload"])["failed"] == failed:
                assert time.monotonic() < give_up_s
                time.sleep(0.05)
            assert said in state["error"]
        told = []
        while not any("reload failed" in line for line in told):
            told += manager.recv(4096).decode().splitlines()
        assert "RELOADING=1" in told
        assert "READY=1" in told[told.index("RELOADING=1") :]
        n_heard = len(daemon.predictions("mic"))
        for _ in range(20):
            daemon.listen(is_prediction)
        assert len(daemon.predictions("mic")) > n_heard
        site.write(models["other"])
        os.kill(daemon.process.pid, signal.SIGHUP)
        listen_until_model(daemon, "other")
        assert control.call("status")["reload"]["error"] == ""
    check_no_window_is_missing(daemon.predictions("mic"))


def test_a_reload_during_shutdown_is_given_up(launcher: Launcher, models, site) -> None:
    site.write(models["present"])
    with launcher.run(str(site.config)) as daemon:
        daemon.listen(is_prediction)
        site.write(models["labels"])
        os.kill(daemon.process.pid, signal.SIGHUP)
        daemon.process.terminate()
        assert daemon.process.wait(60) == 0


def test_a_compilation_that_is_left_behind_cannot_abort_the_end(
    model, tmp_path: Path, long_noise: Path
) -> None:
    """XLA's thread, when it comes back while the interpreter ends, aborts the process."""
    program = f"""
import atexit, os, signal, sys, threading, time
from streamcls.config import load_config
from streamcls.daemon import run_daemon
from streamcls.reload import Reloader
atexit.register(os.abort)  # the interpreter's end
Reloader.close = lambda *_: False
def end():
    while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        time.sleep(0.1)
    time.sleep(1)
    signal.raise_signal(signal.SIGTERM)
threading.Thread(target=end).start()
layers = {{
    "model": {str(model)!r}, "streams.mic.source": "file:{long_noise}", "inference.max_streams": 1,
    "publish.endpoint": "ipc://{tmp_path}/pub", "publish.control": "ipc://{tmp_path}/control",
}}
sys.exit(run_daemon(load_config(None, layers, environ={{}})))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "windows with model" in done.stdout + done.stderr
