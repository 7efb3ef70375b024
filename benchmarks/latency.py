"""Latency of a prediction: the last sample of its window in -> the message at a subscriber.

Runs the real daemon on paced sources (a recording played in real time, or a device) and measures at
a subscriber in another process: ``received - t_end_ns`` by the same machine's clock.

    python -m benchmarks.latency --streams 1 4 16 --model commands
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.machine import describe_machine
from streamcls.client import Subscriber
from streamcls.publish.schema import HealthMessage, PredictionMessage
from streamcls.units import NS_PER_S


def measure(model: str, n_streams: int, duration_s: float, hop_ms: float) -> dict[str, float]:
    """Run a daemon with ``n_streams`` paced streams; return latencies in ms and losses."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        audio = np.random.default_rng(0).normal(0, 0.05, int(16_000 * duration_s))
        soundfile.write(folder / "noise.wav", audio, 16_000, subtype="PCM_16")
        lines = [f'model = "{model}"', "[inference]", f"hop_ms = {hop_ms}"]
        lines += [f"max_streams = {n_streams}", "[publish]", "wait_for_subscriber_s = 30"]
        lines += [f'endpoint = "ipc://{folder}/p"', f'control = "ipc://{folder}/c"']
        for index in range(n_streams):
            lines += [f"[streams.s{index}]", f'source = "file:{folder}/noise.wav"']
        (folder / "bench.toml").write_text("\n".join(lines))
        command = [sys.executable, "-m", "streamcls", "run", str(folder / "bench.toml")]
        command += ["--summary-json", str(folder / "summary.json")]
        with (
            Subscriber(f"ipc://{folder}/p") as subscriber,
            subprocess.Popen(command, stderr=subprocess.DEVNULL) as daemon,
        ):
            latencies_ms, ended = [], 0
            while ended < n_streams:
                message = subscriber.receive(120.0)
                now_ns = time.time_ns()
                # A padded window has no last sample that came in just now.
                if isinstance(message, PredictionMessage) and "padded" not in message.flags:
                    latencies_ms.append((now_ns - message.t_end_ns) / NS_PER_S * 1000)
                elif isinstance(message, HealthMessage):
                    ended += message.state in ("ended", "failed")
            daemon.wait(30)
        summary = json.loads((folder / "summary.json").read_text())
    dropped = sum(stream["dropped_samples"] for stream in summary["streams"].values())
    p50, p99, longest = np.percentile(latencies_ms, [50, 99, 100])
    return {
        "predictions": len(latencies_ms),
        "p50": p50,
        "p99": p99,
        "max": longest,
        "dropped_samples": dropped,
    }


def main() -> None:
    """Print one Markdown row per number of streams."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--model", default="commands")
    parser.add_argument("--hop-ms", type=float, default=80.0)
    parser.add_argument("--duration-s", type=float, default=20.0)
    arguments = parser.parse_args()
    print(f"{describe_machine('jax', 'pyzmq')}; ", end="")
    print(f"model {arguments.model}, hop {arguments.hop_ms:g} ms\n")
    print("| streams | predictions | p50 ms | p99 ms | max ms | samples dropped |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for n_streams in arguments.streams:
        row = measure(arguments.model, n_streams, arguments.duration_s, arguments.hop_ms)
        print(
            f"| {n_streams} | {row['predictions']} | {row['p50']:.1f} | {row['p99']:.1f} | "
            f"{row['max']:.1f} | {row['dropped_samples']} |"
        )


if __name__ == "__main__":
    main()
