"""The control socket: JSON-RPC 2.0 requests on a ROUTER, answered in its own thread.

The daemon registers what may be called as a mapping name -> method. Methods run in the
control thread, one at a time, so they must be quick and thread-safe towards the stages. Those that
take seconds are named as slow: a request for one is carried out by a worker thread, and its reply
comes back to the control thread, which alone uses the socket and answers the others meanwhile.
"""

import logging
import threading
from collections import deque
from collections.abc import Container, Mapping
from queue import SimpleQueue

import zmq

from streamcls.publish.endpoint import IPC_MODE
from streamcls.publish.key_files import Right
from streamcls.publish.keys import ServerKeys
from streamcls.publish.rpc import Method, answer, names_any, refuse
from streamcls.publish.service import SocketService

REQUEST_LIMIT_BYTES = 64 * 1024
"""libzmq disconnects a client whose frame is larger."""
ENVELOPE_LIMIT_FRAMES = 8
SLOW_REQUESTS_LIMIT = 8
"""Of all clients together, waiting for the worker; more are refused."""
REQUESTS_QUEUED = 16
"""Per client, in each direction; replies to a client that does not read are dropped."""

log = logging.getLogger(__name__)


class ControlServer(SocketService):
    """Answers control requests of DEALER and REQ clients.

    Args:
        endpoint: ``tcp://HOST:PORT`` or ``ipc://PATH``; port ``*`` lets the system choose.
        methods: What may be called; read at every request, so it may grow later.
        slow: Names of those that take long.
        keys: Encrypt, and answer only clients with the right to control; None: everybody.
        insecure: Allow addresses that other machines can reach, without keys.
        ipc_mode: Of the file of an ``ipc://`` endpoint.

    Raises:
        PublishError: The endpoint is malformed or refused (see also `start`).
    """

    def __init__(
        self,
        endpoint: str,
        methods: Mapping[str, Method],
        *,
        slow: Container[str] = (),
        keys: ServerKeys | None = None,
        insecure: bool = False,
        ipc_mode: int = IPC_MODE,
    ):
        super().__init__(
            "streamcls-control",
            endpoint,
            Right.CONTROL,
            keys=keys,
            insecure=insecure,
            ipc_mode=ipc_mode,
        )
        self._methods = methods
        self._slow = slow
        # Not of a pool: the interpreter would wait for it at its exit, while a model compiles.
        self._worker = threading.Thread(
            target=self._work, name="streamcls-control-slow", daemon=True
        )
        self._slow_requests: SimpleQueue[tuple[list[bytes], bytes] | None] = SimpleQueue()
        self._n_slow = 0
        self._late: deque[tuple[list[bytes], bytes | None]] = deque()

    def _open(self, context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
        socket = context.socket(zmq.ROUTER)
        socket.maxmsgsize = REQUEST_LIMIT_BYTES
        socket.rcvhwm = REQUESTS_QUEUED
        socket.sndhwm = REQUESTS_QUEUED
        return socket

    def _serve(self, socket: zmq.Socket[bytes]) -> None:
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(self._wakeup.fd, zmq.POLLIN)
        while not self._closing.is_set():
            poller.poll()
            self._wakeup.clear()
            self._send_late(socket)
            if not self._closing.is_set() and socket.poll(0):
                self._answer(socket)
        self._slow_requests.put(None)

    def _answer(self, socket: zmq.Socket[bytes]) -> None:
        frames = _receive(socket)
        if frames is None:
            return
        # A client whose key was removed keeps its connection, but not its say.
        if self._gate is not None and not self._gate.may(str(frames[-1].get("User-Id"))):
            return
        # Everything before the request is the way back: the identity, and the empty frame
        # that a REQ client adds.
        *envelope, request = (frame.bytes for frame in frames)
        if names_any(request, self._slow):
            self._carry_out_slowly(socket, envelope, request)
        else:
            self._reply(socket, envelope, answer(request, self._methods))

    def _carry_out_slowly(
        self, socket: zmq.Socket[bytes], envelope: list[bytes], request: bytes
    ) -> None:
        if self._n_slow >= SLOW_REQUESTS_LIMIT:
            self._reply(socket, envelope, refuse(request, "busy with others; try again later"))
            return
        if self._worker.ident is None:
            self._worker.start()
        self._n_slow += 1
        self._slow_requests.put((envelope, request))

    def _work(self) -> None:
        """Carry out slow requests one after the other, none any more once we close."""
        while (waiting := self._slow_requests.get()) is not None and not self._closing.is_set():
            envelope, request = waiting
            self._late.append((envelope, answer(request, self._methods)))
            self._wakeup.ring()

    def _send_late(self, socket: zmq.Socket[bytes]) -> None:
        while self._late:
            envelope, reply = self._late.popleft()
            self._n_slow -= 1
            self._reply(socket, envelope, reply)

    def _reply(self, socket: zmq.Socket[bytes], envelope: list[bytes], reply: bytes | None) -> None:
        if reply is not None:
            # Without ROUTER_MANDATORY a reply to a client that is gone or full is dropped.
            socket.send_multipart([*envelope, reply], flags=zmq.NOBLOCK)


def _receive(socket: zmq.Socket[bytes]) -> list[zmq.Frame] | None:
    """Return one message's frames; None when they are not a request (read to the end anyway)."""
    frames: list[zmq.Frame] = []
    more = True
    while more:
        frame = socket.recv(copy=False)  # a frame knows who sent it
        more = bool(socket.getsockopt(zmq.RCVMORE))
        if len(frames) <= ENVELOPE_LIMIT_FRAMES:
            frames.append(frame)
    if 2 <= len(frames) <= ENVELOPE_LIMIT_FRAMES:
        return frames
    log.debug("control request ignored: it has %d or more frames", len(frames))
    return None
