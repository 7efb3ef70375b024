"""Ships the audio of one ring over one DEALER.

The same sources, feeder and ring as in the daemon; only what reads the ring differs. The ring is
the send buffer: while the network is away it keeps the newest seconds, and what it drops is
counted and shows as a hole in the sample indices. Socket and reading side belong to the thread
that made the `Sender`.
"""

import logging
import math
import secrets
import socket as posix_socket
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import zmq

from streamcls.capture import Channel, Feeder
from streamcls.capture.packets import (
    MAX_HEADER_BYTES,
    Answer,
    AudioPacket,
    Beat,
    Codec,
    End,
    PacketError,
    Pcm16,
    Refusal,
    decode_from_daemon,
    encode_message,
    encode_samples,
)
from streamcls.errors import PublishError
from streamcls.publish.auth import secure_client
from streamcls.publish.endpoint import connect_to
from streamcls.publish.keys import ClientKeys
from streamcls.publish.wakeup import Wakeup
from streamcls.ring import Ring
from streamcls.send.clock import ClockEstimate
from streamcls.types import FloatArray, Health, HealthState
from streamcls.units import ms_to_samples

BEAT_INTERVAL_S = 1.0
CONNECT_POLL_S = 0.1
"""Between two looks whether there is a connection to introduce ourselves on."""
ANSWER_TIMEOUT_S = 4.0
"""Beats unanswered for so long: the connection is made anew."""
REFUSED_LONGEST_S = 15.0
"""Between two attempts after a refusal; the first comes after `BEAT_INTERVAL_S`."""
END_WAIT_S = 5.0
"""To deliver what is left once the source has ended."""
PACKETS_IN_FLIGHT = 8
"""Handed to libzmq at once; what waits longer, waits in the ring, where the oldest gives way."""
SEND_BUFFER_BYTES = 32 * 1024

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SendOptions:
    """What to send where.

    Attributes:
        endpoint: The daemon's ingest endpoint.
        source: As for the daemon.
        stream: Name at the daemon: ``remote:NAME``.
        channel: Which native channel, or ``mix``.
        codec: ``s16``, or ``flac``: the same samples in two thirds of the bytes or fewer.
        send_rate_hz: The source is resampled to it.
        packet_ms: Audio in one packet.
        buffer_s: Audio kept while the network is away.
        keys: Encrypt; the daemon has to know us.
    """

    endpoint: str
    source: str
    stream: str
    channel: Channel = 0
    codec: Codec = "s16"
    send_rate_hz: int = 16_000
    packet_ms: float = 40.0
    buffer_s: float = 4.0
    keys: ClientKeys | None = None


