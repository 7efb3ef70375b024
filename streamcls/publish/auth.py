"""Who may connect: CURVE on a socket, and the gate that asks for each client's right.

libzmq does the cryptography and asks, over ZAP (RFC 27), whether a client's key is welcome. A
`Gate` answers in a thread of its own, so that a busy publisher or control method keeps nobody
waiting at the door; it counts whom it turned away, and says so without flooding the log.

Everything fails closed: a socket for which no gate answers lets nobody in.

Example:
    A listening socket, in the thread that owns it and before it binds::

        gate = Gate(ServerKeys.load("/etc/streamcls/keys"), Right.SEND)
        with gate.guard(socket):
            socket.bind("tcp://*:5572")
            ...

    And a client: ``secure_client(socket, ClientKeys.load("porch.key", "server.pub"))``.
"""

import contextlib
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from streamcls.publish.key_files import Right
from streamcls.publish.keys import ClientKeys, ServerKeys
from streamcls.publish.wakeup import Wakeup

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
HANDSHAKE_LIMIT_S = 5
"""A connection that was not let in by then is closed; also how long a refused client waits until
it tries again."""
LOG_INTERVAL_S = 10.0

NO_CURVE = "no CURVE (the client needs --client-key and --server-key)"
WRONG_SERVER_KEY = "wrong server key (the client needs this daemon's server.pub)"
UNKNOWN_KEY = "unknown client key"
SHUT_OUT = "shut out for a while for flooding"
SHUT_OUT_S = 60.0
INCOMPLETE = "handshake not completed (a client without keys, or no ZeroMQ)"

_MONITORED = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
# What libzmq calls the two failures that a wrong set-up makes, seen from the server.
_PROTOCOL_REASONS = {
    zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH: NO_CURVE,
    zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC: WRONG_SERVER_KEY,
}

log = logging.getLogger(__name__)


def secure_server(socket: zmq.Socket[Any], keys: ServerKeys, right: Right) -> None:
    """Encrypt a listening socket and demand a `Gate`; before it binds."""
    socket.curve_server = True
    socket.curve_secretkey = keys.pair.secret
    socket.zap_domain = right.encode()
    # Without this libzmq lets everybody in when nobody answers for the domain.
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    socket.handshake_ivl = HANDSHAKE_LIMIT_S * 1000


def secure_client(socket: zmq.Socket[Any], keys: ClientKeys) -> None:
    """Encrypt a connecting socket; before it connects."""
    socket.curve_serverkey = keys.server_public
    socket.curve_publickey = keys.pair.public
    socket.curve_secretkey = keys.pair.secret


class Refusals:
    """Counts who was turned away and why, and says it at most once in `LOG_INTERVAL_S`.

    Args:
        what: Names the socket in the log.
    """

    def __init__(self, what: str):
        self._what = what
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._unsaid = 0
        self._last = ""
        self._say_at_s = -math.inf

    def counts(self) -> dict[str, int]:
        """Return reason -> how often, since the start."""
        with self._lock:
            return dict(self._counts)

    def add(self, reason: str, detail: str = "") -> None:
        """Count one refusal; the detail is for the log only, for there is no end of them."""
        with self._lock:
            self._counts[reason] += 1
        self._unsaid += 1
        self._last = f"{reason}: {detail}" if detail else reason
        self.say()

    def say(self) -> None:
        """Log what has not been said, when it is time."""
        now_s = time.monotonic()
        if self._unsaid and now_s >= self._say_at_s:
            log.warning(
                "%s: connections refused: %d; last: %s", self._what, self._unsaid, self._last
            )
            self._unsaid = 0
            self._say_at_s = now_s + LOG_INTERVAL_S

    def wait_s(self) -> float | None:
        """Return how long until `say` has something to say; None when there is nothing."""
        return max(0.0, self._say_at_s - time.monotonic()) if self._unsaid else None


