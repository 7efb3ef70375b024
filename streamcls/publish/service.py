"""A thread that owns one listening socket: the shape shared by publisher and control.

The socket is created, used and closed in the service's own thread; other threads only set
flags and ring `Wakeup`. Start hands bind errors back to the caller; close has a deadline.
"""

import contextlib
import logging
import threading
from abc import ABC, abstractmethod
from typing import Any, Self

import zmq

from streamcls.errors import PublishError
from streamcls.publish.auth import Gate
from streamcls.publish.endpoint import IPC_MODE, bind, check_bind, keep_alive, socket_file
from streamcls.publish.key_files import Right
from streamcls.publish.keys import ServerKeys
from streamcls.publish.wakeup import Wakeup

START_TIMEOUT_S = 5.0
CLOSE_DEADLINE_S = 2.0

log = logging.getLogger(__name__)


class SocketService(ABC):
    """One listening socket with its thread; a context manager that starts and closes it.

    Args:
        name: Of the thread.
        endpoint: Where to listen.
        right: What a client needs to be let in, when there are keys.
        keys: Encrypt the socket and let in only the clients allowed there; None: everybody.
        insecure: See `check_bind`.
        ipc_mode: Of the file of an ``ipc://`` endpoint; who may write to it may connect.

    Raises:
        PublishError: The endpoint is malformed or refused.
    """

    def __init__(
        self,
        name: str,
        endpoint: str,
        right: Right,
        *,
        keys: ServerKeys | None = None,
        insecure: bool = False,
        ipc_mode: int = IPC_MODE,
    ):
        check_bind(endpoint, insecure, encrypted=keys is not None)
        self._ipc_mode = ipc_mode
        self._gate = None if keys is None else Gate(keys, right)
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

    def connections(self) -> dict[str, Any] | None:
        """Return how many were let in and refused, see `Gate.stats`; None without keys."""
        return None if self._gate is None else self._gate.stats()

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
        """Work until `_closing` is set, or return earlier to have the socket made anew.

        In the service's thread.
        """

    def _run(self) -> None:
        self._serve_once()
        while self._bind_error is None and not self._closing.is_set():
            self._serve_once()
        if self._bind_error is not None and not self._closing.is_set():
            log.error("%s has ended: %s", self._thread.name, self._bind_error)

    def _serve_once(self) -> None:
        context = zmq.Context()
        gate = self._gate
        try:
            with (
                self._open(context) as socket,
                contextlib.nullcontext() if gate is None else gate.guard(socket),
            ):
                keep_alive(socket)
                try:
                    self._actual_endpoint = bind(socket, self.endpoint, self._ipc_mode)
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
