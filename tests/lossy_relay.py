"""A relay between daemon and subscribers that loses chosen messages, to force gaps."""

import threading
from collections.abc import Callable
from typing import Self

import zmq

from streamcls.publish.schema import Message, decode


class LossyRelay:
    """Forwards from a publisher to its own endpoint, except for what ``loses`` picks.

    Args:
        upstream: Endpoint of the publisher.
        loses: Tells for each message whether it gets lost.
    """

    def __init__(self, upstream: str, loses: Callable[[Message], bool]):
        self._loses = loses
        self._context = zmq.Context()
        self._from = self._context.socket(zmq.SUB)
        self._from.rcvhwm = 0
        self._from.subscribe(b"")
        self._from.connect(upstream)
        self._to = self._context.socket(zmq.PUB)
        self._to.sndhwm = 0
        self._to.bind("tcp://127.0.0.1:*")
        self.endpoint = self._to.get_string(zmq.LAST_ENDPOINT)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._forward)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._context.destroy(linger=0)

    def _forward(self) -> None:
        while not self._stopping.is_set():
            if self._from.poll(20):
                frames = self._from.recv_multipart()
                if not self._loses(decode(frames[-1])):
                    self._to.send_multipart(frames)
