"""Why nothing is heard from a daemon: one more connection, watched step by step.

Not on the way of any message; `streamcls listen` asks when a daemon stays silent.
"""

import math
import time

import zmq
from zmq.utils.monitor import recv_monitor_message

from streamcls.client.connection import connect
from streamcls.publish.keys import ClientKeys

_MONITORED = (
    zmq.EVENT_CONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)


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
        seen = 0
        give_up_at_s = time.monotonic() + timeout_s
        while (left_s := give_up_at_s - time.monotonic()) > 0:
            if not monitor.poll(math.ceil(left_s * 1000)):
                break
            event = recv_monitor_message(monitor)["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                return "it lets us in, but publishes nothing"
            seen |= event
            # The one clear answer. When the daemon hangs up first, the socket tries again.
            if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                break
    finally:
        context.destroy(linger=0)
    if not seen:
        return "is the daemon running there?"
    mismatch = bool(seen & zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
    if keys is None:
        doubt = "" if mismatch else ", or is no streamcls daemon"
        return f"it asks for keys (give --client-key and --server-key){doubt}"
    if mismatch:
        return "it has no keys (leave out --client-key and --server-key)"
    return (
        "it does not let us in: its clients folder lacks our key or the right to listen, or the "
        "--server-key is another daemon's; its log says which"
    )
