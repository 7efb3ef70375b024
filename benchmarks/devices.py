"""What a process for each sound device costs: start, latency, CPU time, memory.

``python -m benchmarks.devices`` records the monitor of a private PulseAudio server for some
seconds, once with PortAudio in a process of its own, as the daemon does, and once in this process,
each idle and while Python code runs here that does not give the interpreter's lock away.
"""

import os
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from streamcls.bench import cpu_time_s
from streamcls.capture.device import DeviceSource
from streamcls.capture.portaudio import RecorderProcess, find_device, read_devices
from tests.audio_server import AudioServer, explain_missing

RATE_HZ = 48_000
CHANNELS = 2
SECONDS = 10


def main() -> None:
    if (reason := explain_missing()) is not None:
        raise SystemExit(reason)
    with TemporaryDirectory() as folder, AudioServer(Path(folder), RATE_HZ) as server:
        os.environ.update(server.environment)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # ALSA thinks aloud there
        for busy in (False, True):
            with Busy(busy):
                print(f"Python busy: {'yes' if busy else 'no'}")
                print("  own process: ", measure_process())
                print("  this process:", measure_thread())


class Busy:
    """Python code that runs all the time, as the daemon's other threads may."""

    def __init__(self, busy: bool) -> None:
        self._over = not busy

    def __enter__(self) -> None:
        threading.Thread(target=self._run).start()

    def __exit__(self, *exc_info: object) -> None:
        self._over = True

    def _run(self) -> None:
        while not self._over:
            sum(range(1000))


def measure_process() -> str:
    began_s = time.monotonic()
    process = RecorderProcess()
    source = DeviceSource("mon", RATE_HZ, CHANNELS)
    while (message := process.receive()) is None:
        pass
    process.open(source._make_order(find_device("mon", read_devices(message))))
    while process.receive() is None:
        pass
    start_s = time.monotonic() - began_s
    called_ns, delays_ns, frames = [], [], []
    own_s, child_s = time.thread_time(), cpu_time_s(process._process.pid)
    end_s = time.monotonic() + SECONDS
    while time.monotonic() < end_s:
        if (record := process.read()) is not None:
            delays_ns.append(time.monotonic_ns() - record.called_ns)
            called_ns.append(record.called_ns)
            frames.append(record.n_frames)
    own_s, child_s = time.thread_time() - own_s, cpu_time_s(process._process.pid) - child_s
    memory = memory_mib(process._process.pid)
    process.close()
    return (
        f"open after {start_s:.2f} s; callback to reader {percentiles_ms(delays_ns)}; "
        f"callbacks late {lateness(called_ns, frames)}; CPU {100 * child_s / SECONDS:.1f} % there, "
        f"{100 * own_s / SECONDS:.1f} % here; {memory:.0f} MiB of its own"
    )


def measure_thread() -> str:
    import sounddevice

    called_ns, frames = [], []
    cpu_s = [0.0, 0.0]

    def take(data: object, n_frames: int, times: object, status: object) -> None:
        called_ns.append(time.monotonic_ns())
        frames.append(n_frames)
        cpu_s[:] = [cpu_s[0] or time.thread_time(), time.thread_time()]

    stream = sounddevice.RawInputStream(
        RATE_HZ, RATE_HZ // 100, "mon", CHANNELS, "float32", 0.1, callback=take
    )
    stream.start()
    time.sleep(SECONDS)
    stream.abort()
    stream.close()
    used = 100 * (cpu_s[1] - cpu_s[0]) / SECONDS
    return f"callbacks late {lateness(called_ns, frames)}; CPU {used:.1f} %"


def lateness(called_ns: list[int], frames: list[int]) -> str:
    """By how much callbacks came later than the most punctual one, by the count of frames."""
    passed_ns = np.concatenate([[0], np.cumsum(frames[:-1])]) * 1e9 / RATE_HZ
    late_ns = np.array(called_ns) - passed_ns
    return percentiles_ms(late_ns - late_ns.min())


def percentiles_ms(values_ns: "list[int] | np.ndarray") -> str:
    p50, p99 = np.percentile(values_ns, [50, 99]) / 1e6
    return f"p50 {p50:.2f} ms, p99 {p99:.2f} ms"


def memory_mib(process_id: int) -> float:
    lines = Path(f"/proc/{process_id}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


if __name__ == "__main__":
    main()
