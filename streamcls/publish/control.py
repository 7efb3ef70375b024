"""The control socket: JSON-RPC 2.0 requests on a ROUTER, answered in its own thread.

The daemon registers what may be called as a mapping name -> method. Methods run in the
control thread, one at a time, so they must be quick and thread-safe towards the stages.
"""

import logging
from collections.abc import Mapping

import zmq

from streamcls.publish.endpoint import IPC_MODE
from streamcls.publish.key_files import Right
from streamcls.publish.keys import ServerKeys
from streamcls.publish.rpc import Method, answer
from streamcls.publish.service import SocketService

REQUEST_LIMIT_BYTES = 64 * 1024
"""libzmq disconnects a client whose frame is larger."""
ENVELOPE_LIMIT_FRAMES = 8
REQUESTS_QUEUED = 16
"""Per client, in each direction; replies to a client that does not read are dropped."""

log = logging.getLogger(__name__)


class ControlServer(SocketService):
    """Answers control requests of DEALER and REQ clients.

    Args:
        endpoint: ``tcp://HOST:PORT`` or ``ipc://PATH``; port ``*`` lets the system choose.
        methods: What may be called; read at every request, so it may grow later.
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
            if not self._closing.is_set() and socket.poll(0):
                self._answer(socket)

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
        reply = answer(request, self._methods)
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
