"""`streamcls bench`: how many streams this machine carries, measured on the real daemon.

The daemon is a process of its own that plays a recording in real time as many streams; streams are
added while it runs, level by level. This process is its only subscriber: it takes every prediction,
checks that none is missing, and compares the time it came with the time its last sample was due.
So a figure contains capture, features, network, events, encoding and ZeroMQ, on both sides.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from streamcls.client import ControlClient, Gap, PredictionMessage, Subscriber
from streamcls.errors import StreamclsError
from streamcls.units import NS_PER_S

LEVELS = (1, 16, 64, 128, 256, 384, 512, 640, 768, 1000)
SETTLE_S = 1.5
"""After streams were added: more than a window, so that all of them predict."""
PLAY_S = 240.0
_RECORDING = Path(__file__).parent / "recordings" / "demo.flac"
_READY_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Level:
    """What was measured with a number of streams.

    Attributes:
        streams: Live at the same time.
        hop_ms: New audio per prediction.
        predictions_per_s: Received by the subscriber.
        cores: CPU time of the daemon per second.
        p50_ms: Median latency, last sample of a window in -> message in the subscriber's hands.
        p99_ms: 99th percentile.
        max_ms: Longest.
        dropped_samples: Audio the daemon had to drop.
        missed: Predictions the subscriber did not get.
        rss_mb: Memory of the daemon.
    """

    streams: int
    hop_ms: float
    predictions_per_s: float
    cores: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    dropped_samples: int
    missed: int
    rss_mb: float

    @property
    def trouble(self) -> str:
        """What was wrong; empty when nothing was lost and predictions came in time."""
        if self.dropped_samples:
            return f"{self.dropped_samples} samples dropped"
        if self.missed:
            return f"{self.missed} predictions missed"
        due_per_s = self.streams * 1000 / self.hop_ms
        if self.predictions_per_s < 0.9 * due_per_s:
            return f"{due_per_s:,.0f} predictions/s were due"
        if self.p50_ms > self.hop_ms:
            return "half of the predictions are later than a hop"
        return ""

    @property
    def good(self) -> bool:
        """There was no trouble."""
        return not self.trouble


def measure_levels(
    model: str,
    hop_ms: float,
    levels: Sequence[int] = LEVELS,
    level_s: float = 3.0,
    settings: Sequence[str] = (),
) -> Iterator[Level]:
    """Yield one measurement per number of streams, up to the first that is not `Level.good`.

    Args:
        model: Shipped name or path.
        hop_ms: New audio per prediction.
        levels: Numbers of streams, ascending.
        level_s: How long to measure each.
        settings: More ``KEY=VALUE`` of the daemon's configuration.

    Raises:
        StreamclsError: The daemon did not start; with the last it said.
    """
    with tempfile.TemporaryDirectory(prefix="streamcls-bench-") as name:
        folder = Path(name)
        longest_s = len(levels) * (level_s + SETTLE_S + 15.0)
        _write_recording(folder / "bench.wav", min(PLAY_S, longest_s))
        keys = [f"inference.max_streams={levels[-1]}", f"inference.hop_ms={hop_ms}", *settings]
        keys.append(f"streams.s0.source=file:{folder}/bench.wav")
        with (
            Listener(f"ipc://{folder}/publish") as listener,
            _run_daemon(folder, model, keys) as daemon,
            ControlClient(f"ipc://{folder}/control") as control,
        ):
            listener.wait_for_first(daemon, folder / "log")
            streams = 1
            for level in levels:
                for index in range(streams, level):
                    source = f"file:{folder}/bench.wav"
                    control.call("streams.add", {"stream": f"s{index}", "source": source}, 30.0)
                streams = max(streams, level)
                time.sleep(SETTLE_S)
                measured = _measure(level, hop_ms, level_s, listener, control, daemon.pid)
                yield measured
                if not measured.good:
                    return


def _measure(
    streams: int,
    hop_ms: float,
    duration_s: float,
    listener: "Listener",
    control: ControlClient,
    pid: int,
) -> Level:
    dropped, cpu_s, began_s = _count_dropped(control), cpu_time_s(pid), time.monotonic()
    listener.take()
    time.sleep(duration_s)
    latencies_ms, missed = listener.take()
    elapsed_s, cpu_s = time.monotonic() - began_s, cpu_time_s(pid) - cpu_s
    p50_ms, p99_ms, max_ms = np.percentile(latencies_ms or [np.inf], [50, 99, 100]).tolist()
    return Level(
        streams=streams,
        hop_ms=hop_ms,
        predictions_per_s=len(latencies_ms) / elapsed_s,
        cores=cpu_s / elapsed_s,
        p50_ms=p50_ms,
        p99_ms=p99_ms,
        max_ms=max_ms,
        dropped_samples=_count_dropped(control) - dropped,
        missed=missed,
        rss_mb=_rss_mb(pid),
    )


class Listener:
    """Subscribes on a thread of its own, and keeps how late each prediction came.

    Args:
        endpoint: Where the daemon will publish.
    """

    def __init__(self, endpoint: str):
        self._endpoint = endpoint
        self._stopping = threading.Event()
        self._first = threading.Event()
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)
        self._lock = threading.Lock()
        self._latencies_ms: list[float] = []
        self._missed = 0

    def __enter__(self) -> "Listener":
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        self._thread.join(5.0)

    def wait_for_first(self, daemon: subprocess.Popen[bytes], log: Path) -> None:
        """Wait for the first prediction.

        Raises:
            StreamclsError: The daemon ended, or nothing came.
        """
        give_up_s = time.monotonic() + _READY_TIMEOUT_S
        while not self._first.wait(0.1):
            if daemon.poll() is not None:
                said = log.read_text(errors="replace").strip().splitlines()[-1:]
                raise StreamclsError(
                    "".join(said).removeprefix("streamcls: error: ")
                    or f"the daemon ended with status {daemon.returncode} and said nothing"
                )
            if time.monotonic() > give_up_s:
                raise StreamclsError(f"no prediction came within {_READY_TIMEOUT_S:g} s")

    def take(self) -> tuple[list[float], int]:
        """Return the latencies of what came since the last call, and how many did not come."""
        with self._lock:
            taken = self._latencies_ms, self._missed
            self._latencies_ms, self._missed = [], 0
        return taken

    def _run(self) -> None:
        with Subscriber(self._endpoint, types=["prediction"]) as subscriber:
            while not self._stopping.is_set():
                try:
                    message = subscriber.receive(0.2)
                except TimeoutError:
                    continue
                now_ns = time.time_ns()
                with self._lock:
                    if isinstance(message, Gap):
                        self._missed += message.missing
                    elif isinstance(message, PredictionMessage):
                        self._latencies_ms.append((now_ns - message.t_end_ns) / NS_PER_S * 1000)
                self._first.set()


def _write_recording(path: Path, duration_s: float) -> None:
    """Write the bundled recording, again and again."""
    audio, rate_hz = soundfile.read(_RECORDING, dtype="int16")
    with soundfile.SoundFile(path, "w", rate_hz, 1, "PCM_16") as file:
        for _ in range(-(-round(duration_s * rate_hz) // len(audio))):
            file.write(audio)


@contextlib.contextmanager
def _run_daemon(
    folder: Path, model: str, settings: Sequence[str]
) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "streamcls", "run", "--model", model]
    command += ["--endpoint", f"ipc://{folder}/publish", "--control", f"ipc://{folder}/control"]
    for setting in ("log.level=error", "publish.wait_for_subscriber_s=10", *settings):
        command += ["--set", setting]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _count_dropped(control: ControlClient) -> int:
    summary: dict[str, Any] = control.call("status", timeout_s=30.0)["summary"]
    return sum(one["dropped_samples"] for one in summary["streams"].values())


def cpu_time_s(pid: int) -> float:
    """Return user and system time of a process so far (Linux; NaN elsewhere)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_mb(pid: int) -> float:
    """Return the resident memory of a process (Linux; NaN elsewhere)."""
    try:
        return resident_bytes(pid) / 1e6
    except OSError:
        return float("nan")


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process.

    Raises:
        OSError: There is no such process, or no /proc.
    """
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
