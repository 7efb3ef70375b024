"""The publisher: takes records from any thread, sends messages from its own.

The stages' threads call `publish_prediction`, `publish_event`, `publish_rejection` and
`publish_health`; these number the record, put it in a bounded queue (`outbox`) and return. The
publisher thread owns the XPUB socket: it encodes, sends, keeps what it sent (`journal`), beats once
a second, and answers new subscriptions with the last value.

Two things can drop a message, and both show as a hole in `seq` at the subscriber: a full
queue (counted here, in `stats` and in every heartbeat) and a subscriber too slow for its
`SEND_QUEUE_MESSAGES` (libzmq drops for that subscriber only, and does not tell us). What the
second one missed is in the journal: the control method ``replay`` brings it back.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import zmq

from streamcls.publish.endpoint import IPC_MODE
from streamcls.publish.history import replay, take_snapshot
from streamcls.publish.journal import Journal, JournalLimits
from streamcls.publish.key_files import Right
from streamcls.publish.keys import ServerKeys
from streamcls.publish.messages import Record, Vocabulary, wire_message
from streamcls.publish.methods import ReplayParams
from streamcls.publish.outbox import Item, Outbox
from streamcls.publish.schema import (
    DataMessage,
    Encoding,
    HeartbeatMessage,
    check_label,
    encode,
    message_topic,
    new_run_id,
)
from streamcls.publish.service import SocketService
from streamcls.publish.subscriptions import Subscriptions
from streamcls.types import Event, Health, Prediction, Rejection

HEARTBEAT_INTERVAL_S = 1.0
SEND_QUEUE_MESSAGES = 1000
"""Per subscriber. A high-water mark counts messages, so this bounds memory only because
messages are small: about 0.5 MB for top-10 predictions."""
SEND_BUFFER_BYTES = 64 * 1024
"""Per subscriber. The kernel's default hides minutes of stale messages of a stalled reader."""
SUBSCRIPTION_LIMIT_BYTES = 1024
MESSAGES_PER_PASS = 256
"""Sent between two looks at heartbeat and subscriptions, so that a flood starves neither."""

_NOBLOCK_MORE = zmq.NOBLOCK | zmq.SNDMORE  # joining two flags takes Python longer than sending
log = logging.getLogger(__name__)


