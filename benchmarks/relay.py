"""What `streamcls relay` adds: two daemons, heard directly and through a relay at the same time.

    python -m benchmarks.relay

Latency is from the last sample of a window to the prediction in a subscriber's hands.
"""

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.machine import describe_machine
from streamcls.bench import cpu_time_s
from streamcls.bench.fleet import Fleet, run_fleet
from streamcls.bench.listener import Listener

_DAEMONS = 2
_PLAY_S = 120.0
_HEADER = """\
| streams | messages/s | missed directly | by relay | p50, p99 ms directly | by relay | its cores |
|---:|---:|---:|---:|---:|---:|---:|"""


@contextlib.contextmanager
def _run_relay(front: str, backs: list[str]) -> Iterator[int]:
    """Run a relay; give its process."""
    command = [sys.executable, "-m", "streamcls", "relay", "--log-level", "error"]
    command += ["--front", front, *(word for back in backs for word in ("--back", back))]
    with subprocess.Popen(command) as process:
        try:
            yield process.pid
        finally:
            process.terminate()


def measure(fleet: Fleet, relayed: Listener, relay_pid: int, duration_s: float) -> str:
    """Return the cells of a row after the number of streams."""
    fleet.take()
    relayed.take()
    began_s, cpu_s = time.monotonic(), cpu_time_s(relay_pid)
    time.sleep(duration_s)
    (direct_ms, missed), (relayed_ms, missed_by_relay) = fleet.take(), relayed.take()
    elapsed_s, cpu_s = time.monotonic() - began_s, cpu_time_s(relay_pid) - cpu_s
    cells = [f"{len(relayed_ms) / elapsed_s:,.0f}", str(missed), str(missed_by_relay)]
    for latencies_ms in (direct_ms, relayed_ms):
        p50_ms, p99_ms = np.percentile(latencies_ms, [50, 99])
        cells.append(f"{p50_ms:.1f}, {p99_ms:.1f}")
    return " | ".join([*cells, f"{cpu_s / elapsed_s:.2f}"])


def main() -> None:
    """Print a Markdown row per number of streams."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=[16, 128, 256, 512])
    parser.add_argument("--level-s", type=float, default=5.0)
    arguments = parser.parse_args()
    print("# Relay: what it adds\n\n```\npython -m benchmarks.relay\n```\n")
    print(f"{describe_machine('pyzmq')}; model commands, hop 80 ms, {_DAEMONS} daemons\n")
    print(_HEADER)
    most = max(arguments.streams)
    with tempfile.TemporaryDirectory(prefix="streamcls-relay-") as name:
        front = f"ipc://{name}/front"
        with (
            run_fleet(Path(name), "commands", (), _PLAY_S, _DAEMONS, most) as fleet,
            _run_relay(front, [one.endpoint for one in fleet.daemons]) as relay_pid,
            Listener(front) as relayed,
        ):
            for streams in arguments.streams:
                fleet.grow(streams)
                row = measure(fleet, relayed, relay_pid, arguments.level_s)
                print(f"| {streams} | {row} |", flush=True)


if __name__ == "__main__":
    main()
