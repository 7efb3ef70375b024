"""How every client socket connects: for ever, quickly again, and noticing hosts that are gone."""

from typing import Any

import zmq

from streamcls.errors import PublishError
from streamcls.publish.auth import secure_client
from streamcls.publish.keys import ClientKeys


def connect(socket: zmq.Socket[Any], endpoint: str, keys: ClientKeys | None = None) -> None:
    """Connect ``socket`` in the background, encrypted when there are keys.

    Raises:
        PublishError: The endpoint is not possible.
    """
    socket.linger = 0
    socket.reconnect_ivl = 100
    socket.reconnect_ivl_max = 2000
    # Notices a daemon's host that went away. Not ZMTP heartbeats: with them on either side
    # libzmq 4.3.5 aborts the process of a subscriber that stalls on a full queue.
    socket.tcp_keepalive = 1
    socket.tcp_keepalive_idle = 10
    socket.tcp_keepalive_intvl = 5
    socket.tcp_keepalive_cnt = 3
    if keys is not None:
        secure_client(socket, keys)
    if endpoint.startswith("tcp://["):
        socket.ipv6 = True
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        raise PublishError(
            f"endpoint {endpoint!r} is not an address to connect to ({error.strerror}): "
            "use tcp://HOST:PORT, such as tcp://127.0.0.1:5570, or ipc:///PATH"
        ) from error
