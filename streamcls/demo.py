"""`streamcls demo`: a real daemon on a bundled recording, and a subscriber that prints it.

The daemon is a process of its own, started as a service would be; this process knows nothing but
its ZeroMQ endpoint, like any other subscriber.
"""

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from streamcls.client import Subscriber
from streamcls.errors import StreamclsError
from streamcls.inbox import Gap
from streamcls.latency import LatencyHistogram
from streamcls.publish.schema import EventMessage, PredictionMessage
from streamcls.textline import format_message, format_prediction
from streamcls.units import NS_PER_S, samples_to_ns

MODEL = "commands"
STREAM = "demo"
HOP_MS = 160
_RECORDINGS = Path(__file__).parent / "recordings"
_POLL_S = 0.5
_MARK = " " * 14 + "▶"
_TOLERANCE_S = 0.5
"""An onset may lie so far outside the word: the score of a window belongs to its middle."""


def run_demo() -> int:
    """Play the recording through a daemon, print what is received, compare with what was said.

    Returns:
        Exit status: 0 when predictions arrived and nothing was lost, 1 otherwise.
    """
    console = Console(highlight=False, soft_wrap=True)
    transcript = json.loads((_RECORDINGS / "demo.json").read_text())
    with tempfile.TemporaryDirectory(prefix="streamcls-demo-") as folder:
        endpoint = f"ipc://{folder}/predictions"
        summary_path = Path(folder) / "summary.json"
        console.print(
            f"A daemon plays {len(transcript['words'])} spoken words in noise "
            f"({transcript['snr_db']:g} dB SNR) through the model {MODEL!r}.\n"
            f"This process hears of it at [bold]{endpoint}[/] and nowhere else.\n"
        )
        # Connected before the daemon binds: ZeroMQ keeps trying, so not one message is missed.
        with Subscriber(endpoint) as subscriber, _start_daemon(folder, summary_path) as daemon:
            heard = _print_messages(console, subscriber, daemon)
            status = daemon.wait()
        if status != 0 or not summary_path.exists():
            raise StreamclsError(f"the demo's daemon ended with status {status}; see above")
        summary = json.loads(summary_path.read_text())
    return _print_verdict(console, transcript["words"], heard, summary)


@contextlib.contextmanager
def _start_daemon(folder: str, summary_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "streamcls", "run"]
    command += ["--model", MODEL, "--hop-ms", str(HOP_MS)]
    command += ["--set", f"streams.{STREAM}.source=file:{_RECORDINGS / 'demo.flac'}"]
    command += ["--endpoint", f"ipc://{folder}/predictions", "--control", f"ipc://{folder}/control"]
    command += ["--set", "publish.wait_for_subscriber_s=10"]
    # The model's own thresholds are for rooms where people talk all day.
    command += ["--set", "events.onset_threshold=0.6"]
    command += ["--set", "inference.max_streams=1", "--set", "log.level=warning"]
    command += ["--summary-json", str(summary_path)]
    process = subprocess.Popen(command)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        if process.poll() is None:
            process.kill()
            process.wait()


@dataclass
class _Heard:
    """What the subscriber received."""

    began_ns: int | None = None
    """UTC of the recording's first sample."""
    words: list[tuple[float, str]] = field(default_factory=list)
    """Onset of each event, in seconds of the recording, and its label."""
    predictions: int = 0
    gaps: int = 0
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)


def _print_messages(
    console: Console, subscriber: Subscriber, daemon: subprocess.Popen[bytes]
) -> _Heard:
    """Print what arrives until the daemon has ended and nothing more comes."""
    heard = _Heard()
    while True:
        try:
            message = subscriber.receive(_POLL_S)
        except TimeoutError:
            if daemon.poll() is not None:
                return heard
            continue
        received_ns = time.time_ns()
        match message:
            case PredictionMessage():
                heard.predictions += 1
                heard.latency.add((received_ns - message.t_end_ns) / NS_PER_S)
                if heard.began_ns is None:
                    heard.began_ns = message.t_end_ns - samples_to_ns(
                        message.sample_end, message.sample_rate_hz
                    )
                console.print(format_prediction(message, received_ns), markup=False)
            case EventMessage(state="onset"):
                began_ns = heard.began_ns or message.onset_ns
                heard.words.append(((message.onset_ns - began_ns) / NS_PER_S, message.label))
                console.print(f"{_MARK} {message.label}", style="bold green", markup=False)
            case EventMessage():
                pass
            case _:
                heard.gaps += isinstance(message, Gap)
                console.print(format_message(message, received_ns), style="dim", markup=False)


def _print_verdict(
    console: Console, words: list[dict[str, Any]], heard: _Heard, summary: dict[str, Any]
) -> int:
    """Hold what was heard against what was said, and what was received against what was sent."""
    console.print("\nsaid   " + "  ".join(word["word"] for word in words))
    found = [_find_word(word, heard.words) for word in words]
    console.print("heard  " + "  ".join(found))
    right = sum(word["word"] == label for word, label in zip(words, found, strict=True))
    console.print(f"       {right} of {len(words)} words right\n")
    p50_ms, p99_ms = (heard.latency.percentile(percent) * 1000 for percent in (50, 99))
    console.print(
        f"received {heard.predictions} of {summary['windows']} predictions, {heard.gaps} gaps; "
        f"last sample in to message received: p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms"
    )
    complete = heard.predictions == summary["windows"] > 0 and heard.gaps == 0
    return 0 if complete else 1


def _find_word(word: dict[str, Any], heard: list[tuple[float, str]]) -> str:
    """Return what was heard while ``word`` was said."""
    for onset_s, label in heard:
        if word["start_s"] - _TOLERANCE_S < onset_s < word["end_s"] + _TOLERANCE_S:
            return label
    return "-" * len(word["word"])
