"""What a subscriber does with the messages it receives: filter, check for gaps, drop repeats.

Pure logic without sockets or clocks, shared by `client.Subscriber` and
`client.AsyncSubscriber`; one `Inbox` belongs to one of them.
"""

import logging
from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import msgspec

from streamcls.errors import PublishError
from streamcls.publish.schema import (
    DATA_TYPES,
    HEARTBEAT_TOPIC,
    STREAM_TYPES,
    HeartbeatMessage,
    Message,
    check_stream_name,
    decode,
    message_sequence,
    sequence_topic,
    split_topic,
)

RUNS_REMEMBERED = 1024
"""Daemon starts whose numbers are kept, those heard last. A relay may stand in front of many: were
they more than these, each would be forgotten before it is heard again, and with it its losses."""
_NEVER = -2

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages that were published, wanted, and never arrived.

    Attributes:
        stream: Name of the stream.
        type: Of the messages.
        first_missing_seq: The first of them.
        last_missing_seq: The last of them.
        run: The daemon start they belong to.
        reason: Why they could not be recovered: ``expired`` (no longer in the daemon's journal),
            ``unsent`` (dropped by the daemon), ``run_over`` (another daemon answers there now),
            ``unreachable`` or ``refused`` (it could not be asked); empty where nobody tried.
    """

    stream: str
    type: str
    first_missing_seq: int
    last_missing_seq: int
    run: str
    reason: str = ""

    @property
    def missing(self) -> int:
        """How many messages it stands for."""
        return self.last_missing_seq - self.first_missing_seq + 1


@dataclass(slots=True)
class _Run:
    """Where one daemon start's sequences stand."""

    last_seq: dict[str, int] = field(default_factory=dict)  # by sequence topic
    heard_heartbeat: bool = False


class Inbox:
    """Turns payload frames into messages and gaps.

    The rules: a sequence starts with whatever is heard of it first, be it a message or a
    heartbeat, so joining late is no gap. From then on every number must come. A sequence
    that a heartbeat did not mention begins at 0. A number that is not new is a repeated last
    value and is not delivered again.

    Args:
        streams: Names to listen to; empty for all.
        types: Of ``prediction``, ``event``, ``health``, ``rejected``, ``heartbeat``.

    Attributes:
        received: Messages that arrived by themselves.
        missed: Messages that did not, the sum of all gaps found.
        recovered: Of those missed, the ones that were brought back by ``replay``.
        repeated: Messages that had been delivered before.
        invalid: Payloads that could not be decoded; skipped.

    Raises:
        PublishError: A stream name or type is not possible.
    """

    def __init__(self, streams: Collection[str] = (), types: Collection[str] = DATA_TYPES):
        for lone in (streams, types):
            if isinstance(lone, str):  # a collection of its letters, which would hear nothing
                raise PublishError(f"{lone!r} is one name where several are expected: [{lone!r}]")
        for name in streams:
            check_stream_name(name)
        known = (*STREAM_TYPES, "heartbeat")
        for one in types:
            if one not in known:
                raise PublishError(
                    f"message type {one!r} does not exist: choose from {', '.join(known)}"
                )
        self.streams = frozenset(streams)
        self.types = frozenset(types)
        self.received = 0
        self.missed = 0
        self.recovered = 0
        self.repeated = 0
        self.invalid = 0
        self._runs: OrderedDict[str, _Run] = OrderedDict()

    def topics(self) -> Iterator[bytes]:
        """Yield the topic prefixes to subscribe to, the heartbeat last."""
        for one in sorted(self.types - {"heartbeat"}):
            if self.streams:
                yield from (sequence_topic(one, name).encode() for name in sorted(self.streams))
            else:
                yield f"{one}/".encode()
        yield HEARTBEAT_TOPIC.encode()

    def accept(self, payload: bytes) -> list[Message | Gap]:
        """Return what one payload frame amounts to: gaps it reveals, then its message if new.

        Raises:
            ProtocolError: The daemon speaks another protocol version.
        """
        try:
            message = decode(payload)
        except msgspec.DecodeError as error:
            self.invalid += 1
            if self.invalid == 1:
                log.warning("skipped a message that cannot be decoded: %s", error)
            return []
        run = self._run(message.run)
        if isinstance(message, HeartbeatMessage):
            delivered = self._check_heartbeat(run, message)
            wanted = "heartbeat" in self.types
        else:
            topic = message_sequence(message)
            if message.seq - 1 == run.last_seq.get(topic, _NEVER):  # the next one, as a rule
                run.last_seq[topic] = message.seq
                self.received += 1
                return [message]
            if not self._wants(topic):
                return []
            if message.seq <= run.last_seq.get(topic, -1):
                self.repeated += 1
                return []
            delivered = self._advance(run, message.run, topic, message.seq - 1)
            run.last_seq[topic] = message.seq
            wanted = True
        if wanted:
            self.received += 1
            delivered.append(message)
        return delivered

    def _check_heartbeat(self, run: _Run, message: HeartbeatMessage) -> list[Message | Gap]:
        gaps: list[Message | Gap] = []
        for topic, seq in message.last_seq.items():
            if self._wants(topic):
                gaps += self._advance(run, message.run, topic, seq)
        run.heard_heartbeat = True
        return gaps

    def _run(self, run_id: str) -> _Run:
        run = self._runs.setdefault(run_id, _Run())
        self._runs.move_to_end(run_id)
        if len(self._runs) > RUNS_REMEMBERED:
            self._runs.popitem(last=False)
        return run

    def _wants(self, topic: str) -> bool:
        message_type, stream = split_topic(topic)
        return message_type in self.types and (not self.streams or stream in self.streams)

    def _advance(self, run: _Run, run_id: str, topic: str, seq: int) -> list[Message | Gap]:
        """Move a sequence on to ``seq``; whatever lies between was missed."""
        unheard = -1 if run.heard_heartbeat else seq
        last = run.last_seq.get(topic, unheard)
        run.last_seq[topic] = max(last, seq)
        if seq <= last:
            return []
        message_type, stream = split_topic(topic)
        gap = Gap(stream, message_type, last + 1, seq, run_id)
        self.missed += gap.missing
        return [gap]
