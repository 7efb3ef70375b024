"""The ingest socket: where senders deliver the audio of ``remote:`` streams.

Sits in front of capture: one ROUTER in a thread of its own takes the messages of many senders
apart and hands the packets to the `RemoteSource` of their stream, which never blocks. What it
knows of a sender (`Link`) is bounded by the configured streams, whoever else may knock.

A stream has one sender at a time. It is the one whose session was heard last, until it ends or
has been silent for `HOLD_S`; others are refused, told so, and the stream's health says it.
"""

import logging
import math
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import zmq
from msgspec import structs

from streamcls.capture.feeder import Feeder
from streamcls.capture.packets import (
    MAX_PAYLOAD_BYTES,
    SCHEMA,
    Answer,
    AudioPacket,
    Beat,
    End,
    PacketError,
    Refusal,
    decode_from_sender,
    encode_message,
    speaks_other_version,
)
from streamcls.capture.remote import Arrival, RemoteSource
from streamcls.errors import SourceError
from streamcls.publish.endpoint import IPC_MODE
from streamcls.publish.key_files import Right
from streamcls.publish.keys import ServerKeys
from streamcls.publish.service import SocketService
from streamcls.units import NS_PER_S, samples_to_ns

HOLD_S = 3.0
"""A sender that was not heard for so long gives way to another one."""
MESSAGES_QUEUED = 256
"""Per connection, received but not yet looked at; then TCP makes the sender wait."""
REPLIES_QUEUED = 16
MESSAGES_PER_PASS = 256
FRAMES_LIMIT = 4
TELL_INTERVAL_S = 30.0
"""Between two health messages about refused senders of one stream."""
CLOCK_NEWS_NS = 50_000_000
"""A clock offset that differs by more from the one last told is news."""
_ABSENT_STATES = frozenset({"lost", "recovering", "failed", "ended"})

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Link:
    """What is known of one stream's sender; written by the ingest thread only."""

    feeder: Feeder
    source: RemoteSource
    session: str = ""
    host: str = ""
    state: str = ""
    reason: str = ""
    heard_s: float = -math.inf
    packets: int = 0
    payload_bytes: int = 0
    sender_dropped_samples: int = 0
    clock_offset_ns: int | None = None
    round_trip_ns: int = 0
    told_offset_ns: int | None = None
    jitter_ns: float = 0.0
    delay_ns: int | None = None
    refused: int = 0
    told_refusal_s: float = -math.inf

    def stats(self) -> dict[str, Any]:
        """Return everything as plain values, times in milliseconds."""
        source = self.source
        heard_s = time.monotonic() - self.heard_s
        return {
            "connected": heard_s < HOLD_S,
            "host": self.host,
            "session": self.session,
            "state": self.state,
            "reason": self.reason,
            "sample_rate_hz": source.sample_rate_hz,
            "packets": self.packets,
            "payload_bytes": self.payload_bytes,
            "missing_packets": source.sequence.missing,
            "repeated_packets": source.sequence.repeated,
            "reordered_packets": source.sequence.reordered,
            "damaged_packets": source.damaged,
            "overflowed_packets": source.overflowed,
            "network_lost_samples": source.network_lost_samples,
            "sender_lost_samples": source.sender_lost_samples,
            "sender_dropped_samples": self.sender_dropped_samples,
            "clock_offset_ms": _to_ms(self.clock_offset_ns),
            "round_trip_ms": _to_ms(self.round_trip_ns),
            "clock_doubts": source.clock_doubts,
            "delay_ms": _to_ms(self.delay_ns),
            "jitter_ms": _to_ms(round(self.jitter_ns)),
            "refused_senders": self.refused,
        }


