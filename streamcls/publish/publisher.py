"""The publisher: takes records from any thread, sends messages from its own.

Engine and capture threads call `publish_prediction` and `publish_health`; these number the
record, put it in a bounded queue and return. The publisher thread owns the XPUB socket: it
encodes, sends, beats once a second, and answers new subscriptions with the last value.

Two things can drop a message, and both show as a hole in `seq` at the subscriber: a full
queue (counted here, in `stats` and in every heartbeat) and a subscriber too slow for its
`SEND_QUEUE_MESSAGES` (libzmq drops for that subscriber only, and does not tell us).
"""

import logging
import math
import threading
import time
from collections import Counter, deque
from typing import Any, NamedTuple

import zmq

from streamcls.publish.endpoint import IPC_MODE
from streamcls.publish.keys import Right, ServerKeys
from streamcls.publish.messages import Vocabulary, health_message, prediction_message
from streamcls.publish.schema import (
    DataMessage,
    Encoding,
    HeartbeatMessage,
    check_stream_name,
    encode,
    message_topic,
    new_run_id,
    sequence_topic,
)
from streamcls.publish.service import SocketService
from streamcls.types import Health, Prediction

HEARTBEAT_INTERVAL_S = 1.0
SEND_QUEUE_MESSAGES = 1000
"""Per subscriber. A high-water mark counts messages, so this bounds memory only because
messages are small: about 0.5 MB for top-10 predictions."""
SEND_BUFFER_BYTES = 64 * 1024
"""Per subscriber. The kernel's default hides minutes of stale messages of a stalled reader."""
SUBSCRIPTION_LIMIT_BYTES = 1024
MESSAGES_PER_PASS = 256
"""Sent between two looks at heartbeat and subscriptions, so that a flood starves neither."""

log = logging.getLogger(__name__)


class Item(NamedTuple):
    """A record on its way to the publisher thread."""

    topic: str
    seq: int
    record: Prediction | Health
    vocabulary: Vocabulary


