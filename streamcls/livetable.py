"""The live table of ``streamcls listen``: one row per stream, the latest notices below.

Messages only change what is remembered; the screen is drawn a few times a second, so it stays
calm at any rate of predictions.
"""

import math
import time
from collections import deque
from dataclasses import dataclass
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from streamcls.client import Subscriber
from streamcls.inbox import Gap
from streamcls.publish.schema import (
    EventMessage,
    HealthMessage,
    HeartbeatMessage,
    Message,
    PredictionMessage,
    RejectedMessage,
)
from streamcls.textline import (
    format_bar,
    format_latency,
    format_level,
    format_message,
    format_time,
    printable,
)

LOUD_DBFS = -12.0
NEAR_FULL_SCALE_DBFS = -3.0
LEVEL_CELLS = 10
SCORE_CELLS = 8
LABEL_CELLS = 12
STREAM_CELLS = 16
CLASSES_SHOWN = 3
NOTICES_SHOWN = 5
GONE_AFTER_S = 3.0
"""Three heartbeats."""
QUIET_STATES = ("starting", "live", "ended")


@dataclass(slots=True)
class Row:
    """What is known of one stream."""

    prediction: PredictionMessage | None = None
    received_ns: int = 0
    health: HealthMessage | None = None
    missed: int = 0


