"""What the daemon tells the service manager, and when it stops telling that it is well."""

import contextlib
import dataclasses
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from streamcls.config import load_config
from streamcls.daemon import _WATCH_PERIOD_S, Daemon
from streamcls.inputs import find_inputs
from streamcls.notify import Notifier
from streamcls.registrar import Registrar
from tests.models.checkpoints import save_seasoned

WATCHDOG_S = 0.4
TIMEOUT_S = 30.0


class Watched:
    """A daemon in a thread of this process, on a minute of noise, and what its manager hears."""

    def __init__(self, folder: Path, model: Path):
        samples = np.random.default_rng(0).normal(0, 0.1, 60 * 16_000)
        soundfile.write(folder / "noise.wav", samples, 16_000)
        overrides = {
            "model": str(model),
            "streams.a.source": f"file:{folder}/noise.wav",
            "inference.max_streams": 1,
            "publish.endpoint": f"ipc://{folder}/pub",
            "publish.control": f"ipc://{folder}/ctl",
        }
        config = load_config(None, overrides, environ={})
        self.daemon = Daemon(config, find_inputs(config))
        self.failure: BaseException | None = None
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._manager.bind(str(folder / "notify"))
        environ = {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_PID": str(os.getpid())}
        self.notifier = Notifier(environ | {"WATCHDOG_USEC": f"{WATCHDOG_S * 1e6:.0f}"})
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.daemon.start(self.notifier)
            self.daemon.serve(self.notifier)
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.failure = error

    def hear(self, timeout_s: float = TIMEOUT_S) -> str | None:
        """Return the next message; None when none comes in time."""
        self._manager.settimeout(timeout_s)
        try:
            return self._manager.recv(4096).decode()
        except TimeoutError:
            return None

    def hear_until(self, prefix: str) -> list[str]:
        """Return the messages up to the first that begins so."""
        heard: list[str] = []
        while not heard or not heard[-1].startswith(prefix):
            message = self.hear()
            assert message is not None, heard
            heard.append(message)
        return heard

    def close(self) -> None:
        self.daemon.stop()
        self.thread.join(TIMEOUT_S)
        self.daemon.shutdown()
        self.notifier.close()
        self._manager.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_seasoned(tmp_path_factory.mktemp("model") / "quick.safetensors")


@pytest.fixture
def watched(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    # The cache is a setting of the whole process, and of the tests that follow.
    monkeypatch.setattr("streamcls.daemon.enable_compilation_cache", lambda: None)
    watched = Watched(tmp_path, model)
    with contextlib.closing(watched):
        yield watched


def test_ready_comes_after_compiling_and_the_first_audio(watched: Watched):
    watched.thread.start()
    first, *_, ready = watched.hear_until("READY=1")
    assert first.startswith("EXTEND_TIMEOUT_USEC=")
    assert "STATUS=compiling model" in first
    assert "1/1 streams live" in ready


def test_a_stuck_engine_starves_the_watchdog_though_the_main_thread_lives(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
):
    watched.thread.start()
    watched.hear_until("WATCHDOG=1")
    engine = watched.daemon._engine
    assert engine is not None
    stuck, released = threading.Event(), threading.Event()
    step = engine._step

    def hang(*arguments: object) -> object:
        stuck.set()
        released.wait(TIMEOUT_S)
        return step(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "_step", hang)
    assert stuck.wait(TIMEOUT_S)
    told: list[str | None] = []
    while not told or told[-1] is not None:  # what was done before it hung may still be told
        assert len(told) < 4, told
        told.append(watched.hear(2 * WATCHDOG_S))
    released.set()
    watched.hear_until("WATCHDOG=1")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_daemon_that_nobody_can_hear_any_more_ends(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
):
    def die(*_: object) -> None:
        raise ValueError("as a bug would")

    monkeypatch.setattr(watched.daemon._publisher, "_serve", die)
    watched.thread.start()
    watched.thread.join(TIMEOUT_S)
    assert isinstance(watched.failure, RuntimeError)
    assert "ipc://" in str(watched.failure)


def test_a_reload_that_replaces_the_only_stream_does_not_end_the_daemon(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
):
    watched.thread.start()
    watched.hear_until("READY=1")
    stop = Registrar._stop_feeder

    def stop_slowly(*arguments: Any) -> None:
        time.sleep(0.5)  # as a device does, while the main thread looks twice
        stop(*arguments)

    monkeypatch.setattr(Registrar, "_stop_feeder", stop_slowly)
    reloader = watched.daemon._reloader
    table = dataclasses.replace(reloader.config.streams["a"], channel="mix")
    reloader.reload(lambda: dataclasses.replace(reloader.config, streams={"a": table}))
    watched.hear_until("WATCHDOG=1")
    assert watched.thread.is_alive()


def test_a_daemon_whose_last_stream_was_removed_waits_for_another(watched: Watched):
    watched.thread.start()
    watched.hear_until("READY=1")
    registrar = watched.daemon._registrar
    registrar.remove("a")
    watched.thread.join(3 * _WATCH_PERIOD_S)
    assert watched.thread.is_alive()
    watched.hear_until("WATCHDOG=1")
    registrar.build("b", watched.daemon._reloader.config.streams["a"])
    assert registrar.names() == ["b"]