class Sender:
    """Ships the audio of one ring; create, run and close it in one thread.

    Args:
        options: What to send where.
        feeder: Feeds `ring`; asked for its health.
        ring: At the rate to send; this is its reader.
        wakeup: Rung when there is news in the ring or somebody wants to stop.

    Attributes:
        packets: Sent so far.
        sent_samples: Sent so far.
        connections: How often a daemon has welcomed us after silence.

    Raises:
        PublishError: The endpoint is not possible.
    """

    def __init__(self, options: SendOptions, feeder: Feeder, ring: Ring, wakeup: Wakeup):
        self._options = options
        self._feeder = feeder
        self._ring = ring
        self._wakeup = wakeup
        packet_samples = ms_to_samples(options.packet_ms, ring.sample_rate_hz)
        self._samples: FloatArray = np.zeros(packet_samples, np.float32)
        self._session = secrets.token_hex(8)
        self._host = posix_socket.gethostname()
        self._clock = ClockEstimate()
        self.packets = 0
        self.sent_samples = 0
        self.connections = 0
        self._next_sample = 0
        self._pending: list[bytes] | None = None  # encoded, but libzmq had no room
        self._handed_over = 0  # index one past the last sample given to libzmq
        self._end_said = False
        self._welcome = False
        self._missed = False
        self._refusal = ""
        self._refused_wait_s = BEAT_INTERVAL_S
        self._beat_due_s = 0.0
        self._answered_s = time.monotonic()
        self._context = zmq.Context()
        try:
            self._socket = self._connect()
        except PublishError:
            self._context.term()
            raise

    def run(self, stopping: threading.Event) -> bool:
        """Send until the ring has ended and is read, or cannot be delivered any more.

        Args:
            stopping: Set when the feeder was asked to stop: deliver what is there and return.

        Returns:
            Whether everything was handed to the network.
        """
        give_up_s = math.inf
        while True:
            self._wait()
            self._receive()
            now_s = time.monotonic()
            if now_s - self._answered_s > ANSWER_TIMEOUT_S:
                self._reconnect()
            health = self._read_health()  # first: no beat tells of an end ahead of its audio
            self._send_audio()
            if now_s >= self._beat_due_s:
                self._beat(now_s, health)
            if self._pending is None and self._is_over(stopping):
                if self._end_said:
                    return True
                self._pending, self._end_said = self._make_end(stopping), True
                self._send_audio()
                continue
            if math.isinf(give_up_s) and (stopping.is_set() or self._ended):
                give_up_s = now_s + END_WAIT_S
            if now_s >= give_up_s or (stopping.is_set() and not self._welcome):
                return self.undelivered_samples == 0

    @property
    def undelivered_samples(self) -> int:
        """What was captured or lost since the last packet that was handed to the network."""
        return self._ring.index_end - self._handed_over

    def close(self) -> None:
        """Disconnect; what was handed over goes out if it can within a second."""
        self._socket.close(linger=1000)
        self._context.term()

    @property
    def _ended(self) -> bool:
        return self._feeder.state in (HealthState.ENDED, HealthState.FAILED)

    def _is_over(self, stopping: threading.Event) -> bool:
        # The ring closes a moment before the feeder has said why.
        return self._ring.ended and (self._ended or stopping.is_set())

    def _wait(self) -> None:
        poller = zmq.Poller()
        poller.register(self._wakeup.fd, zmq.POLLIN)
        congested = self._welcome and self._pending is not None
        poller.register(self._socket, zmq.POLLIN | (zmq.POLLOUT if congested else 0))
        wait_s = max(0.0, min(self._beat_due_s - time.monotonic(), BEAT_INTERVAL_S))
        poller.poll(math.ceil(wait_s * 1000))
        self._wakeup.clear()

    def _receive(self) -> None:
        while self._socket.poll(0):
            frames = self._socket.recv_multipart()
            back_ns = time.time_ns()
            try:
                message = decode_from_daemon(frames[-1])
            except PacketError as error:
                log.warning("%s does not answer as a daemon: %s", self._options.endpoint, error)
                continue
            self._answered_s = time.monotonic()
            if isinstance(message, Refusal):
                self._take_refusal(message)
            else:
                self._take_answer(message, back_ns)

    def _take_answer(self, answer: Answer, back_ns: int) -> None:
        self._clock.observe(answer.sent_ns, answer.received_ns, answer.answered_ns, back_ns)
        if self._welcome:
            return
        self._welcome, self._missed = True, False
        self._refusal, self._refused_wait_s = "", BEAT_INTERVAL_S
        self.connections += 1
        round_trip_ns, offset_ns = self._clock.best
        log.info(
            "connected to %s as %s: its clock is %+.1f ms from ours, round trip %.1f ms",
            self._options.endpoint,
            self._options.stream,
            offset_ns / 1e6,
            round_trip_ns / 1e6,
        )
        # Tell the offset before any audio needs it.
        self._beat(time.monotonic(), self._read_health())

    def _take_refusal(self, refusal: Refusal) -> None:
        self._welcome = False
        if refusal.reason != self._refusal:
            log.warning("refused by %s: %s; trying on", self._options.endpoint, refusal.reason)
            self._refusal = refusal.reason
        self._beat_due_s = time.monotonic() + self._refused_wait_s
        self._answered_s = self._beat_due_s  # no answer is due before
        self._refused_wait_s = min(2 * self._refused_wait_s, REFUSED_LONGEST_S)

    def _read_health(self) -> Health:
        return self._feeder.health(self._feeder.reason)

    def _beat(self, now_s: float, health: Health) -> None:
        round_trip_ns, offset_ns = self._clock.best if self._clock.known else (0, None)
        beat = Beat(
            stream=self._options.stream,
            session=self._session,
            sent_ns=time.time_ns(),
            host=self._host[:256],
            source=str(self._feeder.source)[:256],
            state=health.state.value,
            reason=health.reason[:256],
            dropped_samples=health.dropped_samples,
            clock_offset_ns=offset_ns,
            round_trip_ns=round_trip_ns,
        )
        if self._offer([encode_message(beat)]) or self._welcome:
            self._beat_due_s = now_s + BEAT_INTERVAL_S
        else:
            self._beat_due_s = now_s + CONNECT_POLL_S

    def _send_audio(self) -> None:
        while self._welcome:
            if self._pending is None:
                self._pending = self._encode_next()
            if self._pending is None or not self._offer(self._pending):
                return
            self._pending = None
            self._handed_over = self._next_sample

    def _encode_next(self) -> list[bytes] | None:
        hop = self._ring.read_hop(self._samples)
        if hop is None:
            return None
        packet = AudioPacket(
            stream=self._options.stream,
            session=self._session,
            seq=self.packets,
            codec=self._options.codec,
            sample_rate_hz=self._ring.sample_rate_hz,
            sample_start=hop.sample_start,
            samples=hop.n_real,
            t_start_ns=self._ring.time_ns(hop.sample_start),
            lost_samples=hop.sample_start - self._next_sample,
            xruns=self._feeder.health().xruns,
        )
        self._next_sample = hop.sample_start + hop.n_real
        self.packets += 1
        self.sent_samples += hop.n_real
        samples = to_pcm16(self._samples[: hop.n_real])
        payload = encode_samples(samples, packet.codec, packet.sample_rate_hz)
        return [encode_message(packet), payload]

    def _offer(self, frames: list[bytes]) -> bool:
        """Hand a message to libzmq; False when nobody is connected or the network is behind."""
        try:
            self._socket.send_multipart(frames, flags=zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def _make_end(self, stopping: threading.Event) -> list[bytes]:
        end = End(
            stream=self._options.stream,
            session=self._session,
            next_seq=self.packets,
            reason="interrupted" if stopping.is_set() else self._feeder.reason[:256],
        )
        return [encode_message(end)]

    def _connect(self) -> zmq.Socket[Any]:
        socket = self._context.socket(zmq.DEALER)
        socket.linger = 0
        socket.sndhwm = PACKETS_IN_FLIGHT
        socket.sndbuf = SEND_BUFFER_BYTES
        socket.maxmsgsize = MAX_HEADER_BYTES
        socket.immediate = 1  # nothing piles up for a daemon that is not there
        socket.reconnect_ivl = 100
        socket.reconnect_ivl_max = 2000
        if self._options.keys is not None:
            secure_client(socket, self._options.keys)
        try:
            connect_to(socket, self._options.endpoint)
        except PublishError:
            socket.close()
            raise
        return socket

    def _reconnect(self) -> None:
        """Begin afresh: libzmq does not notice a peer that vanished without a word."""
        if self._welcome:
            log.warning("%s does not answer any more; reconnecting", self._options.endpoint)
        elif not self._missed:
            # One that has keys does not tell a stranger that it is there.
            doubt = "asks for keys" if self._options.keys is None else "does not let our key in"
            doubt = f"it is not running, has no remote: stream or {doubt}"
            log.warning("no daemon answers at %s: %s; trying on", self._options.endpoint, doubt)
        self._welcome, self._missed = False, True
        self._answered_s = time.monotonic()
        self._beat_due_s = 0.0
        self._socket.close(linger=0)
        self._socket = self._connect()


def to_pcm16(samples: FloatArray) -> Pcm16:
    """Return float samples as 16-bit integers; exact for audio that was 16 bits wide."""
    return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
