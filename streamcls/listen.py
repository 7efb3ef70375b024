"""What ``streamcls listen`` prints: a live table on a terminal, else lines, or JSON lines.

A client like any other (see `client`), in the main thread of its own process. The table is in
`livetable`; `streamcls demo` prints its lines with `format_message` too.
"""

import contextlib
import io
import math
import os
import sys
import time
from collections.abc import Collection
from typing import Protocol

import msgspec
from rich.console import Console

from streamcls.client import Subscriber
from streamcls.client.diagnosis import find_obstacle
from streamcls.inbox import Gap
from streamcls.livetable import LiveTable
from streamcls.publish.keys import ClientKeys
from streamcls.publish.schema import DATA_TYPES, Message
from streamcls.textline import format_message

WAITING_AFTER_S = 3.0
"""Without any sign of life for this long, say so: the daemon beats once a second."""


class View(Protocol):
    """One way to show messages."""

    @property
    def types(self) -> Collection[str]:
        """The message types it wants."""
        ...

    @property
    def refresh_s(self) -> float:
        """How often to call `refresh`."""
        ...

    def show(self, message: Message | Gap, received_ns: int) -> None:
        """Take a message."""
        ...

    def refresh(self, subscriber: Subscriber) -> None:
        """Show what changes by itself."""
        ...


class Lines:
    """One line of text per message, or with ``as_json`` one JSON object."""

    types = DATA_TYPES
    refresh_s = 1.0

    def __init__(self, console: Console, as_json: bool):
        self._file = console.file
        self._as_json = as_json
        self._started_s = time.monotonic()
        self._warned = False
        if isinstance(self._file, io.TextIOWrapper):
            # A terminal or pipe in another encoding shows "?" for a bar, and no traceback.
            self._file.reconfigure(errors="replace")

    def show(self, message: Message | Gap, received_ns: int) -> None:
        """Print the message, at once even into a pipe."""
        line = format_json(message) if self._as_json else format_message(message, received_ns)
        self._file.write(line + "\n")
        self._file.flush()

    def refresh(self, subscriber: Subscriber) -> None:
        """Say on stderr, once per silence, that nothing comes."""
        waited_s = min(subscriber.silence_s, time.monotonic() - self._started_s)
        if waited_s < WAITING_AFTER_S:
            self._warned = False
        elif not self._warned:
            self._warned = True
            obstacle = find_obstacle(subscriber.endpoint, subscriber.keys)
            print(f"waiting for {subscriber.endpoint}: {obstacle}", file=sys.stderr)


def format_json(message: Message | Gap) -> str:
    """Return a message as one line of JSON; a gap as ``{"type": "gap", "of": "prediction", ...}``.

    Messages are as in docs/protocol.md, whatever the encoding on the wire.
    """
    if isinstance(message, Gap):
        return msgspec.json.encode(
            {
                "type": "gap",
                "run": message.run,
                "stream": message.stream,
                "of": message.type,
                "first_missing_seq": message.first_missing_seq,
                "last_missing_seq": message.last_missing_seq,
                "reason": message.reason,
            }
        ).decode()
    return msgspec.json.encode(message).decode()


def run_listen(
    endpoint: str,
    streams: Collection[str] = (),
    as_json: bool = False,
    console: Console | None = None,
    duration_s: float | None = None,
    keys: ClientKeys | None = None,
    control_endpoint: str | None = None,
    with_rejected: bool = False,
) -> int:
    """Show what a daemon publishes, until Ctrl-C or for ``duration_s``.

    Args:
        endpoint: Where the daemon publishes.
        streams: Names to listen to; empty for all.
        as_json: Print JSON lines.
        console: Where to print; stdout by default.
        duration_s: Stop after this time; None never stops.
        keys: This client's keys, for a daemon that asks for them.
        control_endpoint: Where to fetch what was missed; None leaves it missed.
        with_rejected: Show detections that were held back, too.

    Returns:
        The exit code. 0, also after Ctrl-C and when the reader of the pipe goes away: that is
        how one stops listening. 1 when ``duration_s`` passed without a sign of life.

    Raises:
        PublishError: The endpoint or a stream name is not possible.
        ProtocolError: The daemon speaks another protocol version.
    """
    console = console or Console()
    try:
        with contextlib.ExitStack() as stack:
            if console.is_terminal and not as_json:
                view: View = stack.enter_context(LiveTable(console))
            else:
                view = Lines(console, as_json)
            subscriber = stack.enter_context(
                Subscriber(
                    endpoint,
                    streams=streams,
                    types=(*view.types, "rejected") if with_rejected else view.types,
                    recover=control_endpoint is not None,
                    control_endpoint=control_endpoint,
                    keys=keys,
                )
            )
            _pump(subscriber, view, math.inf if duration_s is None else duration_s)
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        # Otherwise Python complains once more when it flushes stdout on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if math.isinf(subscriber.silence_s):
        obstacle = find_obstacle(endpoint, keys)
        print(f"nothing heard from {endpoint}: {obstacle}", file=sys.stderr)
        return 1
    return 0


def _pump(subscriber: Subscriber, view: View, duration_s: float) -> None:
    stop_at_s = time.monotonic() + duration_s
    refresh_at_s = time.monotonic()
    while (now_s := time.monotonic()) < stop_at_s:
        if now_s >= refresh_at_s:
            view.refresh(subscriber)
            refresh_at_s = now_s + view.refresh_s
        with contextlib.suppress(TimeoutError):
            message = subscriber.receive(max(0.0, min(refresh_at_s, stop_at_s) - now_s))
            view.show(message, time.time_ns())
    view.refresh(subscriber)
