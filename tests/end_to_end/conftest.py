"""The real daemon as a process, with one compilation cache for all tests."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from streamcls.client import Subscriber
from streamcls.inbox import Gap
from streamcls.publish.schema import HealthMessage, Message, PredictionMessage
from tests.audio_server import audio_server, playing_server
from tests.models.checkpoints import save_seasoned

__all__ = ["audio_server", "playing_server"]

TIMEOUT_S = 120.0


class Daemon:
    """A running `streamcls run` and a subscriber that was there before it."""

    def __init__(self, process: subprocess.Popen[bytes], subscriber: Subscriber, control: str):
        self.process = process
        self.subscriber = subscriber
        self.control = control
        self.messages: list[Message | Gap] = []

    def listen(self, until) -> Message:
        """Take messages until one satisfies ``until``; return that one."""
        give_up_s = time.monotonic() + TIMEOUT_S
        while True:
            try:
                message = self.subscriber.receive(0.5)
            except TimeoutError:
                status = self.process.poll()
                assert status is None, f"the daemon ended with status {status}"
                assert time.monotonic() < give_up_s, "the daemon fell silent"
                continue
            give_up_s = time.monotonic() + TIMEOUT_S
            self.messages.append(message)
            if not isinstance(message, Gap) and until(message):
                return message

    def listen_to_the_end(self, n_streams: int = 1) -> None:
        """Take messages until so many streams have ended, then wait for the exit."""
        ended: set[str] = set()

        def all_ended(message: Message) -> bool:
            if isinstance(message, HealthMessage) and message.state in ("ended", "failed"):
                ended.add(message.stream)
            return len(ended) == n_streams

        self.listen(all_ended)
        self.listen_to_the_exit()

    def listen_to_the_exit(self, limit_s: float = TIMEOUT_S) -> None:
        """Take messages until the process is gone and its last word has arrived."""
        give_up_s = time.monotonic() + limit_s
        while self.process.poll() is None or self.subscriber.silence_s < 0.5:
            assert time.monotonic() < give_up_s, f"the daemon did not end within {limit_s} s"
            try:
                self.messages.append(self.subscriber.receive(0.2))
            except TimeoutError:
                continue

    def take_waiting(self) -> None:
        """Take what has arrived; what an unread queue cannot hold would be lost."""
        while True:
            try:
                self.messages.append(self.subscriber.receive(0))
            except TimeoutError:
                return

    def predictions(self, stream: str) -> list[PredictionMessage]:
        return [m for m in self.messages if isinstance(m, PredictionMessage) and m.stream == stream]


class Launcher:
    """Starts daemons on ipc endpoints in ``folder``."""

    def __init__(self, folder: Path, cache: Path):
        self.folder = folder
        self.environment = os.environ | {"XDG_CACHE_HOME": str(cache)}

    @contextmanager
    def run(self, *arguments: str, environment=None, stdin=None, stderr=None) -> Iterator[Daemon]:
        endpoint, control = f"ipc://{self.folder}/pub", f"ipc://{self.folder}/ctl"
        command = [sys.executable, "-m", "streamcls", "run", *arguments]
        command += ["--endpoint", endpoint, "--control", control]
        # On a busy machine a fast file could be over before the subscriber has connected.
        command += ["--set", "publish.wait_for_subscriber_s=60"]
        types = ("prediction", "health", "event")
        with (
            Subscriber(endpoint, types=types) as subscriber,
            subprocess.Popen(
                command, env=self.environment | (environment or {}), stdin=stdin, stderr=stderr
            ) as process,
        ):
            try:
                yield Daemon(process, subscriber, control)
            finally:
                process.kill()

    def refuse(self, *arguments: str) -> str:
        """Run the daemon, check that it refuses as it should, and return what it said."""
        command = [sys.executable, "-m", "streamcls", "run", *arguments]
        command += ["--endpoint", f"ipc://{self.folder}/pub"]
        command += ["--control", f"ipc://{self.folder}/ctl"]
        result = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=TIMEOUT_S
        )
        assert result.returncode == 2, result
        assert result.stdout == ""
        assert "Traceback" not in result.stderr
        assert "windows with model" not in result.stderr  # nothing ran
        assert result.stderr.count("error: ") == 1
        return result.stderr


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("xla-cache")


@pytest.fixture
def launcher(tmp_path: Path, cache: Path) -> Launcher:
    return Launcher(tmp_path, cache)


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> str:
    """An untrained, quickly compiled model; what it hears does not matter in most tests."""
    return str(save_seasoned(tmp_path_factory.mktemp("model") / "quick.safetensors"))
