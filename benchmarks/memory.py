"""Memory over half an hour of audio, played as fast as the daemon can follow.

python -m benchmarks.memory
"""

import argparse
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.machine import describe_machine
from streamcls.bench import resident_bytes
from streamcls.client import HealthMessage, PredictionMessage, Subscriber


def measure(model: str, minutes: float, folder: Path) -> list[tuple[float, float]]:
    """Return (minute of audio, RSS in MB) about ten times over the run."""
    rate_hz = 16_000
    with soundfile.SoundFile(folder / "noise.wav", "w", rate_hz, 1, "PCM_16") as file:
        generator = np.random.default_rng(0)
        for _ in range(round(minutes * 60)):
            file.write(generator.normal(0, 0.05, rate_hz))
    command = [sys.executable, "-m", "streamcls", "run", "--model", model, "--fast"]
    command += ["--source", f"file:{folder}/noise.wav", "--log-level", "error"]
    command += ["--endpoint", f"ipc://{folder}/p", "--control", f"ipc://{folder}/c"]
    command += ["--set", "publish.wait_for_subscriber_s=30"]
    rows: list[tuple[float, float]] = []
    due_min = 0.0
    with (
        Subscriber(f"ipc://{folder}/p") as subscriber,
        subprocess.Popen(command, stderr=subprocess.DEVNULL) as daemon,
    ):
        watch = threading.Timer(600.0, daemon.kill)
        watch.start()
        while True:
            message = subscriber.receive(300.0)
            if isinstance(message, HealthMessage) and message.state in ("ended", "failed"):
                break
            if not isinstance(message, PredictionMessage):
                continue
            minute = message.sample_end / message.sample_rate_hz / 60
            if minute >= due_min:
                rows.append((minute, resident_bytes(daemon.pid) / 1e6))
                due_min += minutes / 10
        watch.cancel()
    return rows


def main() -> None:
    """Print a Markdown page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="commands")
    parser.add_argument("--minutes", type=float, default=30.0)
    arguments = parser.parse_args()
    print("# Memory over time\n\n```\npython -m benchmarks.memory\n```\n")
    print(f"{describe_machine('jax')}; model {arguments.model}, one stream\n")
    print("The journal of sent messages fills up to its limits (2000 predictions) in the first")
    print("minutes; nothing else may grow.\n")
    print("| minute of audio | RSS MB |")
    print("|---:|---:|")
    with tempfile.TemporaryDirectory(prefix="streamcls-memory-") as folder:
        for minute, rss_mb in measure(arguments.model, arguments.minutes, Path(folder)):
            print(f"| {minute:.1f} | {rss_mb:.1f} |", flush=True)


if __name__ == "__main__":
    main()
