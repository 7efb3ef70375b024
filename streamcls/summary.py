"""The figures of a run: what was heard, how fast it was told, what was lost."""

import json
import math
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from streamcls.errors import StreamclsError
from streamcls.latency import LatencyHistogram
from streamcls.types import Health, HealthState


def _ms(duration_s: float) -> float | None:
    return None if math.isnan(duration_s) else round(duration_s * 1000, 2)


@dataclass(frozen=True, slots=True)
class Summary:
    """Totals since the start of the daemon.

    Attributes:
        model: Name of the model.
        uptime_s: How long the daemon has run.
        windows: Predictions made.
        latency_ms: Last sample of a window in -> prediction handed to the publisher: ``p50``,
            ``p99``, ``max``; None before the first window of audio that comes in real time.
        events: How many events were ``opened`` and ``closed``.
        messages_sent: Messages given to ZeroMQ.
        messages_dropped: Messages the publisher had to drop (each leaves a hole in ``seq``).
        streams: State and losses of each stream; ``heard_samples`` went through the model,
            ``waiting_samples`` were captured and came too late for it.
        failed_streams: Streams whose source gave up.
    """

    model: str
    uptime_s: float
    windows: int
    latency_ms: dict[str, float | None]
    events: dict[str, int]
    messages_sent: int
    messages_dropped: int
    streams: dict[str, dict[str, Any]]
    failed_streams: tuple[str, ...]

    @classmethod
    def collect(
        cls,
        model: str,
        uptime_s: float,
        windows: int,
        latency: LatencyHistogram | None,
        health: list[Health],
        ledgers: dict[str, dict[str, int]],
        events: tuple[int, int],
        messages_sent: int,
        messages_dropped: int,
    ) -> "Summary":
        """Gather the figures of the stages."""
        latency = latency or LatencyHistogram()
        empty = latency.count == 0
        return cls(
            model=model,
            uptime_s=round(uptime_s, 3),
            windows=windows,
            latency_ms={
                "p50": _ms(latency.percentile(50)),
                "p99": _ms(latency.percentile(99)),
                "max": None if empty else _ms(latency.max_s),
            },
            events=dict(zip(("opened", "closed"), events, strict=True)),
            messages_sent=messages_sent,
            messages_dropped=messages_dropped,
            streams={
                item.stream: {
                    **{key: value for key, value in asdict(item).items() if key != "stream"},
                    **ledgers.get(item.stream, {}),
                }
                for item in health
            },
            failed_streams=tuple(h.stream for h in health if h.state is HealthState.FAILED),
        )

    def lines(self) -> list[str]:
        """Return the summary for people."""
        p50, p99, longest = (self.latency_ms[key] for key in ("p50", "p99", "max"))
        lines = [f"{self.windows} windows with model {self.model} in {self.uptime_s:.1f} s"]
        if p50 is not None:
            lines.append(
                f"latency, last sample to publisher: p50 {p50} ms, p99 {p99} ms, max {longest} ms"
            )
        lines.append(f"{self.events['opened']} events, {self.events['closed']} of them ended")
        lines.append(f"{self.messages_sent} messages sent, {self.messages_dropped} dropped")
        for name, stream in self.streams.items():
            lines.append(
                f"stream {name}: {stream['state']}, {stream['captured_samples']} samples captured, "
                f"{stream['dropped_samples']} dropped ({stream['xruns']} xruns, "
                f"{stream['overruns']} overruns), {stream['nonfinite_samples']} not finite"
            )
        return lines


def check_path(path: Path) -> None:
    """Refuse at the start, not after days of running, where `report` could not write.

    Raises:
        StreamclsError: There is no such folder, or it may not be written to.
    """
    if str(path) == "-":
        return
    if path.is_dir():
        why = "Is a directory"
    elif not path.parent.is_dir():
        why = "No such file or directory"
    elif not os.access(path if path.exists() else path.parent, os.W_OK):
        why = "Permission denied"
    else:
        return
    raise StreamclsError(f"cannot write the summary to {path}: {why}; name another file")


def report(summary: Summary, path: Path | None) -> None:
    """Print the summary on standard error and write it as JSON where asked.

    Raises:
        StreamclsError: The file cannot be written.
    """
    for line in summary.lines():
        print(line, file=sys.stderr)
    if path is None:
        return
    text = json.dumps(asdict(summary), indent=2) + "\n"
    if str(path) == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    try:
        path.write_text(text)
    except OSError as error:
        raise StreamclsError(f"cannot write the summary to {path}: {error.strerror}") from None
