"""Client library: subscribe to a daemon's messages, and call its control methods.

Outside of the daemon's flow; needs zmq and msgspec only, so it starts fast. A client belongs
to the thread (or event loop) that made it.

Example:
    Print the best class of every prediction, and what was missed::

        with Subscriber("tcp://127.0.0.1:5570", streams=["porch"]) as subscriber:
            for message in subscriber:
                match message:
                    case PredictionMessage(scores=scores):
                        print(next(iter(scores.items())))
                    case Gap() as gap:
                        print("missed", gap.missing)
"""

import asyncio
import itertools
import math
import time
from collections import deque
from collections.abc import Collection
from typing import Any, Self

import msgspec
import zmq
import zmq.asyncio

from streamcls.errors import PublishError, StreamclsError
from streamcls.inbox import Gap, Inbox
from streamcls.publish.schema import (
    DATA_TYPES,
    EventMessage,
    HealthMessage,
    HeartbeatMessage,
    Message,
    PredictionMessage,
)

__all__ = [
    "AsyncSubscriber",
    "ControlClient",
    "ControlError",
    "ControlTimeoutError",
    "EventMessage",
    "Gap",
    "HealthMessage",
    "HeartbeatMessage",
    "Message",
    "PredictionMessage",
    "Subscriber",
]

RECEIVE_QUEUE_MESSAGES = 1000
RECEIVE_BUFFER_BYTES = 64 * 1024
MESSAGE_LIMIT_BYTES = 1024 * 1024
REPLY_LIMIT_BYTES = 16 * 1024 * 1024


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
    ):
        self.endpoint = endpoint
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
            _connect(self._socket, endpoint)
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
            "nothing was ever heard: is the daemon running there?"
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


class ControlError(StreamclsError):
    """The daemon refused a control request: JSON-RPC `code`, message and `data`."""

    def __init__(self, code: int, message: str, data: Any = None):
        self.code = code
        self.data = data
        super().__init__(message)


class ControlTimeoutError(StreamclsError, TimeoutError):
    """The daemon did not answer in time, or is not there."""


class ControlClient:
    """Calls the control methods of a daemon, one at a time.

    Args:
        endpoint: The daemon's control endpoint, such as ``tcp://127.0.0.1:5571``.

    Raises:
        PublishError: The endpoint is not possible.
    """

    def __init__(self, endpoint: str):
        self.endpoint = endpoint
        self._ids = itertools.count(1)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.maxmsgsize = REPLY_LIMIT_BYTES
        # Send only to a daemon that is there: a request must not be carried out minutes later.
        self._socket.immediate = 1
        try:
            _connect(self._socket, endpoint)
        except PublishError:
            self.close()
            raise

    def call(self, method: str, params: dict[str, Any] | None = None, timeout_s: float = 5) -> Any:
        """Return the result of ``method``.

        Raises:
            ControlError: The daemon refused.
            ControlTimeoutError: No answer within ``timeout_s``.
        """
        request_id = next(self._ids)
        request = {"jsonrpc": "2.0", "method": method, "params": params or {}, "id": request_id}
        give_up_at_s = time.monotonic() + timeout_s
        if not self._wait(zmq.POLLOUT, give_up_at_s):
            raise ControlTimeoutError(
                f"no daemon at {self.endpoint!r} within {timeout_s} s: "
                "start it with `streamcls run`, or check the [publish] control endpoint"
            )
        self._socket.send(msgspec.json.encode(request))
        while self._wait(zmq.POLLIN, give_up_at_s):
            reply = msgspec.json.decode(self._socket.recv_multipart()[-1])
            # An answer to an earlier call that timed out is not ours.
            if reply.get("id") not in (request_id, None):
                continue
            if (error := reply.get("error")) is not None:
                raise ControlError(error["code"], error["message"], error.get("data"))
            return reply["result"]
        raise ControlTimeoutError(
            f"{method} was not answered by {self.endpoint!r} within {timeout_s} s: "
            "the daemon is busy or stopped; try again or raise the timeout"
        )

    def close(self) -> None:
        """Disconnect. Safe to repeat."""
        self._context.destroy(linger=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _wait(self, event: int, give_up_at_s: float) -> bool:
        left_ms = max(0, math.ceil((give_up_at_s - time.monotonic()) * 1000))
        return bool(self._socket.poll(left_ms, event))


def _connect(socket: zmq.Socket[Any], endpoint: str) -> None:
    socket.linger = 0
    socket.reconnect_ivl = 100
    socket.reconnect_ivl_max = 2000
    # Notices a daemon's host that went away. Not ZMTP heartbeats: with them on either side
    # libzmq 4.3.5 aborts the process of a subscriber that stalls on a full queue.
    socket.tcp_keepalive = 1
    socket.tcp_keepalive_idle = 10
    socket.tcp_keepalive_intvl = 5
    socket.tcp_keepalive_cnt = 3
    if endpoint.startswith("tcp://["):
        socket.ipv6 = True
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        raise PublishError(
            f"endpoint {endpoint!r} is not an address to connect to ({error.strerror}): "
            "use tcp://HOST:PORT, such as tcp://127.0.0.1:5570, or ipc:///PATH"
        ) from error
