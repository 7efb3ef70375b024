"""What subscribers ask of an XPUB socket; in the thread that owns the socket.

libzmq keeps every topic that anybody has subscribed to, however many one client makes up, at about
fifty bytes of memory for each byte of the topic: 100,000 long ones were measured to cost the
daemon 4 GB. It cannot be told a limit, nor to drop one peer. So they are counted here, and when
they are too many the socket has to be made anew.
"""

import time
from collections import Counter
from typing import Any

import zmq

LIMIT_BYTES = 256 * 1024
"""Of all different topics together: thousands of them, and 12 MB inside libzmq."""
LATELY_S = 10.0
FRAMES_PER_PASS = 256
ANSWER_INTERVAL_S = 0.05
"""Last values go to all who match, so whoever subscribes again and again must not set the pace."""
PREFIXES_HELD = 256


class Subscriptions:
    """Counts the topics subscribed to on one socket, and holds new ones until they are due.

    Args:
        socket: An XPUB socket; made to report all subscribing.
    """

    def __init__(self, socket: zmq.Socket[Any]):
        # Also what others have already: the new subscriber wants the last values. But of
        # unsubscribing only the last one of a topic, when libzmq forgets it: so does `_topics`.
        socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        self._socket = socket
        self._topics: set[bytes] = set()
        self._topics_bytes = 0
        self._lately_bytes: Counter[str] = Counter()  # subscribed, by user id
        self._lately_until_s = 0.0
        self._new: set[bytes] = set()
        self._due_s = 0.0

    @property
    def flooded(self) -> bool:
        """Whether there are more than the socket may keep."""
        return self._topics_bytes > LIMIT_BYTES

    @property
    def busiest_user_id(self) -> str:
        """Who has subscribed the most in the last seconds; empty without keys."""
        return max(self._lately_bytes, key=self._lately_bytes.__getitem__, default="")

    def take(self) -> None:
        """Take in what subscribers sent, a bounded part of it."""
        now_s = time.monotonic()
        if now_s >= self._lately_until_s:
            self._lately_bytes.clear()
            self._lately_until_s = now_s + LATELY_S
        for _ in range(FRAMES_PER_PASS):
            if not self._socket.poll(0):
                return
            frame = self._socket.recv(zmq.NOBLOCK, copy=False)
            message, topic = frame.bytes, frame.bytes[1:]
            # Anything else is no subscription, and libzmq keeps nothing of it.
            if message[:1] == b"\x01":
                if topic not in self._topics:
                    self._topics.add(topic)
                    self._topics_bytes += len(topic)
                    self._lately_bytes[_user_id(frame)] += len(topic)
                self._new.add(topic)
                if len(self._new) > PREFIXES_HELD:
                    self._new = {b""}  # everything, rather than a longer and longer list
            elif message[:1] == b"\x00" and topic in self._topics:
                # Also when a subscriber is gone, for each topic that nobody else has.
                self._topics.remove(topic)
                self._topics_bytes -= len(topic)

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
