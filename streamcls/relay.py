"""The relay: one endpoint for a fleet; XSUB towards the daemons, XPUB towards the subscribers.

A process of its own beside the daemon's flow. It forwards messages as they are, and subscriptions
the other way, the repeated ones too: so every new subscriber gets its last values, from the
daemons themselves. Nothing is kept but libzmq's queues, whose length is limited in both
directions. For a subscriber that does not keep up XPUB drops messages, of nobody else; as each
message has its daemon's run and number, the subscriber can tell what it missed.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Collection
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from streamcls.errors import PublishError
from streamcls.publish.auth import secure_client
from streamcls.publish.endpoint import IPC_MODE, connect_to, keep_alive
from streamcls.publish.key_files import Right
from streamcls.publish.keys import ClientKeys, ServerKeys
from streamcls.publish.schema import MESSAGE_LIMIT_BYTES
from streamcls.publish.service import SocketService
from streamcls.publish.subscriptions import LIMIT_BYTES, Subscriptions
from streamcls.signals import stop_on_signals

SEND_QUEUE_MESSAGES = 256
"""Per subscriber, as in a daemon."""
SEND_BUFFER_BYTES = 64 * 1024
RECEIVE_QUEUE_MESSAGES = 1000
"""Per daemon."""
SUBSCRIPTION_LIMIT_BYTES = 1024
SUBSCRIBED_LIMIT_BYTES = LIMIT_BYTES // 2
"""Of all different topics together. Half of what a daemon keeps: past its limit it would disconnect
us and all others, and again whenever we come back with the same."""
MESSAGES_PER_PASS = 256
REPORT_INTERVAL_S = 60.0
_WATCH_PERIOD_S = 1.0

log = logging.getLogger(__name__)


class Relay(SocketService):
    """Forwards what daemons publish to subscribers; a context manager.

    Args:
        front: ``tcp://HOST:PORT`` or ``ipc://PATH`` where subscribers connect.
        backs: Where the daemons publish; they may come and go.
        keys: Encrypt the front and let in only clients with the right to listen.
        back_keys: By daemon endpoint, what encrypts the connection to it.
        insecure: Allow a front that other machines can reach without keys.
        ipc_mode: Of the file of an ``ipc://`` front.

    Attributes:
        forwarded: Messages passed on towards the subscribers.
        ignored: Messages in either direction that are none of the protocol.

    Raises:
        PublishError: An endpoint is malformed or refused (see also `start`).
    """

    def __init__(
        self,
        front: str,
        backs: Collection[str],
        *,
        keys: ServerKeys | None = None,
        back_keys: ClientKeys | dict[str, ClientKeys] | None = None,
        insecure: bool = False,
        ipc_mode: int = IPC_MODE,
    ):
        if front in backs:
            raise PublishError(f"the relay cannot listen to itself: {front!r} is front and back")
        self._backs = tuple(dict.fromkeys(backs))
        self._back_keys = back_keys
        self.forwarded = 0
        self.ignored = 0
        self._connected: dict[str, bool] = dict.fromkeys(self._backs, False)
        # Connected once before it is used, to find what is no address while errors can be told.
        with zmq.Context() as context:
            for back in self._backs:
                with self._make_back(context, back) as socket:
                    connect_to(socket, back)
        super().__init__(
            "streamcls-relay",
            front,
            Right.LISTEN,
            keys=keys,
            insecure=insecure,
            ipc_mode=ipc_mode,
        )

    def connected(self) -> dict[str, bool]:
        """Return daemon endpoint -> whether it is connected now."""
        return dict(self._connected)

    def _open(self, context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
        front = context.socket(zmq.XPUB)
        front.sndhwm = SEND_QUEUE_MESSAGES
        front.sndbuf = SEND_BUFFER_BYTES
        front.maxmsgsize = SUBSCRIPTION_LIMIT_BYTES
        return front

    def _serve(self, socket: zmq.Socket[bytes]) -> None:
        subscriptions = Subscriptions(socket, SUBSCRIBED_LIMIT_BYTES)
        self._connected = dict.fromkeys(self._backs, False)  # anew after a flood
        with contextlib.ExitStack() as stack:
            # One socket a daemon: keys differ, and a flood from one must not starve another.
            backs: dict[Any, str] = {}
            monitors: dict[Any, str] = {}
            for endpoint in self._backs:
                back = stack.enter_context(self._make_back(socket.context, endpoint))
                monitor = back.get_monitor_socket(
                    zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
                )
                stack.callback(back.disable_monitor)
                stack.callback(monitor.close, 0)
                connect_to(back, endpoint)  # after the monitor, which would miss it
                backs[back], monitors[monitor] = endpoint, endpoint
            self._forward(socket, subscriptions, backs, monitors)

    def _forward(
        self,
        front: zmq.Socket[bytes],
        subscriptions: Subscriptions,
        backs: dict[Any, str],
        monitors: dict[Any, str],
    ) -> None:
        poller = zmq.Poller()
        for waited in (front, *backs, *monitors, self._wakeup.fd):
            poller.register(waited, zmq.POLLIN)
        report_due_s = time.monotonic() + REPORT_INTERVAL_S
        while not self._closing.is_set():
            ready = dict(poller.poll(1000))
            for back in backs:
                if back in ready:
                    self._pass_messages(back, front)
            if front in ready:
                self._pass_subscriptions(subscriptions, backs)
            if subscriptions.flooded:
                subscriptions.end_flood(self._gate)
                return
            for monitor, endpoint in monitors.items():
                if monitor in ready:
                    self._note(endpoint, recv_monitor_message(monitor)["event"])
            if time.monotonic() >= report_due_s:
                report_due_s += REPORT_INTERVAL_S
                up = sum(self._connected.values())
                log.info("%d of %d daemons, %d messages", up, len(self._backs), self.forwarded)

    def _pass_messages(self, back: zmq.Socket[Any], front: zmq.Socket[Any]) -> None:
        for _ in range(MESSAGES_PER_PASS):
            if not back.poll(0):
                return
            frames = back.recv_multipart(copy=False)
            if len(frames) != 2:
                self.ignored += 1
                continue
            # Never blocks: for a subscriber at its high-water mark XPUB drops the message.
            front.send_multipart(frames, flags=zmq.NOBLOCK, copy=False)
            self.forwarded += 1

    def _pass_subscriptions(self, subscriptions: Subscriptions, backs: dict[Any, str]) -> None:
        ignored = subscriptions.ignored
        taken = subscriptions.take()
        # XPUB hands over whatever a subscriber sends; only subscriptions are the daemons'.
        self.ignored += subscriptions.ignored - ignored
        if subscriptions.flooded:
            return
        for message in taken:
            for back in backs:
                back.send(message, flags=zmq.NOBLOCK)

    def _note(self, endpoint: str, event: int) -> None:
        up = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
        if up != self._connected[endpoint]:
            self._connected[endpoint] = up
            log.log(
                logging.INFO if up else logging.WARNING,
                "%s the daemon at %s",
                "connected to" if up else "lost",
                endpoint,
            )

    def _make_back(self, context: zmq.Context[Any], endpoint: str) -> zmq.Socket[Any]:
        back = context.socket(zmq.XSUB)
        back.linger = 0
        back.rcvhwm = RECEIVE_QUEUE_MESSAGES
        back.maxmsgsize = MESSAGE_LIMIT_BYTES
        back.reconnect_ivl = 100
        back.reconnect_ivl_max = 2000
        keep_alive(back)
        keys = self._back_keys
        if isinstance(keys, dict):
            keys = keys.get(endpoint)
        if keys is not None:
            secure_client(back, keys)
        return back


def run_relay(relay: Relay) -> int:
    """Forward until interrupted; return exit status 0.

    Raises:
        PublishError: The front cannot be bound, or the thread that serves it died.
    """
    stopping = threading.Event()
    with stop_on_signals(stopping.set), relay:
        log.info("relaying on %s for %d daemons", relay.endpoint, len(relay.connected()))
        while not stopping.wait(_WATCH_PERIOD_S):
            if not relay.alive:
                raise PublishError(f"the socket {relay.endpoint} has died, see the log above")
    return 0
