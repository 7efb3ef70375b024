"""A thread that owns one listening socket: the shape shared by publisher and control.

The socket is created, used and closed in the service's own thread; other threads only set
flags and ring `Wakeup`. Start hands bind errors back to the caller; close has a deadline.
"""

import contextlib
import logging
import socket as posix_socket
import threading
from abc import ABC, abstractmethod
from typing import Self

import zmq

from streamcls.errors import PublishError
from streamcls.publish.endpoint import bind, check_bind, socket_file

START_TIMEOUT_S = 5.0
CLOSE_DEADLINE_S = 2.0

log = logging.getLogger(__name__)


class Wakeup:
    """Lets other threads end a `zmq.Poller` wait; rings do not add up. Never blocks."""

    def __init__(self):
        self._receiver, self._sender = posix_socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)
        self.fd = self._receiver.fileno()

    def ring(self) -> None:
        """Wake the waiting thread; from any thread."""
        # A full pipe means that it is awake already; a closed one that nobody waits any more.
        with contextlib.suppress(BlockingIOError, OSError):
            self._sender.send(b"\0")

    def clear(self) -> None:
        """Forget all rings so far; by the waiting thread."""
        with contextlib.suppress(BlockingIOError):
            while self._receiver.recv(4096):
                pass

    def close(self) -> None:
        """Release both ends."""
        self._receiver.close()
        self._sender.close()


class SocketService(ABC):
    """One listening socket with its thread; a context manager that starts and closes it.

    Args:
        name: Of the thread.
        endpoint: Where to listen.
        insecure: See `check_bind`.

    Raises:
        PublishError: The endpoint is malformed or refused.
    """

    def __init__(self, name: str, endpoint: str, *, insecure: bool = False):
        check_bind(endpoint, insecure)
        self._requested_endpoint = endpoint
        self._actual_endpoint: str | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._ready = threading.Event()
        self._closing = threading.Event()
        self._bind_error: PublishError | None = None
        self._wakeup = Wakeup()
        self._deadline_s = CLOSE_DEADLINE_S

    @property
    def endpoint(self) -> str:
        """The actual address, with the port the system chose; the requested one before start."""
        return self._actual_endpoint or self._requested_endpoint

    @property
    def alive(self) -> bool:
        """Whether the thread serves."""
        return self._thread.is_alive()

    def start(self) -> Self:
        """Bind and serve.

        Raises:
            PublishError: The endpoint cannot be bound.
        """
        self._thread.start()
        if not self._ready.wait(START_TIMEOUT_S):
            self.close()
            raise PublishError(
                f"endpoint {self._requested_endpoint!r} was not bound within "
                f"{START_TIMEOUT_S:.0f} s: is the machine overloaded?"
            )
        if self._bind_error is not None:
            self.close()
            raise self._bind_error
        return self

    def close(self, deadline_s: float = CLOSE_DEADLINE_S) -> None:
        """Stop serving; what is under way may finish until the deadline. Safe to repeat."""
        self._deadline_s = deadline_s
        self._closing.set()
        self._wakeup.ring()
        if self._thread.is_alive():
            # Twice: once to empty the queue, once for the lingering socket.
            self._thread.join(2 * deadline_s + 1)
        if self._thread.is_alive():
            log.error("%s did not stop within %.1f s", self._thread.name, 2 * deadline_s + 1)
        else:
            self._wakeup.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @abstractmethod
    def _open(self, context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
        """Return the configured, unbound socket. In the service's thread."""

    @abstractmethod
    def _serve(self, socket: zmq.Socket[bytes]) -> None:
        """Work until `_closing` is set. In the service's thread."""

    def _run(self) -> None:
        context = zmq.Context()
        try:
            with self._open(context) as socket:
                try:
                    self._actual_endpoint = bind(socket, self._requested_endpoint)
                except PublishError as error:
                    self._bind_error = error
                    return
                finally:
                    self._ready.set()
                try:
                    self._serve(socket)
                finally:
                    socket.linger = round(self._deadline_s * 1000)
                    # libzmq leaves the file. While we still listen nobody else can own it.
                    path = socket_file(self.endpoint)
                    if path is not None:
                        path.unlink(missing_ok=True)
        finally:
            context.term()  # waits for the lingering socket
