"""Start: exec -> READY=1 and -> first prediction at a subscriber, cold and warm; memory after it.

Cold has an empty compilation cache, warm that of the start before. The first prediction needs a
window of audio, which plays in real time; its length is in the last column. The bytecode of the
libraries is what is there: pip, `make setup` and `deploy/install.sh` write it, plain uv does not.

    python -m benchmarks.start
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.machine import describe_machine
from streamcls.bench import resident_bytes
from streamcls.client import PredictionMessage, Subscriber
from streamcls.doctor.host import find_missing_bytecode


def measure(model: str, folder: Path, cache: Path) -> tuple[float, float, float, float]:
    """Return seconds to READY=1 and to the first prediction, RSS in MB, seconds of a window."""
    ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    ready.bind(str(folder / "notify"))
    ready.settimeout(300.0)
    command = [sys.executable, "-m", "streamcls", "run", "--model", model]
    command += ["--source", f"file:{folder}/noise.wav", "--log-level", "error"]
    command += ["--endpoint", f"ipc://{folder}/p", "--control", f"ipc://{folder}/c"]
    environment = {**os.environ, "NOTIFY_SOCKET": str(folder / "notify")}
    environment |= {"XDG_CACHE_HOME": str(cache)}
    with Subscriber(f"ipc://{folder}/p", types=["prediction"]) as subscriber:
        began_s = time.monotonic()
        with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as daemon:
            while b"READY=1" not in ready.recv(4096):
                pass
            ready_s = time.monotonic() - began_s
            first = subscriber.receive(300.0)
            first_s = time.monotonic() - began_s
            assert isinstance(first, PredictionMessage)
            window_s = (first.sample_end - first.sample_start) / first.sample_rate_hz
            rss_mb = resident_bytes(daemon.pid) / 1e6
            daemon.send_signal(signal.SIGTERM)
    ready.close()
    (folder / "notify").unlink()
    return ready_s, first_s, rss_mb, window_s


def main() -> None:
    """Print a Markdown row for a cold start and some warm ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="commands")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print("# Start: time and memory\n\n```\npython -m benchmarks.start\n```\n")
    print(f"{describe_machine('jax', 'flax')}; model {arguments.model}, 8 slots\n")
    print("From the exec of the daemon, real-time source. Cold has an empty compilation cache. The")
    print("first prediction needs a window of audio, which takes its time to be played.")
    missing = find_missing_bytecode() is not None
    print(f"Bytecode of JAX: {'missing, compiled by every start' if missing else 'there'}.\n")
    print("| cache | READY s | first prediction s | RSS MB | window s |")
    print("|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory(prefix="streamcls-start-") as name:
        folder = Path(name)
        audio = np.random.default_rng(0).normal(0, 0.05, 60 * 16_000)
        soundfile.write(folder / "noise.wav", audio, 16_000, subtype="PCM_16")
        for index in range(1 + arguments.repeats):
            row = measure(arguments.model, folder, folder / "cache")
            cells = " | ".join(f"{value:.2f}" for value in row[:2])
            cache = "warm" if index else "cold"
            print(f"| {cache} | {cells} | {row[2]:.0f} | {row[3]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
