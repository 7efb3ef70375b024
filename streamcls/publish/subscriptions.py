"""What subscribers ask of an XPUB socket; in the thread that owns the socket.

libzmq keeps every subscription of every subscriber, however many one of them makes, at about
fifty bytes of memory for each byte of the topic: 100,000 long ones were measured to cost the
daemon 4 GB. It cannot be told a limit, nor to drop one peer. So they are counted here, and when
they are too many the socket has to be made anew.
"""

import time
from collections import Counter
from typing import Any

import zmq

LIVE_LIMIT_BYTES = 256 * 1024
"""Of all subscriptions together: thousands of subscribers, or 12 MB inside libzmq."""
FRAMES_PER_PASS = 256
ANSWER_INTERVAL_S = 0.05
"""Last values go to all who match, so whoever subscribes again and again must not set the pace."""
PREFIXES_HELD = 256


class Subscriptions:
    """Counts the subscriptions of one socket and remembers the new ones until they are due.

    Args:
        socket: An XPUB socket; made to report all subscribing and unsubscribing.
    """

    def __init__(self, socket: zmq.Socket[Any]):
        # Also what others have already: the new subscriber wants the last values.
        socket.setsockopt(zmq.XPUB_VERBOSER, 1)
        self._socket = socket
        self._live_bytes: Counter[str] = Counter()  # by user id; one for all without keys
        self._new: set[bytes] = set()
        self._due_s = 0.0

    @property
    def flooded(self) -> bool:
        """Whether there are more than the socket may keep."""
        return self._live_bytes.total() > LIVE_LIMIT_BYTES

    @property
    def largest_user_id(self) -> str:
        """Who has the most; empty without keys."""
        return max(self._live_bytes, key=self._live_bytes.__getitem__, default="")

    def take(self) -> None:
        """Take in what subscribers sent, a bounded part of it."""
        for _ in range(FRAMES_PER_PASS):
            if not self._socket.poll(0):
                return
            frame = self._socket.recv(zmq.NOBLOCK, copy=False)
            message, user_id = frame.bytes, _user_id(frame)
            # Anything else is no subscription, and libzmq keeps nothing of it.
            if message[:1] == b"\x01":
                self._live_bytes[user_id] += len(message)
                # More than that: everything, rather than a longer and longer list.
                self._new = self._new | {message[1:]} if len(self._new) < PREFIXES_HELD else {b""}
            elif message[:1] == b"\x00":
                self._live_bytes[user_id] -= len(message)
                if self._live_bytes[user_id] <= 0:
                    del self._live_bytes[user_id]

    def wait_s(self) -> float | None:
        """Return how long until `take_due` returns something; None when there is nothing."""
        return max(0.0, self._due_s - time.monotonic()) if self._new else None

    def take_due(self) -> tuple[bytes, ...]:
        """Return the prefixes subscribed to lately, if it is time to answer them."""
        if self.wait_s() != 0.0:
            return ()
        self._due_s = time.monotonic() + ANSWER_INTERVAL_S
        due, self._new = tuple(self._new), set()
        return due


def _user_id(frame: zmq.Frame) -> str:
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:  # none, without keys
        return ""
