"""The daemons of a measurement, one or several: streams are dealt out among them in turn."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import soundfile

from streamcls.bench.daemon import MeasuredDaemon, run_daemon
from streamcls.bench.process import cpu_time_s, resident_mb

SETTLE_S = 1.5
"""After streams were added: more than a window, so that all of them predict."""
_RECORDING = Path(__file__).parent.parent / "recordings" / "demo.flac"


class Fleet:
    """Running daemons; each plays one stream at first.

    Args:
        daemons: Of which the one at place ``i`` plays ``s{i}``.
    """

    def __init__(self, daemons: Sequence[MeasuredDaemon]):
        self.daemons = daemons
        self._streams = len(daemons)

    def grow(self, streams: int) -> None:
        """Add streams until there are so many, and wait until all of them predict."""
        for index in range(self._streams, streams):
            self.daemons[index % len(self.daemons)].play(f"s{index}")
        self._streams = max(self._streams, streams)
        time.sleep(SETTLE_S)

    def take(self) -> tuple[list[float], int]:
        """Return what the listeners of all daemons say; see `Listener.take`."""
        heard = [one.listener.take() for one in self.daemons]
        latencies_ms = [late_ms for latencies_ms, _ in heard for late_ms in latencies_ms]
        return latencies_ms, sum(missed for _, missed in heard)

    def count_dropped(self) -> int:
        """Return how many samples they had to drop since their start."""
        return sum(one.count_dropped() for one in self.daemons)

    def cpu_time_s(self) -> float:
        """Return their user and system time so far."""
        return sum(cpu_time_s(one.pid) for one in self.daemons)

    def rss_mb(self) -> float:
        """Return their resident memory."""
        return sum(resident_mb(one.pid) for one in self.daemons)


@contextlib.contextmanager
def run_fleet(
    folder: Path, model: str, settings: Sequence[str], play_s: float, daemons: int, streams: int
) -> Iterator[Fleet]:
    """Run daemons that predict already; end them afterwards.

    Args:
        folder: Empty; for what they play, their sockets and logs.
        model: Shipped name or path.
        settings: More ``KEY=VALUE`` of their configuration.
        play_s: How long their streams last.
        daemons: How many.
        streams: The most that all together will play.

    Raises:
        StreamclsError: One did not start; with the last it said.
    """
    recording = folder / "bench.wav"
    _write_recording(recording, play_s)
    share = -(-streams // daemons)
    settings = [f"inference.max_streams={share}", *settings]
    with contextlib.ExitStack() as stack:
        running = []
        for number in range(daemons):
            home = folder / str(number)
            home.mkdir()
            started = run_daemon(home, model, settings, recording, f"s{number}")
            running.append(stack.enter_context(started))
        yield Fleet(running)


def _write_recording(path: Path, duration_s: float) -> None:
    """Write the bundled recording, again and again."""
    audio, rate_hz = soundfile.read(_RECORDING, dtype="int16")
    with soundfile.SoundFile(path, "w", rate_hz, 1, "PCM_16") as file:
        for _ in range(-(-round(duration_s * rate_hz) // len(audio))):
            file.write(audio)
