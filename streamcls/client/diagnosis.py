"""Why nothing is heard from a daemon: one more connection, watched step by step.

Not on the way of any message; `streamcls listen` asks when a daemon stays silent.
"""

import math
import time

import zmq
from zmq.utils.monitor import recv_monitor_message

from streamcls.client.connection import connect
from streamcls.publish.keys import ClientKeys

_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)
_MONITORED = zmq.EVENT_CONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | _FAILED


def find_obstacle(endpoint: str, keys: ClientKeys | None, timeout_s: float = 1.0) -> str:
    """Return in a few words what keeps a subscriber from hearing the daemon at ``endpoint``.

    Raises:
        PublishError: The endpoint is not possible.
    """
    context = zmq.Context()
    try:
        socket = context.socket(zmq.SUB)
        monitor = socket.get_monitor_socket(_MONITORED)
        connect(socket, endpoint, keys)
        connected = False
        give_up_at_s = time.monotonic() + timeout_s
        while (left_s := give_up_at_s - time.monotonic()) > 0:
            if not monitor.poll(math.ceil(left_s * 1000)):
                break
            event = recv_monitor_message(monitor)["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                return "it lets us in, but publishes nothing"
            if event & _FAILED:
                return _explain(keys, event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
            connected = True
    finally:
        context.destroy(linger=0)
    return _explain(keys, False) if connected else "is the daemon running there?"


def _explain(keys: ClientKeys | None, mismatch: bool) -> str:
    if keys is None:
        return (
            "it asks for keys (give --client-key and --server-key)"
            if mismatch
            else "what listens there does not speak ZeroMQ"
        )
    if mismatch:
        return "it has no keys (leave out --client-key and --server-key)"
    return (
        "it does not let us in: its clients folder lacks our key or the right to listen, or the "
        "--server-key is another daemon's; its log says which"
    )
