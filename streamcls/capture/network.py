"""Audio from the network as FFmpeg opens and decodes it: ``http(s)``, ``rtsp``, ``srt`` and more.

Two threads meet here. A reader, one per `open`, owns the connection and the decoder and puts
blocks into a bounded buffer; the feeder's thread takes them out in `NetworkSource.read`. A
reader that hangs in the network is left behind: its own time limits end it.

An address that cannot be opened now is tried for ever: cameras reboot, radios change servers.
PyAV, which brings FFmpeg, is imported only here and only on use. Its messages may repeat the
address with the password in it, so none of them is shown.
"""

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from types import ModuleType
from typing import Any

import numpy as np

from streamcls.capture.arrival import WINDOW_S, ArrivalClock
from streamcls.capture.source import READ_WAIT_S, EndOfStream, SourceLost
from streamcls.capture.url import hide_credentials
from streamcls.errors import SourceError
from streamcls.types import Block
from streamcls.units import samples_to_ns

OPEN_TIMEOUT_S = 5.0
"""Until FFmpeg knows what it has; a feeder that is to stop waits at most so long."""
READ_TIMEOUT_S = 5.0
"""Nothing arrives for so long: the connection is dead."""
SEGMENT_TIMEOUT_S = 30.0
"""A live playlist brings its audio in segments, of up to 10 s as a rule, and nothing in between."""
SETTLING_S = 0.3
"""Servers begin with a burst of older audio; its length is taken from the first times."""
BUFFER_S = 10.0
"""Decoded audio that waits for the feeder; room for a burst while settling."""
MAX_BAD_PACKETS = 50
"""So many in a row cannot be decoded: begin afresh."""
HOLE_S = 0.01
"""Smaller jumps of the time stamps are rounding, larger ones lost audio ..."""
MAX_HOLE_S = 60.0
"""... and even larger ones a new count."""

PUSHED = frozenset({"rtsp", "rtsps", "rtmp", "rtmps", "srt", "udp", "rtp"})
"""The other side does not wait for us: what nobody takes in time is dropped here, counted."""
OPTIONS = {
    "analyzeduration": "500000",
    "probesize": "262144",
    # A playlist must not make us open files.
    "protocol_whitelist": "http,https,httpproxy,tcp,tls,crypto,data,udp,rtp,srtp,rtmp,rtmps,srt",
}
OPTIONS_BY_SCHEME = {
    "rtsp": {"rtsp_transport": "tcp", "allowed_media_types": "audio"},
    "rtsps": {"rtsp_transport": "tcp", "allowed_media_types": "audio"},
}
PLAYLISTS = frozenset({"hls", "dash"})
"""FFmpeg's names of formats whose size says nothing of the audio; a live one has no duration."""
FROM_NEWEST_SEGMENT = {"live_start_index": "-1"}
INSTALL_HINT = (
    "PyAV is not installed, so no audio can be taken from the network; install it with "
    "`pip install streamcls[network]`"
)


def load_av() -> ModuleType:
    """Import PyAV.

    Raises:
        SourceError: It is not installed, with the command that installs it.
    """
    try:
        import av
        import av.logging
    except ImportError as error:
        raise SourceError(INSTALL_HINT) from error
    return av


