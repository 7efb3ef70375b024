"""A daemon that is measured: its process, the listener that hears it, and the way to control it."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamcls.bench.listener import Listener
from streamcls.client import ControlClient
from streamcls.errors import StreamclsError

_CONTROL_TIMEOUT_S = 30.0
_READY_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class MeasuredDaemon:
    """A running daemon that plays a recording as several streams.

    Attributes:
        pid: Of its process.
        endpoint: Where it publishes.
        listener: Hears all that it predicts.
    """

    pid: int
    endpoint: str
    listener: Listener
    _control: ControlClient
    _source: str

    def play(self, stream: str) -> None:
        """Add a stream."""
        request = {"stream": stream, "source": self._source}
        self._control.call("streams.add", request, _CONTROL_TIMEOUT_S)

    def count_dropped(self) -> int:
        """Return how many samples it had to drop since its start."""
        status: dict[str, Any] = self._control.call("status", timeout_s=_CONTROL_TIMEOUT_S)
        return sum(one["dropped_samples"] for one in status["summary"]["streams"].values())


@contextlib.contextmanager
def run_daemon(
    folder: Path, model: str, settings: Sequence[str], recording: Path, stream: str
) -> Iterator[MeasuredDaemon]:
    """Run a daemon with one stream that predicts already; end it afterwards.

    Args:
        folder: Empty; for its sockets and its log.
        model: Shipped name or path.
        settings: More ``KEY=VALUE`` of its configuration.
        recording: What its streams play.
        stream: Name of the first.

    Raises:
        StreamclsError: It did not start; with the last it said.
    """
    source, log = f"file:{recording}", folder / "log"
    endpoint, control_endpoint = f"ipc://{folder}/publish", f"ipc://{folder}/control"
    command = [sys.executable, "-m", "streamcls", "run", "--model", model]
    command += ["--endpoint", endpoint, "--control", control_endpoint]
    own = ["log.level=error", "publish.wait_for_subscriber_s=10"]
    for setting in (*own, *settings, f"streams.{stream}.source={source}"):
        command += ["--set", setting]
    with (
        Listener(endpoint) as listener,
        log.open("wb") as errors,
        subprocess.Popen(command, stderr=errors) as process,
        contextlib.ExitStack() as cleanup,
    ):
        cleanup.callback(_end, process)
        _wait_for_first(listener, process, log)
        control = cleanup.enter_context(ControlClient(control_endpoint))
        yield MeasuredDaemon(process.pid, endpoint, listener, control, source)


def _wait_for_first(listener: Listener, process: subprocess.Popen[bytes], log: Path) -> None:
    give_up_s = time.monotonic() + _READY_TIMEOUT_S
    while not listener.heard.wait(0.1):
        if process.poll() is not None:
            said = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise StreamclsError(
                "".join(said).removeprefix("streamcls: error: ")
                or f"the daemon ended with status {process.returncode} and said nothing"
            )
        if time.monotonic() > give_up_s:
            raise StreamclsError(f"no prediction came within {_READY_TIMEOUT_S:g} s")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