class LiveTable:
    """Shows predictions as a table that redraws itself in place; a context manager.

    Args:
        console: A terminal.
    """

    types = ("prediction", "event", "health", "heartbeat")
    refresh_s = 0.15

    def __init__(self, console: Console):
        self._console = console
        self._live = Live(console=console, auto_refresh=False)
        self._rows: dict[str, Row] = {}
        self._notices: deque[Text] = deque(maxlen=NOTICES_SHOWN)
        self._heartbeat: HeartbeatMessage | None = None

    def show(self, message: Message | Gap, received_ns: int) -> None:
        """Remember a message for the next refresh."""
        if isinstance(message, HeartbeatMessage):
            self._heartbeat = message
            return
        row = self._rows.setdefault(message.stream, Row())
        match message:
            case PredictionMessage():
                row.prediction, row.received_ns = message, received_ns
            case HealthMessage():
                is_news = row.health is None or row.health.state != message.state
                row.health = message
                if is_news:
                    style = "green" if message.state in QUIET_STATES else "red"
                    self._notice(message, received_ns, style)
            case EventMessage():
                self._notice(message, received_ns, "bold")
            case RejectedMessage():
                self._notice(message, received_ns, "dim")
            case Gap():
                row.missed += message.missing
                self._notice(message, received_ns, "yellow")

    def refresh(self, subscriber: Subscriber) -> None:
        """Draw."""
        self._live.update(self.render(subscriber), refresh=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._live.stop()

    def _notice(self, message: Message | Gap, received_ns: int, style: str) -> None:
        self._notices.append(Text(" " + format_message(message, received_ns), style=style))

    def render(self, subscriber: Subscriber) -> RenderableType:
        """Return what the screen should show now."""
        is_gone = subscriber.silence_s > GONE_AFTER_S
        parts: list[RenderableType] = [self._headline(subscriber, is_gone), Text()]
        if self._rows:
            parts += [self._table(is_gone), Text()]
        parts += self._notices
        return Group(*parts)

    def _headline(self, subscriber: Subscriber, is_gone: bool) -> Text:
        line = Text(" ", no_wrap=True, overflow="ellipsis").append("streamcls", "bold")
        if math.isinf(subscriber.silence_s):
            line.append("  waiting for the daemon ...", "yellow")
        elif is_gone:
            line.append(f"  no sign of life for {subscriber.silence_s:.0f} s", "red")
        elif self._heartbeat is not None:
            minutes, seconds = divmod(int(self._heartbeat.uptime_s), 60)
            hours, minutes = divmod(minutes, 60)
            line.append(f"  up {hours}:{minutes:02d}:{seconds:02d}", "green")
            if dropped := sum(self._heartbeat.dropped.values()):
                line.append(f"  the daemon dropped {dropped} messages", "yellow")
        return line.append(f"  {subscriber.endpoint}", "dim")

    def _table(self, is_gone: bool) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
        stream_cells = min(STREAM_CELLS, max(map(len, self._rows)))
        # Fixed widths: columns that follow their contents would jump about. What does not fit
        # is left out whole: classes first, then the level as a number.
        fixed_cells = 9 + stream_cells + LEVEL_CELLS + 7 + 6 + 5 * 2
        first_cells = LABEL_CELLS + SCORE_CELLS + 6
        other_cells = LABEL_CELLS + 7
        with_number = self._console.width >= fixed_cells + first_cells + 7
        fixed_cells += 7 * with_number
        n_classes = 1 + (self._console.width - fixed_cells - first_cells) // other_cells
        n_classes = min(CLASSES_SHOWN, max(1, n_classes))

        table.add_column(" time", no_wrap=True, style="dim", width=9)
        table.add_column("stream", no_wrap=True, style="bold", width=stream_cells)
        table.add_column("dBFS", no_wrap=True, width=LEVEL_CELLS + 7 * with_number)
        table.add_column("hears", no_wrap=True, min_width=first_cells)
        table.add_column("latency", no_wrap=True, justify="right", style="dim", width=7)
        table.add_column("missed", no_wrap=True, justify="right", width=6)
        for name, row in sorted(self._rows.items()):
            age_ns = time.time_ns() - row.received_ns
            is_stale = is_gone or age_ns > GONE_AFTER_S * 1e9
            table.add_row(
                *_cells(name, row, with_number, n_classes), style="dim" if is_stale else ""
            )
        return table


def _cells(name: str, row: Row, with_number: bool, n_classes: int) -> list[RenderableType]:
    missed = Text(str(row.missed), style="yellow" if row.missed else "dim")
    trouble = _trouble(row.health)
    prediction = row.prediction
    if prediction is None:
        return ["", printable(name), "", trouble or Text("no prediction yet"), "", missed]
    return [
        " " + format_time(prediction.t_end_ns)[:8],
        printable(name),
        _level(prediction.level_dbfs, with_number),
        trouble or _scores(prediction, n_classes),
        format_latency(row.received_ns - prediction.t_end_ns),
        missed,
    ]


def _trouble(health: HealthMessage | None) -> Text | None:
    if health is None or health.state in QUIET_STATES:
        return None
    text = f"{health.state}: {health.reason}" if health.reason else health.state
    return Text(printable(text), style="red")


def _level(level_dbfs: float, with_number: bool) -> Text:
    style = "green"
    if level_dbfs > LOUD_DBFS:
        style = "red" if level_dbfs > NEAR_FULL_SCALE_DBFS else "yellow"
    meter = format_level(level_dbfs, LEVEL_CELLS)
    number = f" {level_dbfs:6.1f}" if with_number else ""
    return Text.assemble((meter, f"{style} on grey15"), number)


def _scores(prediction: PredictionMessage, n_classes: int) -> Text:
    text = Text()
    if prediction.flags:
        n_classes = max(1, n_classes - 1)
    for rank, (label, score) in enumerate(list(prediction.scores.items())[:n_classes]):
        style = "bold" if rank == 0 else "dim"
        name = printable(label)
        if len(name) > LABEL_CELLS:
            name = name[: LABEL_CELLS - 1] + "…"
        if rank == 0:
            text.append(f"{name:<{LABEL_CELLS}} ", style)
            text.append(format_bar(score, SCORE_CELLS), "cyan on grey15")
            text.append(f" {score:4.0%}", style)
        else:
            text.append(f"  {name:<{LABEL_CELLS}} {score:4.0%}", style)
    for flag in prediction.flags:
        text.append(f"  {printable(flag)}", "yellow")
    return text
