"""How every client socket connects: for ever, quickly again, and noticing hosts that are gone."""

from typing import Any

import zmq

from streamcls.publish.auth import secure_client
from streamcls.publish.endpoint import connect_to, keep_alive
from streamcls.publish.keys import ClientKeys


def connect(socket: zmq.Socket[Any], endpoint: str, keys: ClientKeys | None = None) -> None:
    """Connect ``socket`` in the background, encrypted when there are keys.

    Raises:
        PublishError: The endpoint is not possible.
    """
    socket.linger = 0
    socket.reconnect_ivl = 100
    socket.reconnect_ivl_max = 2000
    keep_alive(socket)
    if keys is not None:
        secure_client(socket, keys)
    connect_to(socket, endpoint)