class Ingest(SocketService):
    """Receives the audio of all ``remote:`` streams of a daemon.

    Args:
        endpoint: ``tcp://HOST:PORT`` or ``ipc://PATH``; port ``*`` lets the system choose.
        keys: Encrypt, and let in only clients with the right to send; None: everybody.
        insecure: Allow addresses that other machines can reach without keys.
        ipc_mode: Of the file of an ``ipc://`` endpoint.

    Attributes:
        malformed: Messages that were none, counted and ignored.
        refused: Beats refused, by code.

    Raises:
        PublishError: The endpoint is malformed or refused (see also `start`).
    """

    def __init__(
        self,
        endpoint: str,
        *,
        keys: ServerKeys | None = None,
        insecure: bool = False,
        ipc_mode: int = IPC_MODE,
    ):
        super().__init__(
            "streamcls-ingest",
            endpoint,
            Right.SEND,
            keys=keys,
            insecure=insecure,
            ipc_mode=ipc_mode,
        )
        self.malformed = 0
        self.refused: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._links: dict[str, Link] = {}  # replaced as a whole under the lock

    # -- any thread ---------------------------------------------------------------------

    def add(self, feeder: Feeder) -> None:
        """Deliver to the remote source of this feeder from now on.

        Raises:
            SourceError: Another stream already takes the audio of that name.
        """
        source = feeder.source
        assert isinstance(source, RemoteSource)
        with self._lock:
            if source.name in self._links:
                raise SourceError(
                    f"two streams take the audio of the sender {source.name!r}; "
                    "give each remote: another name"
                )
            self._links = {**self._links, source.name: Link(feeder, source)}
        source.on_audio = feeder.retry_now

    def remove(self, feeder: Feeder) -> None:
        """Refuse the audio of this feeder's source from now on."""
        with self._lock:
            self._links = {n: link for n, link in self._links.items() if link.feeder is not feeder}

    def stats(self) -> dict[str, Any]:
        """Return the counters, and what is known of each sender, by remote name."""
        return {
            "endpoint": self.endpoint,
            "malformed": self.malformed,
            "refused": dict(self.refused),
            "senders": {name: link.stats() for name, link in sorted(self._links.items())},
        }

    # -- the ingest thread --------------------------------------------------------------

    def _open(self, context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
        socket = context.socket(zmq.ROUTER)
        socket.maxmsgsize = MAX_PAYLOAD_BYTES  # per frame; libzmq disconnects who sends more
        socket.rcvhwm = MESSAGES_QUEUED
        socket.sndhwm = REPLIES_QUEUED
        return socket

    def _serve(self, socket: zmq.Socket[bytes]) -> None:
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(self._wakeup.fd, zmq.POLLIN)
        while not self._closing.is_set():
            poller.poll()
            for _ in range(MESSAGES_PER_PASS):
                if self._closing.is_set() or not socket.poll(0):
                    break
                identity, *frames = _receive(socket)
                # A sender whose key was removed keeps its connection, but not its say.
                if self._gate and frames and not self._gate.may(str(frames[-1].get("User-Id"))):
                    continue
                reply = self._take([frame.bytes for frame in frames], time.time_ns())
                if reply is not None:
                    # Never blocks: without ROUTER_MANDATORY it is dropped if nobody takes it.
                    socket.send_multipart([identity.bytes, reply], flags=zmq.NOBLOCK)

    def _take(self, frames: list[bytes], arrived_ns: int) -> bytes | None:
        """Handle one message; return the reply, if any."""
        if not 1 <= len(frames) < FRAMES_LIMIT:
            self.malformed += 1
            return None
        try:
            message = decode_from_sender(frames)
        except PacketError as error:
            version = speaks_other_version(frames[0])
            if version is not None:
                return self._refuse("schema", f"this daemon speaks {SCHEMA}, not {version}")
            self.malformed += 1
            log.debug("malformed audio message ignored: %s", error)
            return None
        link = self._links.get(message.stream)
        match message:
            case Beat(host=host, state=state, reason=reason):
                words = {"host": host, "state": state, "reason": reason}
                words = {key: _in_one_line(text) for key, text in words.items()}
                return self._take_beat(link, structs.replace(message, **words), arrived_ns)
            case AudioPacket() if link is not None:
                self._take_audio(link, message, frames[1], arrived_ns)
            case End() if link is not None and link.session == message.session:
                link.state, link.reason = "ended", _in_one_line(message.reason)
                link.heard_s = -math.inf  # the next sender need not wait
                link.source.sender = ""
                said = f"the sender on {link.host} has ended ({link.reason})"
                link.source.tell_absent(said)
                log.info("stream %s: %s", message.stream, said)
        return None

    def _take_beat(self, link: Link | None, beat: Beat, arrived_ns: int) -> bytes:
        if link is None:
            known = ", ".join(sorted(self._links)) or "none"
            reason = f"no stream here is remote:{beat.stream}; there is {known}"
            return self._refuse("unknown_stream", reason)
        if not self._admit(link, beat.session):
            return self._refuse_second(link, beat)
        link.host = beat.host
        link.sender_dropped_samples = beat.dropped_samples
        self._take_clock(link, beat)
        if (beat.state, beat.reason) != (link.state, link.reason):
            link.state, link.reason = beat.state, beat.reason
            if beat.state in _ABSENT_STATES:
                link.source.tell_absent(f"at the sender: {beat.reason or beat.state}")
        return encode_message(
            Answer(sent_ns=beat.sent_ns, received_ns=arrived_ns, answered_ns=time.time_ns())
        )

    def _admit(self, link: Link, session: str) -> bool:
        """Note that a session is heard; False when another one holds the stream."""
        now_s = time.monotonic()
        if session != link.session:
            if now_s - link.heard_s < HOLD_S:
                return False
            link.session, link.host, link.state, link.reason = session, "", "", ""
            link.clock_offset_ns = link.told_offset_ns = link.delay_ns = None
            link.jitter_ns = 0.0
        link.heard_s = now_s
        return True

    def _take_clock(self, link: Link, beat: Beat) -> None:
        link.clock_offset_ns, link.round_trip_ns = beat.clock_offset_ns, beat.round_trip_ns
        link.source.sender = _describe(link)
        offset_ns, told_ns = link.clock_offset_ns, link.told_offset_ns
        if offset_ns is None:
            return
        if told_ns is None:
            link.told_offset_ns = offset_ns
            log.info("stream %s: sender is %s", beat.stream, link.source.sender)
        elif abs(offset_ns - told_ns) > CLOCK_NEWS_NS:
            link.told_offset_ns = offset_ns
            link.feeder.tell(f"the sender's clock has moved: {link.source.sender}")

    def _take_audio(self, link: Link, packet: AudioPacket, payload: bytes, now_ns: int) -> None:
        if not self._admit(link, packet.session):
            return
        link.packets += 1
        link.payload_bytes += len(payload)
        offset_ns = link.clock_offset_ns or 0
        end_ns = packet.t_start_ns + samples_to_ns(packet.samples, packet.sample_rate_hz)
        delay_ns = now_ns - (end_ns + offset_ns)
        if link.delay_ns is not None:  # RFC 3550, 6.4.1
            link.jitter_ns += (abs(delay_ns - link.delay_ns) - link.jitter_ns) / 16
        link.delay_ns = delay_ns
        link.source.offer(Arrival(packet, payload, now_ns, offset_ns))

    def _refuse_second(self, link: Link, beat: Beat) -> bytes:
        link.refused += 1
        now_s = time.monotonic()
        if now_s - link.told_refusal_s >= TELL_INTERVAL_S:
            link.told_refusal_s = now_s
            host = beat.host or "an unnamed host"
            link.feeder.tell(f"a second sender, on {host}, was refused")
        return self._refuse("taken", f"{link.host or 'another sender'} already sends {beat.stream}")

    def _refuse(self, code: Any, reason: str) -> bytes:
        self.refused[code] += 1
        return encode_message(Refusal(code=code, reason=reason[:256]))


def _receive(socket: zmq.Socket[bytes]) -> list[zmq.Frame]:
    """Return one message's frames; reads it to its end but keeps no more than a few."""
    frames: list[zmq.Frame] = []
    more = True
    while more:
        frame = socket.recv(copy=False)  # a frame knows who sent it
        more = bool(socket.getsockopt(zmq.RCVMORE))
        if len(frames) <= FRAMES_LIMIT:
            frames.append(frame)
    return frames


def _in_one_line(text: str) -> str:
    """Return a sender's words without what a log or a terminal might obey, or take for an end."""
    return "".join(char if char.isprintable() else "\ufffd" for char in " ".join(text.split()))


def _describe(link: Link) -> str:
    where = link.host or "an unnamed host"
    if link.clock_offset_ns is None:
        return where
    offset_s, half_trip_s = link.clock_offset_ns / NS_PER_S, link.round_trip_ns / 2 / NS_PER_S
    way = "behind" if offset_s > 0 else "ahead"
    return f"{where}, clock {_span(abs(offset_s))} {way}, known to {_span(half_trip_s)}"


def _span(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _to_ms(span_ns: int | None) -> float | None:
    return None if span_ns is None else round(span_ns / 1e6, 3)
