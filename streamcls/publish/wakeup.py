"""Ends another thread's wait on its sockets; for threads that own a `zmq.Poller`."""

import contextlib
import socket as posix_socket

_RINGS = 4096


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
            while len(self._receiver.recv(_RINGS)) == _RINGS:
                pass

    def close(self) -> None:
        """Release both ends."""
        self._receiver.close()
        self._sender.close()
