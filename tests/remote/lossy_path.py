"""A network between sender and daemon that loses, repeats and reorders what it is told to."""

import threading
from collections.abc import Callable
from typing import Self

import msgspec
import zmq

Frames = list[bytes]


class LossyPath:
    """Forwards one sender's messages to an ingest socket, audio as `treat` says.

    Args:
        daemon: Where the ingest socket is.
        treat: Called with the number of an audio packet and its frames; returns the messages to
            forward now, in order.
    """

    def __init__(self, daemon: str, treat: Callable[[int, Frames], list[Frames]]) -> None:
        self._treat = treat
        self._context = zmq.Context()
        self._front = self._context.socket(zmq.ROUTER)
        self._back = self._context.socket(zmq.DEALER)
        port = self._front.bind_to_random_port("tcp://127.0.0.1")
        self.endpoint = f"tcp://127.0.0.1:{port}"
        self._back.connect(daemon)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()
        self._context.destroy(linger=0)

    def _run(self) -> None:
        sender = b""
        while not self._stop.is_set():
            if self._front.poll(5):
                sender, *frames = self._front.recv_multipart()
                header = msgspec.msgpack.decode(frames[0])
                is_audio = header["type"] == "audio"
                for message in self._treat(header["seq"], frames) if is_audio else [frames]:
                    self._back.send_multipart(message)
            while self._back.poll(0):
                self._front.send_multipart([sender, *self._back.recv_multipart()])
