"""Subscribers: the socket and the waiting around an `Inbox`, once blocking and once for asyncio."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Collection
from typing import Any, Self

import zmq
import zmq.asyncio

from streamcls.client.connection import connect
from streamcls.errors import PublishError
from streamcls.inbox import Gap, Inbox
from streamcls.publish.keys import ClientKeys
from streamcls.publish.schema import DATA_TYPES, Message

RECEIVE_QUEUE_MESSAGES = 1000
RECEIVE_BUFFER_BYTES = 64 * 1024
MESSAGE_LIMIT_BYTES = 1024 * 1024


class _SubscriberBase:
    """All of a subscriber but the waiting."""

    _context_type: type[zmq.Context[Any]]

    def __init__(
        self,
        endpoint: str,
        *,
        streams: Collection[str] = (),
        types: Collection[str] = DATA_TYPES,
        timeout_s: float | None = None,
        keys: ClientKeys | None = None,
    ):
        self.endpoint = endpoint
        self.keys = keys
        self.inbox = Inbox(streams, types)
        self.timeout_s = timeout_s
        self._ready: deque[Message | Gap] = deque()
        self._heard_at_s = -math.inf
        self._context = self._context_type()
        self._socket: Any = self._context.socket(zmq.SUB)
        self._socket.rcvhwm = RECEIVE_QUEUE_MESSAGES
        self._socket.rcvbuf = RECEIVE_BUFFER_BYTES
        self._socket.maxmsgsize = MESSAGE_LIMIT_BYTES
        try:
            connect(self._socket, endpoint, keys)
        except PublishError:
            self.close()
            raise
        for topic in self.inbox.topics():
            self._socket.subscribe(topic)

    @property
    def silence_s(self) -> float:
        """Seconds since anything arrived, heartbeats included; infinite before the first.

        A daemon beats once a second: more than 3 s mean that it is gone or out of reach.
        """
        return time.monotonic() - self._heard_at_s

    def close(self) -> None:
        """Disconnect. Safe to repeat."""
        self._context.destroy(linger=0)

    def _take(self, frames: list[bytes]) -> None:
        self._heard_at_s = time.monotonic()
        self._ready += self.inbox.accept(frames[-1])

    def _give_up(self, timeout_s: float | None) -> TimeoutError:
        heard = (
            "nothing was ever heard: is the daemon running there, and if it has keys, "
            "does this client's have the right to listen?"
            if math.isinf(self.silence_s)
            else f"last sign of life {self.silence_s:.1f} s ago"
        )
        return TimeoutError(f"no message from {self.endpoint!r} within {timeout_s} s; {heard}")


class Subscriber(_SubscriberBase):
    """Iterates over the messages of a daemon, and over the gaps between them.

    Connects in the background and reconnects for ever; a restarted daemon goes on where the
    old one ended, with another `run` in its messages.

    Args:
        endpoint: Where the daemon publishes, such as ``tcp://127.0.0.1:5570``.
        streams: Names to listen to; empty for all.
        types: Of ``prediction``, ``event``, ``health``, ``heartbeat``.
        timeout_s: How long iteration waits for a message before `TimeoutError`; None: for ever.
        keys: This client's keys (`ClientKeys.load`), for a daemon that asks for them.

    Attributes:
        inbox: Counters: `received`, `missed`, `repeated`, `invalid`.

    Raises:
        PublishError: The endpoint, a stream name or a type is not possible.
    """

    _context_type = zmq.Context

    def receive(self, timeout_s: float | None = None) -> Message | Gap:
        """Return the next message or gap.

        Args:
            timeout_s: How long to wait; None waits for ever.

        Raises:
            TimeoutError: Nothing came in time.
            ProtocolError: The daemon speaks another protocol version.
        """
        give_up_at_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while not self._ready:
            left_s = max(0.0, give_up_at_s - time.monotonic())
            if not self._socket.poll(None if math.isinf(left_s) else math.ceil(left_s * 1000)):
                raise self._give_up(timeout_s)
            self._take(self._socket.recv_multipart())
        return self._ready.popleft()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Message | Gap:
        return self.receive(self.timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class AsyncSubscriber(_SubscriberBase):
    """`Subscriber` for asyncio: ``async with`` and ``async for``, same arguments and rules."""

    _context_type = zmq.asyncio.Context

    async def receive(self, timeout_s: float | None = None) -> Message | Gap:
        """Return the next message or gap; see `Subscriber.receive`."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self._ready:
                    self._take(await self._socket.recv_multipart())
        except TimeoutError:
            raise self._give_up(timeout_s) from None
        return self._ready.popleft()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message | Gap:
        return await self.receive(self.timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()
