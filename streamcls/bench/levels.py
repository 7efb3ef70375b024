"""Level by level, more streams at the same time, and what each number of them costs.

The daemon is a process of its own that plays a recording in real time as many streams; streams are
added while it runs. This process is its only subscriber: it takes every prediction, checks that
none is missing, and compares the time it came with the time its last sample was due. So a figure
contains capture, features, network, events, encoding and ZeroMQ, on both sides. Several daemons,
each with its share of the streams, use more than the one interpreter's lock of a process.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streamcls.bench.fleet import SETTLE_S, Fleet, run_fleet
from streamcls.errors import StreamclsError

LEVELS = (1, 16, 64, 128, 256, 384, 512, 640, 768, 1000)
PLAY_S = 240.0


@dataclass(frozen=True, slots=True)
class Level:
    """What was measured with a number of streams.

    Attributes:
        streams: Live at the same time.
        hop_ms: New audio per prediction.
        predictions_per_s: Received by the subscriber.
        cores: CPU time of the daemons per second.
        p50_ms: Median latency, last sample of a window in -> message in the subscriber's hands.
        p99_ms: 99th percentile.
        max_ms: Longest.
        dropped_samples: Audio the daemons had to drop.
        missed: Predictions the subscriber did not get.
        rss_mb: Memory of the daemons.
        daemons: How many shared the streams.
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
    daemons: int = 1

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
    levels: Sequence[int] | None = None,
    level_s: float = 3.0,
    settings: Sequence[str] = (),
    daemons: int = 1,
) -> Iterator[Level]:
    """Yield one measurement per number of streams, up to the first that is not `Level.good`.

    Args:
        model: Shipped name or path.
        hop_ms: New audio per prediction.
        levels: Numbers of streams, ascending; None takes those of `LEVELS` that are enough.
        level_s: How long to measure each.
        settings: More ``KEY=VALUE`` of the daemons' configuration.
        daemons: How many share the streams; each has one at least.

    Raises:
        StreamclsError: There are fewer streams than daemons, or a daemon did not start; with the
            last it said.
    """
    levels = levels or [one for one in LEVELS if one >= daemons] or [daemons]
    if levels[0] < daemons:
        raise StreamclsError(
            f"{levels[0]} streams are fewer than {daemons} daemons, of which each plays one at "
            f"least; give more streams or fewer daemons"
        )
    settings = [f"inference.hop_ms={hop_ms}", *settings]
    longest_s = len(levels) * (level_s + SETTLE_S + 15.0)
    with (
        tempfile.TemporaryDirectory(prefix="streamcls-bench-") as folder,
        run_fleet(
            Path(folder), model, settings, min(PLAY_S, longest_s), daemons, levels[-1]
        ) as fleet,
    ):
        for level in levels:
            fleet.grow(level)
            measured = _measure(level, hop_ms, level_s, fleet)
            yield measured
            if not measured.good:
                return


def _measure(streams: int, hop_ms: float, duration_s: float, fleet: Fleet) -> Level:
    dropped = fleet.count_dropped()
    began_s, cpu_s = time.monotonic(), fleet.cpu_time_s()
    fleet.take()
    time.sleep(duration_s)
    latencies_ms, missed = fleet.take()
    elapsed_s, cpu_s = time.monotonic() - began_s, fleet.cpu_time_s() - cpu_s
    p50_ms, p99_ms, max_ms = np.percentile(latencies_ms or [np.inf], [50, 99, 100]).tolist()
    return Level(
        streams=streams,
        hop_ms=hop_ms,
        predictions_per_s=len(latencies_ms) / elapsed_s,
        cores=cpu_s / elapsed_s,
        p50_ms=p50_ms,
        p99_ms=p99_ms,
        max_ms=max_ms,
        dropped_samples=fleet.count_dropped() - dropped,
        missed=missed,
        rss_mb=fleet.rss_mb(),
        daemons=len(fleet.daemons),
    )
