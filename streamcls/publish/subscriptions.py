"""What subscribers ask of an XPUB socket, a daemon's or a relay's; in the thread that owns it.

libzmq keeps every topic that anybody has subscribed to, however many one client makes up, at about
fifty bytes of memory for each byte of the topic: 100,000 long ones were measured to cost the
daemon 4 GB. It cannot be told a limit, nor to drop one peer. So they are counted here, and when
they are too many the socket has to be made anew.
"""

import logging
import time
from collections import Counter
from typing import Any

import zmq

from streamcls.publish.auth import Gate

LIMIT_BYTES = 256 * 1024
"""Of all different topics together: thousands of them, and 12 MB inside libzmq."""
LATELY_S = 10.0
FRAMES_PER_PASS = 256
ANSWER_INTERVAL_S = 0.05
"""Last values go to all who match, so whoever subscribes again and again must not set the pace."""
PREFIXES_HELD = 256

log = logging.getLogger(__name__)


class Subscriptions:
    """Counts the topics subscribed to on one socket, and holds new ones until they are due.

    Args:
        socket: An XPUB socket; made to report all subscribing.
        limit_bytes: See `flooded`.

    Attributes:
        ignored: Messages that were no subscriptions.
    """

    def __init__(self, socket: zmq.Socket[Any], limit_bytes: int = LIMIT_BYTES):
        # Also what others have already: the new subscriber wants the last values. But of
        # unsubscribing only the last one of a topic, when libzmq forgets it: so does `_topics`.
        socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        self._socket = socket
        self._limit_bytes = limit_bytes
        self.ignored = 0
        self._inside_message = False
        self._topics: set[bytes] = set()
        self._topics_bytes = 0
        self._lately_bytes: Counter[str] = Counter()  # subscribed, by user id
        self._lately_until_s = 0.0
        self._new: set[bytes] = set()
        self._due_s = 0.0

    @property
    def flooded(self) -> bool:
        """Whether there are more than the socket may keep."""
        return self._topics_bytes > self._limit_bytes

    def end_flood(self, gate: Gate | None) -> None:
        """Say who has subscribed the most in the last seconds, and lock them out for a while.

        Only with keys it is known who that is. Then let the socket be made anew.
        """
        culprit = max(self._lately_bytes, key=self._lately_bytes.__getitem__, default="")
        log.error(
            "more than %d bytes of topics are subscribed to, most of them by %s: "
            "all subscribers are disconnected, and come back by themselves",
            self._limit_bytes,
            culprit or "an unknown client",
        )
        if culprit and gate is not None:
            gate.shut_out(culprit)

    def take(self) -> list[bytes]:
        """Take in what subscribers sent, a bounded part of it.

        Returns:
            What of it subscribes or unsubscribes, in order.
        """
        now_s = time.monotonic()
        if now_s >= self._lately_until_s:
            self._lately_bytes.clear()
            self._lately_until_s = now_s + LATELY_S
        taken: list[bytes] = []
        for _ in range(FRAMES_PER_PASS):
            if not self._socket.poll(0):
                break
            frame = self._socket.recv(zmq.NOBLOCK, copy=False)
            message, more = frame.bytes, bool(self._socket.getsockopt(zmq.RCVMORE))
            is_alone = not (more or self._inside_message)
            self._inside_message = more
            # Anything else is no subscription, and libzmq keeps nothing of it.
            if is_alone and message[:1] in (b"\x00", b"\x01"):
                self._note(frame, message[1:], message[:1] == b"\x01")
                taken.append(message)
            elif not more:
                self.ignored += 1
        return taken

    def _note(self, frame: zmq.Frame, topic: bytes, subscribes: bool) -> None:
        if subscribes:
            if topic not in self._topics:
                self._topics.add(topic)
                self._topics_bytes += len(topic)
                self._lately_bytes[_user_id(frame)] += len(topic)
            self._new.add(topic)
            if len(self._new) > PREFIXES_HELD:
                self._new = {b""}  # everything, rather than a longer and longer list
        elif topic in self._topics:
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
