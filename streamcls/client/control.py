"""Calls of a daemon's control methods: JSON-RPC over a DEALER socket."""

import itertools
import math
import time
from typing import Any, Self

import msgspec
import zmq

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


class ControlClient:
    """Calls the control methods of a daemon, one at a time.

    Args:
        endpoint: The daemon's control endpoint, such as ``tcp://127.0.0.1:5571``.
        keys: This client's keys (`ClientKeys.load`), for a daemon that asks for them.

    Raises:
        PublishError: The endpoint is not possible.
    """

    def __init__(self, endpoint: str, *, keys: ClientKeys | None = None):
        self.endpoint = endpoint
        self._ids = itertools.count(1)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.maxmsgsize = REPLY_LIMIT_BYTES
        # Send only to a daemon that is there: a request must not be carried out minutes later.
        self._socket.immediate = 1
        try:
            connect(self._socket, endpoint, keys)
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
                "start it with `streamcls run`, or check the [publish] control endpoint and, "
                "if the daemon has keys, that this client's has the right to control"
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
