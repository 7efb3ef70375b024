"""sd_notify(3) in the standard library: tell the service manager how the daemon is.

Called by the daemon's main thread. Owns one unconnected datagram socket. Without
``NOTIFY_SOCKET`` (not started by systemd) every call does nothing. Nothing here blocks for
long or raises: a manager that does not listen must not stop the audio, so a message that
cannot be delivered returns False and the first is logged.
"""

import logging
import os
import socket
import time
from collections.abc import Mapping
from types import TracebackType

_LOG = logging.getLogger(__name__)
_SEND_TIMEOUT_S = 1.0
_MAX_STATUS_CHARS = 512


class Notifier:
    """Speaks to the manager that started this process.

    Attributes:
        watchdog_interval_s: How often `watchdog` has to be called (half the limit, as
            sd_watchdog_enabled(3) advises), or None if nobody is watching this process.

    Example:
        >>> notifier = Notifier(environ={})
        >>> notifier.enabled, notifier.ready("1 stream")
        (False, False)
    """

    def __init__(self, environ: Mapping[str, str] | None = None):
        """Read ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` from ``environ``."""
        environ = os.environ if environ is None else environ
        self.watchdog_interval_s = _watchdog_interval_s(environ)
        self._address = _socket_address(environ.get("NOTIFY_SOCKET", ""))
        self._socket: socket.socket | None = None
        self._failed = False
        if self._address is not None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.settimeout(_SEND_TIMEOUT_S)

    @property
    def enabled(self) -> bool:
        """Whether somebody asked to be notified."""
        return self._socket is not None

    def ready(self, status: str = "") -> bool:
        """Say that start-up, or a reload, is complete."""
        return self._send("READY=1", *_status(status))

    def status(self, text: str) -> bool:
        """Set the line that ``systemctl status`` shows."""
        return self._send(*_status(text))

    def extend_start(self, limit_s: float, status: str) -> bool:
        """Ask for so much time, from now on, to get ready; what the unit grants is for the rest."""
        return self._send(f"EXTEND_TIMEOUT_USEC={round(limit_s * 1e6)}", *_status(status))

    def watchdog(self) -> bool:
        """Say that work is being done; to be called every `watchdog_interval_s`."""
        return self._send("WATCHDOG=1")

    def reloading(self) -> bool:
        """Say that a reload has begun; `ready` ends it."""
        # CLOCK_MONOTONIC, as Type=notify-reload compares it with the moment of its SIGHUP.
        monotonic_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        return self._send("RELOADING=1", f"MONOTONIC_USEC={monotonic_us}")

    def stopping(self, status: str = "") -> bool:
        """Say that the daemon is shutting down."""
        return self._send("STOPPING=1", *_status(status))

    def close(self) -> None:
        """Close the socket; later calls do nothing."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> "Notifier":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _send(self, *assignments: str) -> bool:
        if self._socket is None or self._address is None:
            return False
        try:
            self._socket.sendto("\n".join(assignments).encode(errors="replace"), self._address)
        except OSError as error:
            if not self._failed:
                _LOG.warning("cannot notify %r: %s", self._address, error)
            self._failed = True
            return False
        return True


def _status(text: str) -> list[str]:
    """Return the assignment; one line, because a line break would start another assignment."""
    return [f"STATUS={' '.join(text.split())[:_MAX_STATUS_CHARS]}"] if text else []


def _socket_address(path: str) -> str | None:
    """Return the AF_UNIX address; a leading ``@`` stands for the abstract namespace."""
    if path.startswith("@"):
        return "\0" + path[1:]
    if path and not path.startswith("/"):
        _LOG.warning("NOTIFY_SOCKET=%s: only paths and @names are supported; not notifying", path)
        return None
    return path or None


def _watchdog_interval_s(environ: Mapping[str, str]) -> float | None:
    limit_us = environ.get("WATCHDOG_USEC", "")
    pid = environ.get("WATCHDOG_PID", str(os.getpid()))
    if not limit_us.isdecimal() or int(limit_us) == 0 or pid != str(os.getpid()):
        return None
    return int(limit_us) / 2 / 1e6
