"""Calls of a daemon's control methods: JSON-RPC over a DEALER socket."""

import asyncio
import itertools
import math
import time
from typing import Any, Self

import msgspec
import zmq
import zmq.asyncio

from streamcls.client.connection import connect
from streamcls.errors import PublishError, StreamclsError
from streamcls.publish.keys import ClientKeys

REPLY_LIMIT_BYTES = 16 * 1024 * 1024


class ControlError(StreamclsError):
    """The daemon refused a control request: JSON-RPC `code`, message and `data`."""

    def __init__(self, code: int, message: str, data: Any = None):
        self.code = code
        self.data = data
        super().__init__(message)


class ControlTimeoutError(StreamclsError, TimeoutError):
    """The daemon did not answer in time, or is not there."""


class _ControlBase:
    """All of a control client but the waiting."""

    _context_type: type[zmq.Context[Any]]

    def __init__(self, endpoint: str, *, keys: ClientKeys | None = None):
        self.endpoint = endpoint
        self._ids = itertools.count(1)
        self._context = self._context_type()
        self._socket: Any = self._context.socket(zmq.DEALER)
        self._socket.maxmsgsize = REPLY_LIMIT_BYTES
        # Send only to a daemon that is there: a request must not be carried out minutes later.
        self._socket.immediate = 1
        try:
            connect(self._socket, endpoint, keys)
        except PublishError:
            self.close()
            raise

    def close(self) -> None:
        """Disconnect. Safe to repeat."""
        self._context.destroy(linger=0)

    def _request(self, method: str, params: dict[str, Any] | None) -> tuple[int, bytes]:
        request_id = next(self._ids)
        request = {"jsonrpc": "2.0", "method": method, "params": params or {}, "id": request_id}
        return request_id, msgspec.json.encode(request)

    def _absent(self, timeout_s: float) -> ControlTimeoutError:
        return ControlTimeoutError(
            f"no daemon at {self.endpoint!r} within {timeout_s} s: "
            "start it with `streamcls run`, or check the [publish] control endpoint and, "
            "if the daemon has keys, that this client's has the right to control"
        )

    def _silent(self, method: str, timeout_s: float) -> ControlTimeoutError:
        return ControlTimeoutError(
            f"{method} was not answered by {self.endpoint!r} within {timeout_s} s: "
            "the daemon is busy or stopped; try again or raise the timeout"
        )


class ControlClient(_ControlBase):
    """Calls the control methods of a daemon, one at a time.

    Args:
        endpoint: The daemon's control endpoint, such as ``tcp://127.0.0.1:5571``.
        keys: This client's keys (`ClientKeys.load`), for a daemon that asks for them.

    Raises:
        PublishError: The endpoint is not possible.
    """

    _context_type = zmq.Context

    def call(self, method: str, params: dict[str, Any] | None = None, timeout_s: float = 5) -> Any:
        """Return the result of ``method``.

        Raises:
            ControlError: The daemon refused.
            ControlTimeoutError: No answer within ``timeout_s``.
        """
        request_id, request = self._request(method, params)
        give_up_at_s = time.monotonic() + timeout_s
        if not self._wait(zmq.POLLOUT, give_up_at_s):
            raise self._absent(timeout_s)
        self._socket.send(request)
        while self._wait(zmq.POLLIN, give_up_at_s):
            reply = msgspec.json.decode(self._socket.recv_multipart()[-1])
            if _answers(reply, request_id):
                return _result(reply)
        raise self._silent(method, timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _wait(self, event: int, give_up_at_s: float) -> bool:
        left_ms = max(0, math.ceil((give_up_at_s - time.monotonic()) * 1000))
        return bool(self._socket.poll(left_ms, event))


class AsyncControlClient(_ControlBase):
    """`ControlClient` for asyncio, same arguments and rules; one call at a time."""

    _context_type = zmq.asyncio.Context

    async def call(
        self, method: str, params: dict[str, Any] | None = None, timeout_s: float = 5
    ) -> Any:
        """Return the result of ``method``; see `ControlClient.call`."""
        request_id, request = self._request(method, params)
        failure = self._absent(timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                await self._socket.poll(None, zmq.POLLOUT)
                failure = self._silent(method, timeout_s)
                await self._socket.send(request)
                while True:
                    reply = msgspec.json.decode((await self._socket.recv_multipart())[-1])
                    if _answers(reply, request_id):
                        return _result(reply)
        except TimeoutError:
            raise failure from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()


def _answers(reply: dict[str, Any], request_id: int) -> bool:
    # An answer to an earlier call that timed out is not ours.
    return reply.get("id") in (request_id, None)


def _result(reply: dict[str, Any]) -> Any:
    if (error := reply.get("error")) is not None:
        raise ControlError(error["code"], error["message"], error.get("data"))
    return reply["result"]
