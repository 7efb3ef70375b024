"""The log of a program: lines on standard error, or entries with fields in systemd's journal.

Set up once by the command that runs; everybody else uses `logging` and may say more about an entry
with ``extra={"stream": ..., "state": ...}``. A stream that flaps must not fill the disk of a
machine nobody looks at: of entries that differ only in their values, `RateLimiter` passes a few a
minute and then the last one, with the number of those left out.

The journal's own protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL) is one datagram an entry;
that is less than the C library that python-systemd needs to be built.
"""

import copy
import logging
import math
import os
import socket
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

JOURNAL = "/run/systemd/journal/socket"
BURST = 10
PERIOD_S = 60.0
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_MAX_MESSAGE_BYTES = 32 << 10
"""A datagram has to fit the socket's buffer as a whole."""
_SEND_TIMEOUT_S = 0.5
_MAX_KINDS = 4096
_OWN_FIELDS = ("stream", "state")


def configure_logging(level: str) -> None:
    """Send what is at least as severe as ``level`` to the journal or to standard error."""
    handler: logging.Handler
    if writes_to_journal(os.environ):
        handler = RateLimiter(JournalHandler())
    else:
        lines = logging.StreamHandler()
        lines.setFormatter(logging.Formatter(_FORMAT))
        # On a terminal somebody looks, and wants to see everything.
        handler = lines if sys.stderr.isatty() else RateLimiter(lines)
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger("jax").setLevel(max(logging.WARNING, logging.getLogger().level))


def writes_to_journal(environ: Mapping[str, str]) -> bool:
    """Tell whether standard error goes to the journal, as systemd.exec(5) says to find out."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class JournalHandler(logging.Handler):
    """Writes entries with their fields; never waits long for a journal that is stuck.

    Args:
        address: The journal's socket.
        identifier: What ``journalctl -t`` selects.
    """

    def __init__(self, address: str = JOURNAL, identifier: str = "streamcls"):
        super().__init__()
        self._address = address
        self._identifier = identifier
        self._lost = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(_SEND_TIMEOUT_S)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one entry; one that cannot be sent is counted in the next that can."""
        try:
            entry = self._encode(record)
        except Exception:  # noqa: BLE001 - a bad format string, as logging treats it everywhere
            self.handleError(record)
            return
        try:
            self._socket.sendto(entry, self._address)
            self._lost = 0
        except OSError:
            self._lost += 1

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()

    def _encode(self, record: logging.LogRecord) -> bytes:
        message = self.format(record)
        if self._lost:
            message += f" (the journal did not take {self._lost} entries before this one)"
        fields = {
            "MESSAGE": message.encode(errors="replace")[:_MAX_MESSAGE_BYTES],
            "PRIORITY": _priority(record.levelno),
            "SYSLOG_IDENTIFIER": self._identifier,
            "CODE_FILE": record.pathname,
            "CODE_LINE": record.lineno,
            "CODE_FUNC": record.funcName,
            "STREAMCLS_LOGGER": record.name,
            "STREAMCLS_THREAD": record.threadName,
        }
        for name in _OWN_FIELDS:
            if (value := getattr(record, name, None)) is not None:
                fields[f"STREAMCLS_{name.upper()}"] = value
        return b"".join(_encode_field(name, value) for name, value in fields.items())


def _encode_field(name: str, value: object) -> bytes:
    data = value if isinstance(value, bytes) else str(value).encode(errors="replace")
    if b"\n" not in data:
        return b"%s=%s\n" % (name.encode(), data)
    return b"%s\n%s%s\n" % (name.encode(), len(data).to_bytes(8, "little"), data)


def _priority(level: int) -> int:
    """Return the priority of syslog(3): 7 debug, 6 info, 4 warning, 3 error, 2 critical."""
    for least, priority in ((50, 2), (40, 3), (30, 4), (20, 6)):
        if level >= least:
            return priority
    return 7


@dataclass(slots=True)
class _Kind:
    """Entries of one place in the code about one stream, in the running period."""

    began_s: float
    passed: int = 0
    held: int = 0
    last: logging.LogRecord | None = None


class RateLimiter(logging.Handler):
    """Passes at most ``burst`` entries of a kind in each period, then the last one with a count.

    Entries are of one kind when they come from the same place in the code and are about the same
    stream. Whoever asks for the level `debug` gets all of those.

    Args:
        target: Gets what is passed; closed with this one.
        burst: Entries of a kind that pass at once.
        period_s: After this time the last entry that was held back is passed, however quiet it
            is by then: the log always ends with the state that holds.
    """

    def __init__(self, target: logging.Handler, burst: int = BURST, period_s: float = PERIOD_S):
        super().__init__()
        self._target = target
        self._burst = burst
        self._period_s = period_s
        self._kinds: OrderedDict[tuple[object, ...], _Kind] = OrderedDict()
        self._timer: threading.Timer | None = None
        self._due_s = math.inf

    def emit(self, record: logging.LogRecord) -> None:
        """Pass an entry, or keep it as the last one of its kind."""
        if record.levelno < logging.INFO:
            self._target.handle(record)
            return
        key = (record.name, record.msg, getattr(record, "stream", None))
        now_s = time.monotonic()
        kind = self._kinds.get(key)
        if kind is None or (not kind.held and now_s - kind.began_s >= self._period_s):
            kind = self._kinds[key] = _Kind(now_s)
            self._kinds.move_to_end(key)
            if len(self._kinds) > _MAX_KINDS:
                self._pass_last(self._kinds.popitem(last=False)[1])
        if kind.passed < self._burst:
            kind.passed += 1
            self._target.handle(record)
            return
        kind.held += 1
        kind.last = record
        self._wake_at(kind.began_s + self._period_s)

    def close(self) -> None:
        """Pass what is held back, then close the target."""
        self.acquire()
        try:
            for kind in self._kinds.values():
                self._pass_last(kind)
            self._kinds.clear()
        finally:
            self.release()
        self._target.close()
        super().close()

    def _wake_at(self, due_s: float) -> None:
        """See to it that the periods that have ended by then are ended; one timer for all kinds."""
        if due_s >= self._due_s:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due_s = due_s
        self._timer = threading.Timer(max(0.0, due_s - time.monotonic()), self._end_periods)
        self._timer.daemon = True
        self._timer.start()

    def _end_periods(self) -> None:
        self.acquire()
        try:
            now_s = time.monotonic()
            self._timer, self._due_s = None, math.inf
            held = [
                (kind.began_s + self._period_s, key)
                for key, kind in self._kinds.items()
                if kind.held
            ]
            for due_s, key in held:
                if due_s <= now_s:
                    self._pass_last(self._kinds.pop(key))
            later_s = [due_s for due_s, _ in held if due_s > now_s]
            if later_s:
                self._wake_at(min(later_s))
        finally:
            self.release()

    def _pass_last(self, kind: _Kind) -> None:
        if kind.last is None:
            return
        record = copy.copy(kind.last)
        if kind.held > 1:
            record.msg = f"{record.getMessage()} (and {kind.held - 1} like it before, left out)"
            record.args = None
        kind.held, kind.last = 0, None
        self._target.handle(record)
