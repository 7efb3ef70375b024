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
from streamcls.client.control import (
    AsyncControlClient,
    ControlClient,
    ControlError,
    ControlTimeoutError,
)
from streamcls.client.recovery import REPLAY_TIMEOUT_S, Recovery
from streamcls.errors import PublishError
from streamcls.inbox import Gap, Inbox
from streamcls.publish.keys import ClientKeys
from streamcls.publish.schema import DATA_TYPES, MESSAGE_LIMIT_BYTES, Message

RECEIVE_QUEUE_MESSAGES = 1000
RECEIVE_BUFFER_BYTES = 64 * 1024


class _SubscriberBase:
    """All of a subscriber but the waiting."""

    _context_type: type[zmq.Context[Any]]
    _control_type: type[ControlClient] | type[AsyncControlClient]

    def __init__(
        self,
        endpoint: str,
        *,
        streams: Collection[str] = (),
        types: Collection[str] = DATA_TYPES,
        timeout_s: float | None = None,
        recover: bool = False,
        control_endpoint: str | None = None,
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
        self._control: Any = None
        try:
            connect(self._socket, endpoint, keys)
            if recover:
                self._control = self._control_type(_check_given(control_endpoint), keys=keys)
        except PublishError:
            self.close()
            raise
        self._recovery = Recovery(self.inbox) if recover else None
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
        if self._control is not None:
            self._control.close()

    def _take(self, frames: list[bytes]) -> None:
        self._heard_at_s = time.monotonic()
        self._ready += self.inbox.accept(frames[-1])

    def _gap_to_fill(self) -> Gap | None:
        """Return the gap that stands first, unless it is to be delivered as it is."""
        first = self._ready[0]
        if self._recovery is None or not isinstance(first, Gap) or first.reason:
            return None
        return first

    def _replace_first(self, items: list[Message | Gap]) -> None:
        self._ready.popleft()
        self._ready.extendleft(reversed(items))

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
        types: Of ``prediction``, ``event``, ``health``, ``rejected``, ``heartbeat``.
        timeout_s: How long iteration waits for a message before `TimeoutError`; None: for ever.
        recover: Fetch what was missed from the daemon's journal; it comes in order and at most
            once, marked ``recovered=True``. A `Gap` is then only what stays lost.
        control_endpoint: Where to fetch it; needed with ``recover``.
        keys: This client's keys (`ClientKeys.load`), for a daemon that asks for them.

    Attributes:
        inbox: Counters: `received`, `missed`, `recovered`, `repeated`, `invalid`.

    Raises:
        PublishError: The endpoint, a stream name or a type is not possible.
    """

    _context_type = zmq.Context
    _control_type = ControlClient
    _wait_ms = -1  # for ever, as sockets do

    def receive(self, timeout_s: float | None = None) -> Message | Gap:
        """Return the next message or gap.

        Args:
            timeout_s: How long to wait; None waits for ever. Fetching what was missed may take
                up to `REPLAY_TIMEOUT_S` more.

        Raises:
            TimeoutError: Nothing came in time.
            ProtocolError: The daemon speaks another protocol version.
        """
        give_up_at_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while True:
            while not self._ready:
                self._limit_wait(give_up_at_s - time.monotonic())
                try:
                    self._take(self._socket.recv_multipart())
                except zmq.Again:
                    raise self._give_up(timeout_s) from None
            if (gap := self._gap_to_fill()) is None:
                return self._ready.popleft()
            self._replace_first(self._fill(gap))

    def _limit_wait(self, left_s: float) -> None:
        """Let the socket wait so long for a message: a poll for each would cost as much again."""
        wait_ms = -1 if math.isinf(left_s) else math.ceil(max(0.0, left_s) * 1000)
        if wait_ms != self._wait_ms:
            self._wait_ms = self._socket.rcvtimeo = wait_ms

    def _fill(self, gap: Gap) -> list[Message | Gap]:
        assert self._recovery is not None
        request = self._recovery.request(gap)
        if request is None:
            return self._recovery.give_up(gap, None)
        try:
            result = self._control.call("replay", request, REPLAY_TIMEOUT_S)
        except (ControlError, ControlTimeoutError) as error:
            return self._recovery.give_up(gap, error)
        return self._recovery.fill(gap, result)

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
    _control_type = AsyncControlClient

    async def receive(self, timeout_s: float | None = None) -> Message | Gap:
        """Return the next message or gap; see `Subscriber.receive`."""
        while True:
            try:
                async with asyncio.timeout(timeout_s):
                    while not self._ready:
                        self._take(await self._socket.recv_multipart())
            except TimeoutError:
                raise self._give_up(timeout_s) from None
            if (gap := self._gap_to_fill()) is None:
                return self._ready.popleft()
            # The gap stays first meanwhile, so that nothing is lost when we are cancelled here.
            self._replace_first(await self._fill(gap))

    async def _fill(self, gap: Gap) -> list[Message | Gap]:
        assert self._recovery is not None
        request = self._recovery.request(gap)
        if request is None:
            return self._recovery.give_up(gap, None)
        try:
            result = await self._control.call("replay", request, REPLAY_TIMEOUT_S)
        except (ControlError, ControlTimeoutError) as error:
            return self._recovery.give_up(gap, error)
        return self._recovery.fill(gap, result)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message | Gap:
        return await self.receive(self.timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()


def _check_given(control_endpoint: str | None) -> str:
    if control_endpoint is None:
        raise PublishError(
            "recover=True asks the daemon for what was missed: say where with "
            "control_endpoint, such as tcp://127.0.0.1:5571"
        )
    return control_endpoint
