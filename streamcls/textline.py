"""Messages as lines of text, for people. Pure functions, used by `listen` and the demo."""

import time

from streamcls.inbox import Gap
from streamcls.publish.schema import (
    EventMessage,
    HealthMessage,
    HeartbeatMessage,
    Message,
    PredictionMessage,
    RejectedMessage,
)
from streamcls.units import NS_PER_S

METER_FLOOR_DBFS = -60.0
_EIGHTHS = " ▏▎▍▌▋▊▉"


def printable(text: str) -> str:
    """Return ``text`` with a mark for everything a terminal might obey.

    Names come over the network, and an escape sequence in one could rewrite the screen.
    """
    return "".join(char if char.isprintable() else "�" for char in text)


def format_bar(fraction: float, cells: int) -> str:
    """Return a bar of ``cells`` characters, filled to ``fraction`` in steps of an eighth.

    Example:
        >>> format_bar(0.5, 5)
        '██▌  '
    """
    eighths = round(min(max(fraction, 0.0), 1.0) * cells * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(cells)


def format_level(level_dbfs: float, cells: int) -> str:
    """Return a level meter from -60 dBFS (empty) to 0 dBFS (full)."""
    return format_bar(1 - level_dbfs / METER_FLOOR_DBFS, cells)


def format_time(utc_ns: int) -> str:
    """Return the local time of day with milliseconds."""
    utc_s, rest_ns = divmod(utc_ns, NS_PER_S)
    return f"{time.strftime('%H:%M:%S', time.localtime(utc_s))}.{rest_ns // 1_000_000:03d}"


def format_latency(latency_ns: int) -> str:
    """Return a latency: milliseconds below ten seconds, seconds above.

    Negative it is none: the audio runs ahead of the clock (a recording that is read faster than
    real time), or the daemon's clock ahead of this machine's.
    """
    latency_ms = round(latency_ns / 1_000_000)
    if latency_ms < 0:
        return "ahead"
    return f"{latency_ms} ms" if latency_ms < 10_000 else f"{latency_ms / 1000:.0f} s"


def format_prediction(
    message: PredictionMessage, received_ns: int | None = None, top_k: int = 3
) -> str:
    """Return a prediction as one line: time, stream, level, top classes, latency, flags.

    Args:
        message: The prediction.
        received_ns: UTC of its arrival; None leaves the latency out.
        top_k: How many classes to name.
    """
    best = list(message.scores.items())[:top_k]
    line = (
        f"{format_time(message.t_end_ns)}  {printable(message.stream):<12}"
        f" ▕{format_level(message.level_dbfs, 12)}▏{message.level_dbfs:6.1f} dBFS  "
    )
    line += "  ".join(f"{printable(label):<10} {score:4.0%}" for label, score in best)
    if received_ns is not None:
        line += f"  {format_latency(received_ns - message.t_end_ns):>7}"
    return line + "".join(f"  {printable(flag)}" for flag in message.flags)


def format_message(message: Message | Gap, received_ns: int | None = None) -> str:
    """Return any message, or a gap, as one line."""
    match message:
        case PredictionMessage():
            line = format_prediction(message, received_ns)
            return line + "  recovered" if message.recovered else line
        case HealthMessage():
            at_ns, text = message.published_ns, message.state
            if message.reason:
                text += f": {message.reason}"
            if message.dropped_samples:
                text += f" ({message.dropped_samples} samples lost so far)"
        case EventMessage():
            at_ns = message.onset_ns if message.offset_ns is None else message.offset_ns
            text = f"{message.label} {message.state}, peak {message.peak_score:.0%}"
            if message.reason not in ("", "score"):
                text += f" ({message.reason})"
        case RejectedMessage():
            at_ns = message.offset_ns
            text = f"not reported: {message.label}, {message.reason} ({message.detail})"
        case HeartbeatMessage():
            at_ns, text = message.published_ns, f"up {message.uptime_s:.0f} s"
        case Gap():
            at_ns = received_ns or time.time_ns()
            first, last = message.first_missing_seq, message.last_missing_seq
            span = f"seq {first}" if first == last else f"seq {first} to {last}"
            plural = "s" if message.missing > 1 else ""
            text = f"missed {message.missing} {message.type} message{plural}, {span}"
            if message.reason:
                text += f" ({message.reason})"
    line = f"{format_time(at_ns)}  {printable(message.stream):<12} {printable(text)}"
    return line if isinstance(message, Gap) or not message.recovered else line + "  recovered"