class NetworkSource:
    """Blocks of an address, as FFmpeg decodes them.

    A resource whose length the server tells, or a playlist that names its end, is a recording: it
    is read as fast as it is taken, its first frame has the time of opening and its end is the end.
    If it was cut short, the next opening goes on where it was. Everything else is live: its times
    follow from the arrivals, its end is a loss, and no recording that takes its place (a playlist
    whose end is known by now) is heard instead.

    Args:
        url: With one of the schemes of `NETWORK_SCHEMES`.
    """

    def __init__(self, url: str) -> None:
        self.sample_rate_hz = 0
        self.channels = 0
        self.live = True
        self.finite = False
        self._url = url
        self._shown = hide_credentials(url)
        self._reader: _Reader | None = None
        self._heard: _Heard | None = None
        self._was_live = False

    def __str__(self) -> str:
        return self._shown

    def check(self) -> None:
        """Look whether PyAV is there; the other side may come at any time."""
        load_av()

    def open(self) -> None:
        """Connect and wait until the format is known."""
        reader = _Reader(load_av(), self._url, self._shown, self._heard)
        reader.start()
        self._reader = reader
        reader.opened.wait(OPEN_TIMEOUT_S + 1.0)
        if not reader.knows_format:
            raise reader.failure or SourceLost(f"{self}: not open within {OPEN_TIMEOUT_S:g} s")
        self.sample_rate_hz, self.channels = reader.sample_rate_hz, reader.channels
        if reader.is_recording and self._was_live:
            raise SourceLost(f"{self}: what is there now is not live any more; it may be again")
        self._was_live = not reader.is_recording
        self.finite = reader.is_recording
        self.live = reader.is_pushed
        self._heard = reader.heard

    def read(self) -> Block | None:
        """Return the next decoded block."""
        assert self._reader is not None
        block = self._reader.take()
        if block is not None and self._heard is not None:
            self._heard.frames += block.lost_frames + len(block.samples)
        return block

    def close(self) -> None:
        """Tell the reader to end; it closes the connection itself."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.stop()


@dataclass(slots=True)
class _Heard:
    """How far a recording was heard.

    Attributes:
        what: By which it is known again: size in bytes, rate, channels.
        began_ns: When its first frame was heard.
        frames: So many of it.
    """

    what: tuple[int, int, int]
    began_ns: int
    frames: int = 0


class _Reader:
    """One connection: opened, decoded and closed on a thread of its own.

    Args:
        av: PyAV.
        url: Where to connect.
        shown: The same without secrets.
        heard: Of an earlier connection; the recording goes on there if it is the same.
    """

    def __init__(self, av: ModuleType, url: str, shown: str, heard: _Heard | None) -> None:
        self.heard = heard
        self.sample_rate_hz = 0
        self.channels = 0
        self.is_recording = False
        self.is_pushed = url.partition(":")[0].lower() in PUSHED
        self.failure: Exception | None = None
        self.knows_format = False
        self.opened = threading.Event()  # or failed
        self._av = av
        self._url = url
        self._shown = shown
        self._thread = threading.Thread(target=self._run, name=f"network {shown}", daemon=True)
        self._closing = False
        # Shared by both threads, under the lock.
        self._changed = threading.Condition()
        self._buffer: deque[Block] = deque()
        self._buffered_frames = 0
        self._dropped = 0  # frames, just before the oldest block
        # Of the reader's thread.
        self._resampler = av.AudioResampler(format="flt")
        self._bad_packets = 0
        self._frames = 0  # decoded or lost so far
        self._due_frame: int | None = None  # time stamp that would follow without a hole
        self._began_ns = 0
        self._skipped = 0  # frames that were heard before
        self._last_data_s = 0.0
        self._longest_silence_s = READ_TIMEOUT_S

    def start(self) -> None:
        self._last_data_s = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(READ_WAIT_S)

    def take(self) -> Block | None:
        """Return the oldest block; None when there was none for a while."""
        with self._changed:
            if not self._buffer and self.failure is None:
                self._changed.wait(READ_WAIT_S)
            if self._buffer:
                block = self._buffer.popleft()
                block = dataclasses.replace(block, lost_frames=block.lost_frames + self._dropped)
                self._dropped = 0
                self._buffered_frames -= len(block.samples)
                self._changed.notify_all()
                return block
            if self.failure is not None:
                raise self.failure
        silent_s = time.monotonic() - self._last_data_s
        if silent_s > self._longest_silence_s + 1.0:
            raise SourceLost(f"{self._shown}: no audio for {silent_s:.1f} s")
        return None

    def _run(self) -> None:
        try:
            self._read()
            failure: Exception = self._end()
        except (SourceError, EndOfStream) as error:
            failure = error
        except (self._av.error.ExitError, self._av.error.TimeoutError):
            failure = SourceLost(f"{self._shown}: no answer within {READ_TIMEOUT_S:g} s")
        except self._av.error.InvalidDataError:
            failure = SourceLost(f"{self._shown}: what the server sends is no audio FFmpeg knows")
        except (self._av.error.FFmpegError, OSError) as error:
            # strerror only: the rest repeats the address.
            reason = getattr(error, "strerror", None) or type(error).__name__
            failure = SourceLost(f"{self._shown}: {reason}")
        except Exception as error:  # noqa: BLE001 - a bug, made loud by the feeder
            failure = error
        with self._changed:
            self.failure = failure
            self._changed.notify_all()
        self.opened.set()

    def _end(self) -> Exception:
        if self.is_recording:
            return EndOfStream()
        return SourceLost(f"{self._shown}: the server ended the stream")

    def _read(self) -> None:
        scheme = self._url.partition(":")[0].lower()
        options = OPTIONS | OPTIONS_BY_SCHEME.get(scheme, {})
        read_timeout_s = READ_TIMEOUT_S
        if scheme in ("http", "https"):
            # What waits for the next segment is not stuck in a connection.
            options |= FROM_NEWEST_SEGMENT | {"rw_timeout": str(round(READ_TIMEOUT_S * 1e6))}
            read_timeout_s = SEGMENT_TIMEOUT_S
        with self._av.open(
            self._url,
            timeout=(OPEN_TIMEOUT_S, read_timeout_s),
            container_options=options,
            metadata_errors="replace",
        ) as container:
            if not container.streams.audio:
                raise SourceLost(f"{self._shown}: has no audio")
            stream = container.streams.audio[0]
            self.sample_rate_hz, self.channels = stream.rate, stream.codec_context.channels
            if not self.sample_rate_hz or not self.channels:
                raise SourceLost(f"{self._shown}: does not tell its rate and channels")
            in_segments = container.format.name in PLAYLISTS
            has_end = container.duration is not None if in_segments else container.size > 0
            self.is_recording = has_end and not self.is_pushed
            if in_segments and not self.is_recording:
                self._longest_silence_s = SEGMENT_TIMEOUT_S
            self._began_ns = time.monotonic_ns()
            self._find_place(container)
            self.knows_format = True
            self.opened.set()
            self._decode(container, stream)

    def _find_place(self, container: Any) -> None:
        """Find out whether this is the recording that was cut short, and where to go on."""
        what = (container.size, self.sample_rate_hz, self.channels)
        if not self.is_recording or container.duration is None:
            self.heard = None
        elif self.heard is None or self.heard.what != what:
            self.heard = _Heard(what, self._began_ns)
        else:
            self._began_ns, self._skipped = self.heard.began_ns, self.heard.frames

    def _decode(self, container: Any, stream: Any) -> None:
        clock = ArrivalClock(self.sample_rate_hz, max(WINDOW_S, self._longest_silence_s))
        settled_s = time.monotonic() + (0.0 if self.is_recording else SETTLING_S)
        full_frames = max(BUFFER_S / 2, self._longest_silence_s) * self.sample_rate_hz
        pieces: list[tuple[int, int, np.ndarray]] = []
        try:
            for packet in container.demux(stream):
                arrived_ns = time.monotonic_ns()
                self._last_data_s = time.monotonic()
                if self._closing:
                    return
                pieces += self._decode_packet(packet)
                clock.observe(self._frames, arrived_ns)
                burst_frames = self._frames - pieces[0][0] if pieces else 0
                if time.monotonic() >= settled_s or burst_frames > full_frames:
                    self._hand_over(pieces, clock)
        finally:
            self._hand_over(pieces, clock)

    def _decode_packet(self, packet: Any) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield index of the first frame, frames lost before it, and samples."""
        try:
            frames = [f for raw in packet.decode() for f in self._resampler.resample(raw)]
            self._bad_packets = 0
        except self._av.error.FFmpegError:
            self._bad_packets += 1
            if self._bad_packets > MAX_BAD_PACKETS:
                raise
            return
        for frame in frames:
            if (frame.rate, len(frame.layout.channels)) != (self.sample_rate_hz, self.channels):
                raise SourceLost(f"{self._shown}: changed its format")
            samples = frame.to_ndarray().reshape(-1, self.channels)
            lost = 0
            if frame.pts is not None:
                lost = self._find_hole(frame.pts * frame.time_base, len(samples))
            self._frames += lost
            yield self._frames, lost, samples
            self._frames += len(samples)

    def _find_hole(self, at_s: Fraction, n_frames: int) -> int:
        """Return how many frames are missing by the time stamps of this piece and the last one."""
        at_frame = round(at_s * self.sample_rate_hz)
        hole = 0 if self._due_frame is None else at_frame - self._due_frame
        self._due_frame = at_frame + n_frames
        return hole if HOLE_S < hole / self.sample_rate_hz <= MAX_HOLE_S else 0

    def _hand_over(self, pieces: list[tuple[int, int, np.ndarray]], clock: ArrivalClock) -> None:
        for begin, lost, samples in pieces:
            first = max(begin, self._skipped)
            if self.is_recording:
                t_ns = self._began_ns + samples_to_ns(first, self.sample_rate_hz)
            else:
                t_ns = clock.time_ns(first)
            if first - begin < len(samples):
                new_lost = max(0, min(lost, begin - self._skipped))
                self._put(Block(samples[first - begin :], t_ns, new_lost))
        pieces.clear()

    def _put(self, block: Block) -> None:
        n_frames = len(block.samples)
        limit = BUFFER_S * self.sample_rate_hz
        with self._changed:
            while self._buffered_frames + n_frames > limit and self._buffer and not self._closing:
                if self.is_pushed:
                    gone = self._buffer.popleft()
                    self._buffered_frames -= len(gone.samples)
                    self._dropped += gone.lost_frames + len(gone.samples)
                else:
                    self._changed.wait(READ_WAIT_S)
                    self._last_data_s = time.monotonic()
            self._buffer.append(block)
            self._buffered_frames += n_frames
            self._changed.notify_all()
