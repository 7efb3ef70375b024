"""How programs that run until interrupted are interrupted; in the main thread only."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_on_signals(
    stop: Callable[[], None], reload: Callable[[], None] | None = None
) -> Iterator[None]:
    """Let SIGTERM and SIGINT call `stop`; a second SIGINT interrupts at once.

    Args:
        stop: Quick, and harmless when called again.
        reload: The same, for SIGHUP; None leaves that signal alone. A program whose terminal was
            closed stops instead: SIGHUP means that, too.
    """
    had_terminal = _has_terminal()

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGHUP and reload is not None and _has_terminal() >= had_terminal:
            reload()
            return
        stop()
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    numbers = [signal.SIGTERM, signal.SIGINT] + ([signal.SIGHUP] if reload else [])
    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def leave_on_interrupt() -> Iterator[None]:
    """Let SIGINT end the process at once, with status 130, while libraries are imported.

    JAX's extension imports NumPy as it is initialised. An exception there is printed with a
    traceback, and becomes an ImportError.
    """
    previous = signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
