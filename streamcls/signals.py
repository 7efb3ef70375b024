"""How programs that run until interrupted are interrupted; in the main thread only."""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ONE_INTERRUPT_S = 1.0
"""SIGINTs so close together mean one: a key pressed twice, or a wrapper that passes on what the
terminal has sent to all."""
_AGAIN = b"streamcls: interrupted again, not waiting for the end\n"


@contextmanager
def stop_on_signals(
    stop: Callable[[], None], reload: Callable[[], None] | None = None
) -> Iterator[None]:
    """Let SIGTERM and SIGINT call `stop`; a SIGINT more than a second later interrupts at once.

    Once it has ended as SIGINT asked, SIGINT is ignored: the interpreter takes a moment to go, and
    would print a traceback, or die of the signal.

    Args:
        stop: Quick, and harmless when called again.
        reload: The same, for SIGHUP; None leaves that signal alone. A program whose terminal was
            closed stops instead: SIGHUP means that, too.
    """
    had_terminal = _has_terminal()
    interrupted_s = math.inf

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted_s
        if number == signal.SIGHUP and reload is not None and _has_terminal() >= had_terminal:
            reload()
            return
        stop()
        if number == signal.SIGINT:
            now_s = time.monotonic()
            interrupted_s = min(interrupted_s, now_s)
            if now_s - interrupted_s > ONE_INTERRUPT_S:
                os.write(2, _AGAIN)  # `print` may be what is interrupted
                signal.default_int_handler(number, frame)

    numbers = [signal.SIGTERM, signal.SIGINT] + ([signal.SIGHUP] if reload else [])
    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
        if interrupted_s < math.inf:
            previous[signal.SIGINT] = signal.SIG_IGN
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
