"""Audio that another machine captures and sends: ``remote:NAME``.

Two threads meet here. The ingest thread hands over packets as they come (`RemoteSource.offer`,
never blocks: a bounded queue whose oldest gives way); the feeder's thread puts them in order,
decodes them and finds the holes (`RemoteSource.read`). The holes are exact: every packet says
the absolute index of its first sample.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from streamcls.capture.packets import AudioPacket, PacketError, decode_samples
from streamcls.capture.sequence import Resequencer
from streamcls.capture.source import READ_WAIT_S, SourceLost
from streamcls.clock import read_utc_offset_ns
from streamcls.types import Block
from streamcls.units import NS_PER_S, samples_to_ns

MAX_QUEUED_PACKETS = 64
SENDER_TIMEOUT_S = 5.0
"""No audio for so long: the sender, its network or its microphone is gone."""
MAX_HOLE_S = 60.0
"""A longer hole is judged by the clock, as the outage it is."""
MAX_AGE_NS = 60 * NS_PER_S
MAX_LEAD_NS = NS_PER_S
"""Times further from the arrival than these are a broken clock, not a slow network."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A packet as the ingest thread received it.

    Attributes:
        packet: Its checked header.
        payload: Its encoded samples.
        arrived_ns: UTC by our clock.
        clock_offset_ns: What to add to the sender's times.
    """

    packet: AudioPacket
    payload: bytes
    arrived_ns: int
    clock_offset_ns: int


class RemoteSource:
    """Mono blocks from a sender, at its rate.

    Lost as long as no sender delivers; a sender that was started anew, or another one in its
    place, counts as a loss and a return.

    Args:
        name: What senders call the stream.
        utc_offset_ns: See `read_utc_offset_ns`.

    Attributes:
        sender: Who sends, in words; set by the ingest thread.
        on_audio: Called on the ingest thread when audio comes while nobody has the source open.
        damaged: Packets whose samples could not be decoded, or contradicted the numbering.
        clock_doubts: Packets whose times could not be and were replaced by the arrival's.
        overflowed: Packets dropped because the feeder did not take them in time.
        network_lost_samples: Samples sent, but never received in a usable packet.
        sender_lost_samples: Samples that the sender itself has reported lost.
    """

    live = True
    finite = False
    channels = 1

    def __init__(self, name: str, utc_offset_ns: Callable[[], int] = read_utc_offset_ns) -> None:
        self.name = name
        self._utc_offset_ns = utc_offset_ns
        self.sample_rate_hz = 0
        self.sender = ""
        self.on_audio: Callable[[], None] = lambda: None
        self.damaged = 0
        self.clock_doubts = 0
        self.overflowed = 0
        self.network_lost_samples = 0
        self.sender_lost_samples = 0
        self.sequence: Resequencer[Arrival] = Resequencer()
        # Shared by both threads, under the lock.
        self._news = threading.Condition()
        self._queue: deque[Arrival] = deque()
        self._absence = ""
        self._opened = False
        # Of the feeder's thread.
        self._session = ""
        self._next_sample = 0
        self._xruns: int | None = None
        self._last_audio_s = 0.0
        self._useless = 0  # packets until then

    def __str__(self) -> str:
        return f"remote:{self.name} ({self.sender})" if self.sender else f"remote:{self.name}"

    # The ingest thread.

    def offer(self, arrival: Arrival) -> None:
        """Take a packet; returns at once."""
        with self._news:
            self._absence = ""
            if len(self._queue) >= MAX_QUEUED_PACKETS:
                self._queue.popleft()
                self.overflowed += 1
            self._queue.append(arrival)
            opened = self._opened
            self._news.notify()
        if not opened:
            self.on_audio()

    def tell_absent(self, reason: str) -> None:
        """Say why no audio is to be expected for now; what was offered before is still read."""
        with self._news:
            self._absence = reason
            self._news.notify()

    # The feeder's thread.

    def check(self) -> None:
        """Nothing can be said before a sender comes, and it may come at any time."""

    def open(self) -> None:
        """Begin with the oldest packet that waits.

        Raises:
            SourceLost: There is none.
        """
        with self._news:
            if not self._queue:
                raise SourceLost(f"{self}: {self._absence or self._invite()}")
            packet = self._queue[0].packet
            self._opened = True
        self.sample_rate_hz = packet.sample_rate_hz
        self._session = packet.session
        self._next_sample = packet.sample_start
        self._xruns = None
        self._last_audio_s, self._useless = time.monotonic(), self._count_useless()
        self.sequence.restart()

    def read(self) -> Block | None:
        """Return the next packet's samples with the hole in front of them."""
        arrival = self.sequence.pop(time.monotonic())
        if arrival is None:
            try:
                taken = self._take()
            except SourceLost:
                arrival = self.sequence.pop(math.inf)  # nothing will fill the holes any more
                if arrival is None:
                    raise
                return self._make_block(arrival)
            now_s = time.monotonic()
            if taken is not None:
                self.sequence.push(taken.packet.seq, taken, now_s)
                arrival = self.sequence.pop(now_s)
        block = None if arrival is None else self._make_block(arrival)
        if block is None:
            self._check_silence()
        return block

    def close(self) -> None:
        """Stop reading; packets that come meanwhile wait for the next `open`."""
        with self._news:
            self._opened = False

    def _take(self) -> Arrival | None:
        with self._news:
            if not self._queue and not self._absence:
                self._news.wait(READ_WAIT_S)
            if self._queue:
                packet = self._queue[0].packet
                if (packet.session, packet.sample_rate_hz) != (self._session, self.sample_rate_hz):
                    raise SourceLost(f"{self}: the sender was started anew, or is another one")
                return self._queue.popleft()
            if self._absence:
                raise SourceLost(f"{self}: {self._absence}")
        return None

    def _check_silence(self) -> None:
        silent_s = time.monotonic() - self._last_audio_s
        if silent_s <= SENDER_TIMEOUT_S:
            return
        silence = f"{self}: no audio for {silent_s:.1f} s (limit {SENDER_TIMEOUT_S:g} s)"
        useless = self._count_useless() - self._useless
        if useless == 0:
            raise SourceLost(f"{silence}; is the sender running and the network up?")
        raise SourceLost(
            f"{silence}: the last {useless} packets are damaged, or their numbers were here "
            "before; a sender that begins again takes a new session"
        )

    def _count_useless(self) -> int:
        return self.damaged + self.sequence.repeated

    def _make_block(self, arrival: Arrival) -> Block | None:
        packet = arrival.packet
        hole = packet.sample_start - self._next_sample
        if hole > MAX_HOLE_S * self.sample_rate_hz:
            raise SourceLost(f"{self}: {hole} samples are missing at once; going by the clock")
        try:
            if hole < 0:
                raise PacketError("its samples were here before")
            samples = decode_samples(packet, arrival.payload)
        except PacketError:
            self.damaged += 1
            return None
        sender_lost = min(packet.lost_samples, hole)
        self.sender_lost_samples += sender_lost
        self.network_lost_samples += hole - sender_lost
        self._next_sample = packet.sample_start + packet.samples
        xruns = 0 if self._xruns is None else max(0, packet.xruns - self._xruns)
        self._xruns = packet.xruns
        self._last_audio_s, self._useless = time.monotonic(), self._count_useless()
        t_first_ns = self._find_utc_ns(arrival) - self._utc_offset_ns()
        return Block(samples[:, np.newaxis], t_first_ns, hole, xruns)

    def _find_utc_ns(self, arrival: Arrival) -> int:
        t_ns = arrival.packet.t_start_ns + arrival.clock_offset_ns
        if arrival.arrived_ns - MAX_AGE_NS <= t_ns <= arrival.arrived_ns + MAX_LEAD_NS:
            return t_ns
        self.clock_doubts += 1
        return arrival.arrived_ns - samples_to_ns(arrival.packet.samples, self.sample_rate_hz)

    def _invite(self) -> str:
        return (
            "no sender delivers it; start one with "
            f"`streamcls send --to tcp://THIS_HOST:PORT --stream {self.name}`"
        )
