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
from streamcls.bench.daemon import MeasuredDaemon, run_daemon
from streamcls.bench.levels import SETTLE_S, write_recording
from streamcls.bench.listener import Listener

_DAEMONS = 2
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


def measure(
    daemons: list[MeasuredDaemon], relayed: Listener, relay_pid: int, duration_s: float
) -> str:
    """Return the cells of a row after the number of streams."""
    listeners = [one.listener for one in daemons]
    for listener in (*listeners, relayed):
        listener.take()
    began_s, cpu_s = time.monotonic(), cpu_time_s(relay_pid)
    time.sleep(duration_s)
    heard, (late_ms, missed) = [one.take() for one in listeners], relayed.take()
    elapsed_s, cpu_s = time.monotonic() - began_s, cpu_time_s(relay_pid) - cpu_s
    direct_ms = [one_ms for latencies_ms, _ in heard for one_ms in latencies_ms]
    cells = [f"{len(late_ms) / elapsed_s:,.0f}", f"{sum(lost for _, lost in heard)}", f"{missed}"]
    for latencies_ms in (direct_ms, late_ms):
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
    with (
        tempfile.TemporaryDirectory(prefix="streamcls-relay-") as name,
        contextlib.ExitStack() as stack,
    ):
        folder = Path(name)
        write_recording(folder / "bench.wav", 120.0)
        settings = [f"inference.max_streams={arguments.streams[-1]}"]
        daemons = []
        for number in range(_DAEMONS):
            home = folder / str(number)
            home.mkdir()
            running = run_daemon(home, "commands", settings, folder / "bench.wav", f"s{number}")
            daemons.append(stack.enter_context(running))
        front = f"ipc://{folder}/front"
        backs = [f"ipc://{folder}/{number}/publish" for number in range(_DAEMONS)]
        relay_pid = stack.enter_context(_run_relay(front, backs))
        relayed = stack.enter_context(Listener(front))
        streams = _DAEMONS
        for level in arguments.streams:
            for index in range(streams, level):
                daemons[index % _DAEMONS].play(f"s{index}")
            streams = level
            time.sleep(SETTLE_S)
            print(
                f"| {level} | {measure(daemons, relayed, relay_pid, arguments.level_s)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