class Publisher(SocketService):
    """Sends what the stages find to every subscriber; all methods are thread-safe.

    Args:
        endpoint: ``tcp://HOST:PORT`` or ``ipc://PATH``; port ``*`` lets the system choose.
        vocabulary: Model name and labels of the predictions to come.
        encoding: ``json`` or ``msgpack``.
        top_k: Scores per prediction; 0 sends all.
        keys: Encrypt, and let in only clients with the right to listen; None: everybody.
        insecure: Allow addresses that other machines can reach, without keys.
        ipc_mode: Of the file of an ``ipc://`` endpoint.
        queue_messages: Bound of the queue between the callers and the publisher thread; when
            it is full the oldest prediction gives way.
        send_queue_messages: Bound of the queue of each subscriber.
        journal: How much of what was sent is kept for ``replay``.

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
        send_queue_messages: int = SEND_QUEUE_MESSAGES,
        journal: JournalLimits | None = None,
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
        self._vocabulary = vocabulary
        self._reloads = (0, "")
        self._started_s = time.monotonic()
        self._outbox = Outbox(queue_messages)
        self._send_queue_messages = send_queue_messages
        self._journal = Journal(journal or JournalLimits())
        self._subscribed = threading.Event()
        self._retired_lock = threading.Lock()
        self._retired: set[str] = set()

        # Of the publisher thread alone; `stats` reads the counter.
        self._sent = 0
        self._heartbeats = 0

    # -- any thread ---------------------------------------------------------------------

    def publish_prediction(self, prediction: Prediction) -> None:
        """Queue one prediction; see `publish_predictions`."""
        self.publish_predictions((prediction,))

    def publish_predictions(self, predictions: Sequence[Prediction]) -> None:
        """Queue predictions and return; their arrays must not change afterwards.

        Raises:
            PublishError: The name of a stream is not allowed.
            ValueError: One has not one probability per label.
        """
        vocabulary = self._vocabulary
        shape = (len(vocabulary.labels),)
        for prediction in predictions:
            if prediction.probabilities.shape != shape:
                raise ValueError(
                    f"stream {prediction.stream!r}: probabilities of shape "
                    f"{prediction.probabilities.shape} for {shape[0]} labels"
                )
        self._enqueue("prediction", predictions, vocabulary)

    def publish_event(self, event: Event) -> None:
        """Queue an event record and return.

        Raises:
            PublishError: The stream's name or the label is not allowed.
        """
        check_label(event.label)
        self._enqueue("event", (event,), self._vocabulary)

    def publish_rejection(self, rejection: Rejection) -> None:
        """Queue a detection that was held back and return; sent to those who subscribe to it.

        Raises:
            PublishError: The stream's name or the label is not allowed.
        """
        check_label(rejection.label)
        self._enqueue("rejected", (rejection,), self._vocabulary)

    def publish_health(self, health: Health) -> None:
        """Queue a health record and return.

        Raises:
            PublishError: The stream's name is not allowed.
        """
        self._enqueue("health", (health,), self._vocabulary)

    def wait_for_subscriber(self, timeout_s: float) -> bool:
        """Wait until somebody has subscribed to something; return whether one has."""
        return self._subscribed.wait(timeout_s)

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Change model name and labels for the predictions queued from now on."""
        self._vocabulary = vocabulary

    def set_top_k(self, top_k: int) -> None:
        """Change how many scores the predictions encoded from now on have; 0 sends all."""
        self._top_k = top_k

    def tell_reload(self, done: int, error: str) -> None:
        """Say in every heartbeat how many reloads there were, and why the last one failed."""
        self._reloads = (done, error)

    def admit_stream(self, stream: str) -> None:
        """Make sure that what a stream will say can be numbered, before it says anything.

        Raises:
            PublishError: Its name is not allowed, or there were too many.
        """
        self._outbox.admit(stream)

    def retire_stream(self, stream: str) -> None:
        """Forget last values and journal of a removed stream, once what it queued is sent.

        That takes a second or two. Its numbers are remembered, so that they go on if a stream of
        that name comes back.
        """
        with self._retired_lock:
            self._retired.add(stream)

    def snapshot(self) -> list[DataMessage]:
        """Return the last message of each sequence and of each open event, sorted by topic."""
        return take_snapshot(self._journal)

    def replay(self, params: ReplayParams) -> dict[str, Any]:
        """Return one page of what was sent lately; see `history.replay`."""
        return replay(self._journal, params, self.run, self._encoding)

    def methods(self) -> dict[str, Callable[[Any], Any]]:
        """Return the control methods that the publisher answers, for a `MethodTable`."""
        return {"snapshot": lambda _: self.snapshot(), "replay": self.replay}

    def stats(self) -> dict[str, Any]:
        """Return counters since start, for status displays."""
        return {
            "endpoint": self.endpoint,
            "run": self.run,
            "uptime_s": round(time.monotonic() - self._started_s, 3),
            "sent": self._sent,
            "queued": len(self._outbox),
            "dropped": self._outbox.dropped(),
            "journal_bytes": self._journal.size_bytes,
        }

    def _enqueue(
        self, message_type: str, records: Sequence[Record], vocabulary: Vocabulary
    ) -> None:
        if self._retired:
            with self._retired_lock:
                self._retired.difference_update(record.stream for record in records)
        if self._outbox.put(message_type, records, vocabulary):
            self._wakeup.ring()

    # -- the publisher thread -----------------------------------------------------------

    def _open(self, context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
        socket = context.socket(zmq.XPUB)
        socket.sndhwm = self._send_queue_messages
        socket.sndbuf = SEND_BUFFER_BYTES
        socket.maxmsgsize = SUBSCRIPTION_LIMIT_BYTES
        return socket

    def _serve(self, socket: zmq.Socket[bytes]) -> None:
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(self._wakeup.fd, zmq.POLLIN)
        subscriptions = Subscriptions(socket)
        beat_at_s = time.monotonic()
        while not self._closing.is_set():
            wait_s = 0.0 if self._outbox else max(0.0, beat_at_s - time.monotonic())
            answer_wait_s = subscriptions.wait_s()
            if answer_wait_s is not None:
                wait_s = min(wait_s, answer_wait_s)
            ready = dict(poller.poll(math.ceil(wait_s * 1000)))
            if self._wakeup.fd in ready:
                self._wakeup.clear()
            self._send_queued(socket)
            if socket in ready:
                subscriptions.take()
            if subscriptions.flooded:
                subscriptions.end_flood(self._gate)
                return
            self._answer_subscriptions(socket, subscriptions.take_due())
            now_s = time.monotonic()
            if now_s >= beat_at_s:
                self._send_heartbeat(socket)
                self._tidy()
                beat_at_s += HEARTBEAT_INTERVAL_S
                if beat_at_s <= now_s:  # after a long pause (suspend) do not catch up
                    beat_at_s = now_s + HEARTBEAT_INTERVAL_S
        flush_until_s = time.monotonic() + self._deadline_s
        while self._outbox and time.monotonic() < flush_until_s:
            self._send_queued(socket)
        self._outbox.close()
        # The last word: with these numbers a subscriber knows that it has heard everything.
        self._send_heartbeat(socket)

    def _send_queued(self, socket: zmq.Socket[bytes]) -> None:
        for _ in range(MESSAGES_PER_PASS):
            item = self._outbox.take()
            if item is None:
                return
            try:
                self._send_item(socket, item)
            except ValueError as error:
                log.error("%s seq %d not published: %s", item.sequence, item.seq, error)
                self._outbox.count_drop(item)

    def _send_item(self, socket: zmq.Socket[bytes], item: Item) -> None:
        message = wire_message(item.record, item.vocabulary, self._top_k, self.run, item.seq)
        topic, payload = message_topic(message).encode(), encode(message, self._encoding)
        # Kept first: who learns of a number can ask for it.
        self._journal.record(message, topic, payload)
        self._send(socket, topic, payload)

    def _tidy(self) -> None:
        with self._retired_lock:
            # What still waits would come into the journal after it was forgotten, and stay there.
            passed = {stream for stream in self._retired if self._outbox.has_passed(stream)}
            self._retired -= passed
        for stream in passed:
            self._journal.forget(stream)
        self._journal.expire()

    def _send_heartbeat(self, socket: zmq.Socket[bytes]) -> None:
        reloads, reload_error = self._reloads
        heartbeat = HeartbeatMessage(
            run=self.run,
            stream="",
            seq=self._heartbeats,
            published_ns=time.time_ns(),
            interval_s=HEARTBEAT_INTERVAL_S,
            uptime_s=round(time.monotonic() - self._started_s, 3),
            # Not what is still queued: a subscriber compares this with what it has received.
            last_seq=self._outbox.passed_seq(),
            dropped=self._outbox.dropped(),
            model=self._vocabulary.model,
            reloads=reloads,
            reload_error=reload_error.encode(errors="replace").decode(),
        )
        self._heartbeats += 1
        self._send(socket, message_topic(heartbeat).encode(), encode(heartbeat, self._encoding))

    def _answer_subscriptions(self, socket: zmq.Socket[bytes], prefixes: tuple[bytes, ...]) -> None:
        # All new subscriptions together: XPUB can only send to everyone who matches.
        if not prefixes:
            return
        self._subscribed.set()
        for entry in self._journal.last_values():
            if entry.topic.startswith(prefixes):
                self._send(socket, entry.topic, entry.payload)

    def _send(self, socket: zmq.Socket[bytes], topic: bytes, payload: bytes) -> None:
        # Never blocks: for a subscriber at its high-water mark XPUB drops the message.
        # Frame by frame: `send_multipart` takes a third longer.
        socket.send(topic, _NOBLOCK_MORE)
        socket.send(payload, zmq.NOBLOCK)
        self._sent += 1