class Publisher(SocketService):
    """Sends predictions and health to every subscriber; all methods are thread-safe.

    Args:
        endpoint: ``tcp://HOST:PORT`` or ``ipc://PATH``; port ``*`` lets the system choose.
        vocabulary: Model name and labels of the predictions to come.
        encoding: ``json`` or ``msgpack``.
        top_k: Scores per prediction; 0 sends all.
        keys: Encrypt, and let in only clients with the right to listen; None: everybody.
        insecure: Allow addresses that other machines can reach, without keys.
        ipc_mode: Of the file of an ``ipc://`` endpoint.
        queue_messages: Bound of the queue between the callers and the publisher thread; when
            it is full the oldest message gives way.

    Raises:
        PublishError: The endpoint is malformed or refused (see also `start`).
    """

    def __init__(
        self,
        endpoint: str,
        vocabulary: Vocabulary,
        *,
        encoding: Encoding = "json",
        top_k: int = 10,
        keys: ServerKeys | None = None,
        insecure: bool = False,
        ipc_mode: int = IPC_MODE,
        queue_messages: int = 1024,
    ):
        super().__init__(
            "streamcls-publisher",
            endpoint,
            Right.LISTEN,
            keys=keys,
            insecure=insecure,
            ipc_mode=ipc_mode,
        )
        self.run = new_run_id()
        self._encoding: Encoding = encoding
        self._top_k = top_k
        self._queue_messages = queue_messages
        self._started_s = time.monotonic()

        # Shared between the callers and the publisher thread, under the lock.
        self._lock = threading.Lock()
        self._vocabulary = vocabulary
        self._queue: deque[Item] = deque()
        self._next_seq: dict[str, int] = {}
        self._dropped: Counter[str] = Counter()
        self._passed_seq: dict[str, int] = {}  # last one taken out of the queue
        self._last: dict[str, DataMessage] = {}

        # Of the publisher thread alone; `stats` reads the counter.
        self._sent = 0
        self._heartbeats = 0

    # -- any thread ---------------------------------------------------------------------

    def publish_prediction(self, prediction: Prediction) -> None:
        """Queue a prediction and return; its array must not change afterwards.

        Raises:
            PublishError: The stream's name is not allowed.
            ValueError: It has not one probability per label.
        """
        with self._lock:
            labels = self._vocabulary.labels
            if prediction.probabilities.shape != (len(labels),):
                raise ValueError(
                    f"stream {prediction.stream!r}: probabilities of shape "
                    f"{prediction.probabilities.shape} for {len(labels)} labels"
                )
            self._enqueue("prediction", prediction)

    def publish_health(self, health: Health) -> None:
        """Queue a health record and return.

        Raises:
            PublishError: The stream's name is not allowed.
        """
        with self._lock:
            self._enqueue("health", health)

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Change model name and labels for the predictions queued from now on."""
        with self._lock:
            self._vocabulary = vocabulary

    def snapshot(self) -> list[DataMessage]:
        """Return the last message sent of each stream and type, sorted by topic."""
        with self._lock:
            return [message for _, message in sorted(self._last.items())]

    def stats(self) -> dict[str, Any]:
        """Return counters since start, for status displays."""
        with self._lock:
            return {
                "endpoint": self.endpoint,
                "run": self.run,
                "uptime_s": round(time.monotonic() - self._started_s, 3),
                "sent": self._sent,
                "queued": len(self._queue),
                "dropped": dict(self._dropped),
            }

    def _enqueue(self, message_type: str, record: Prediction | Health) -> None:
        topic = sequence_topic(message_type, record.stream)
        seq = self._next_seq.get(topic)
        if seq is None:
            check_stream_name(record.stream)
            seq = 0
        # Numbered before it can be dropped: whatever is lost from here on leaves a hole.
        self._next_seq[topic] = seq + 1
        if self._closing.is_set():
            self._dropped[topic] += 1
            return
        if len(self._queue) >= self._queue_messages:
            self._drop_oldest()
        self._queue.append(Item(topic, seq, record, self._vocabulary))
        if len(self._queue) == 1:
            self._wakeup.ring()

    def _drop_oldest(self) -> None:
        self._dropped[self._take_oldest().topic] += 1

    def _take_oldest(self) -> Item:
        item = self._queue.popleft()
        self._passed_seq[item.topic] = item.seq
        return item

    # -- the publisher thread -----------------------------------------------------------

    def _open(self, context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
        socket = context.socket(zmq.XPUB)
        socket.sndhwm = SEND_QUEUE_MESSAGES
        socket.sndbuf = SEND_BUFFER_BYTES
        socket.maxmsgsize = SUBSCRIPTION_LIMIT_BYTES
        # Every subscription reaches us, also one that others have: it wants its last value.
        socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        # Finds hosts that went away. Not ZMTP heartbeats: with them on either side libzmq 4.3.5
        # aborts the process of a subscriber that stalls on a full queue.
        socket.tcp_keepalive = 1
        socket.tcp_keepalive_idle = 10
        socket.tcp_keepalive_intvl = 5
        socket.tcp_keepalive_cnt = 3
        return socket

    def _serve(self, socket: zmq.Socket[bytes]) -> None:
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(self._wakeup.fd, zmq.POLLIN)
        beat_at_s = time.monotonic()
        while not self._closing.is_set():
            wait_s = 0.0 if self._queue else max(0.0, beat_at_s - time.monotonic())
            poller.poll(math.ceil(wait_s * 1000))
            self._wakeup.clear()
            self._send_queued(socket)
            self._answer_subscriptions(socket)
            now_s = time.monotonic()
            if now_s >= beat_at_s:
                self._send_heartbeat(socket)
                beat_at_s += HEARTBEAT_INTERVAL_S
                if beat_at_s <= now_s:  # after a long pause (suspend) do not catch up
                    beat_at_s = now_s + HEARTBEAT_INTERVAL_S
        flush_until_s = time.monotonic() + self._deadline_s
        while self._queue and time.monotonic() < flush_until_s:
            self._send_queued(socket)
        with self._lock:
            while self._queue:
                self._drop_oldest()
        # The last word: with these numbers a subscriber knows that it has heard everything.
        self._send_heartbeat(socket)

    def _send_queued(self, socket: zmq.Socket[bytes]) -> None:
        for _ in range(MESSAGES_PER_PASS):
            with self._lock:
                if not self._queue:
                    return
                item = self._take_oldest()
            try:
                message = self._message(item)
            except ValueError as error:
                log.error("%s seq %d not published: %s", item.topic, item.seq, error)
                with self._lock:
                    self._dropped[item.topic] += 1
                continue
            with self._lock:
                self._last[item.topic] = message
            self._send(socket, message)

    def _message(self, item: Item) -> DataMessage:
        if isinstance(item.record, Prediction):
            return prediction_message(item.record, item.vocabulary, self._top_k, self.run, item.seq)
        return health_message(item.record, self.run, item.seq)

    def _send_heartbeat(self, socket: zmq.Socket[bytes]) -> None:
        with self._lock:
            # Not what is still queued: a subscriber compares this with what it has received.
            last_seq = dict(self._passed_seq)
            dropped = dict(self._dropped)
        heartbeat = HeartbeatMessage(
            run=self.run,
            stream="",
            seq=self._heartbeats,
            published_ns=time.time_ns(),
            interval_s=HEARTBEAT_INTERVAL_S,
            uptime_s=round(time.monotonic() - self._started_s, 3),
            last_seq=last_seq,
            dropped=dropped,
        )
        self._heartbeats += 1
        self._send(socket, heartbeat)

    def _answer_subscriptions(self, socket: zmq.Socket[bytes]) -> None:
        # All waiting subscriptions together: XPUB can only send to everyone who matches, so a
        # flood of subscriptions must not become a flood of last values.
        prefixes: set[bytes] = set()
        while len(prefixes) < MESSAGES_PER_PASS and socket.poll(0):
            frame = socket.recv(zmq.NOBLOCK)
            if frame[:1] == b"\x01":
                prefixes.add(frame[1:])
        if not prefixes:
            return
        for message in self.snapshot():
            if message_topic(message).encode().startswith(tuple(prefixes)):
                self._send(socket, message)

    def _send(self, socket: zmq.Socket[bytes], message: DataMessage | HeartbeatMessage) -> None:
        frames = [message_topic(message).encode(), encode(message, self._encoding)]
        # Never blocks: for a subscriber at its high-water mark XPUB drops the message.
        socket.send_multipart(frames, flags=zmq.NOBLOCK)
        self._sent += 1