class Gate:
    """Lets in the clients that hold ``right``, on one listening socket at a time.

    Args:
        keys: The daemon's keys and its clients.
        right: What a client needs.
    """

    def __init__(self, keys: ServerKeys, right: Right):
        self._keys = keys
        self._right = right
        self._refusals = Refusals(right)
        self._accepted = 0
        self._admitted = 0
        self._shut_out: dict[bytes, float] = {}  # user id -> until when

    def stats(self) -> dict[str, Any]:
        """Return connections accepted, clients admitted, and reason -> number refused.

        What is missing in the sum is still shaking hands, or spoke no ZeroMQ at all.
        """
        return {
            "accepted": self._accepted,
            "admitted": self._admitted,
            "refused": self._refusals.counts(),
        }

    def may(self, user_id: str) -> bool:
        """Whether a client that was let in still may; ``user_id`` is a message's ``User-Id``."""
        client = self._keys.allowed.find(user_id.encode())
        return client is not None and self._right in client.rights

    def shut_out(self, user_id: str) -> None:
        """Refuse the new connections of a client for `SHUT_OUT_S`; its key stays valid."""
        now_s = time.monotonic()
        self._shut_out = {key: until for key, until in self._shut_out.items() if until > now_s}
        self._shut_out[user_id.encode()] = now_s + SHUT_OUT_S

    @contextlib.contextmanager
    def guard(self, socket: zmq.Socket[Any]) -> Iterator[None]:
        """Stand in front of ``socket`` for the time of a ``with`` block.

        Enter it in the socket's own thread before the socket binds, leave it there before the
        socket closes. One gate per zmq context: ZAP has one address in it.
        """
        secure_server(socket, self._keys, self._right)
        zap = socket.context.socket(zmq.REP)
        zap.linger = 0
        zap.bind(ZAP_ENDPOINT)
        monitor = socket.get_monitor_socket(_MONITORED)
        closing, wakeup = threading.Event(), Wakeup()
        thread = threading.Thread(
            target=self._run,
            args=(zap, monitor, closing, wakeup),
            name=f"streamcls-gate-{self._right}",
            daemon=True,
        )
        thread.start()
        try:
            yield
        finally:
            closing.set()
            wakeup.ring()
            thread.join()
            socket.disable_monitor()
            monitor.close(linger=0)
            zap.close()
            wakeup.close()

    # -- the gate's thread --------------------------------------------------------------

    def _run(
        self,
        zap: zmq.Socket[bytes],
        monitor: zmq.Socket[bytes],
        closing: threading.Event,
        wakeup: Wakeup,
    ) -> None:
        poller = zmq.Poller()
        for waited in (zap, monitor, wakeup.fd):
            poller.register(waited, zmq.POLLIN)
        while not closing.is_set():
            wait_s = self._refusals.wait_s()
            ready = dict(poller.poll(None if wait_s is None else math.ceil(wait_s * 1000)))
            try:
                if zap in ready:
                    zap.send_multipart(self._reply(zap.recv_multipart()))
                if monitor in ready:
                    self._note(recv_monitor_message(monitor))
                self._refusals.say()
            except Exception:  # a bug in counting must not end the answers
                log.exception("the gate of %s failed on one connection", self._right)

    def _reply(self, request: list[bytes]) -> list[bytes]:
        """Return the ZAP reply (RFC 27); there must be one, or the door is shut for good."""
        try:
            reason, user_id = self._judge(request)
        except Exception:
            log.exception("the gate of %s failed on one request", self._right)
            reason, user_id = "internal error", b""
        # 300 closes the connection and lets the client try again later, so that a key that is
        # added now counts without a restart on either side; after 400 libzmq never retries.
        status = b"300" if reason else b"200"
        return [b"1.0", b"".join(request[1:2]), status, reason.encode(), user_id, b""]

    def _judge(self, request: list[bytes]) -> tuple[str, bytes]:
        """Return why a client is refused, empty if it is not, and by what name to know it."""
        _, _, domain, address, _, mechanism, *credentials = request
        key = b"" if not credentials or len(credentials[0]) != 32 else z85.encode(credentials[0])
        client = self._keys.allowed.find(key) if mechanism == b"CURVE" and key else None
        if client is None:
            self._refusals.add(UNKNOWN_KEY, f"{key.decode()} from {_text(address)}")
            return UNKNOWN_KEY, b""
        if self._right not in client.rights or domain != self._right.encode():
            reason = f"no right to {self._right}"
            self._refusals.add(reason, f"{client.name} from {_text(address)}")
            return reason, b""
        if time.monotonic() < self._shut_out.get(key, 0.0):
            self._refusals.add(SHUT_OUT, f"{client.name} from {_text(address)}")
            return SHUT_OUT, b""
        return "", key

    def _note(self, event: Mapping[str, Any]) -> None:
        match event["event"]:
            case zmq.EVENT_ACCEPTED:
                self._accepted += 1
            case zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._admitted += 1
            case zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                self._refusals.add(_PROTOCOL_REASONS.get(event["value"], "damaged handshake"))
            case zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
                self._refusals.add(INCOMPLETE)


def _text(address: bytes) -> str:
    # Empty for ipc.
    return address.decode("ascii", "replace") or "this machine"
