"""Raw PCM from standard input or any other file descriptor.

Runs wholly on the feeder's thread: ``arecord -t raw ... | streamcls run --source pipe:``.
"""

import os
import sys
import time

import numpy as np

from streamcls.capture.source import EndOfStream, SampleFormat, wait_to_read
from streamcls.errors import SourceError
from streamcls.types import Block, FloatArray
from streamcls.units import NS_PER_S, samples_to_ns

READ_BYTES = 1 << 14
PAUSE_NS = 2 * NS_PER_S
"""A producer that is silent for longer has stopped and started again."""

BYTES_PER_SAMPLE: dict[SampleFormat, int] = {"s16le": 2, "s24le": 3, "s32le": 4, "f32le": 4}


def decode_pcm(data: bytes, sample_format: SampleFormat) -> FloatArray:
    """Return little-endian PCM as float32, full scale = 1.

    Args:
        data: Whole samples.
        sample_format: Their encoding.

    Returns:
        ``[samples]`` float32; integers lie in [-1, 1).

    Example:
        >>> decode_pcm(bytes([0, 64, 0, 128]), "s16le").tolist()
        [0.5, -1.0]
    """
    if sample_format == "f32le":
        return np.frombuffer(data, "<f4").astype(np.float32)
    if sample_format == "s16le":
        return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(1 << 15)
    if sample_format == "s32le":
        return (np.frombuffer(data, "<i4") / float(1 << 31)).astype(np.float32)
    wide = np.zeros((len(data) // 3, 4), np.uint8)  # the three bytes on top of a 32-bit integer
    wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
    return wide.reshape(-1).view("<i4").astype(np.float32) / np.float32(1 << 31)


class PipeSource:
    """Blocks from a byte stream; reading slowly makes the producer wait, nothing is dropped.

    A pipe has no clock. Times count on from the arrival of the first byte at the declared rate,
    and afresh after a pause of more than two seconds.

    Args:
        sample_rate_hz: Declared rate.
        channels: Declared channels, interleaved.
        sample_format: Declared encoding.
        fd: Where to read; None is standard input.
    """

    live = False
    finite = True

    def __init__(
        self,
        sample_rate_hz: int,
        channels: int = 1,
        sample_format: SampleFormat = "s16le",
        fd: int | None = None,
    ) -> None:
        self.sample_rate_hz = sample_rate_hz
        self.channels = channels
        self.sample_format: SampleFormat = sample_format
        self._frame_bytes = BYTES_PER_SAMPLE[sample_format] * channels
        self._fd_wanted = fd
        self._fd = -1
        self._rest = b""
        self._first_ns = 0
        self._frames_read = 0
        self._arrived_ns = 0

    def __str__(self) -> str:
        return "pipe:"

    def check(self) -> None:
        """Look whether standard input is there and is not a terminal."""
        fd = self._find_fd()
        if os.isatty(fd):
            raise SourceError(
                "pipe: standard input is a terminal; pipe raw audio into it, for example "
                f"arecord -t raw -f S16_LE -r {self.sample_rate_hz} | streamcls run --source pipe:"
            )

    def open(self) -> None:
        """Begin to read; the clock starts with the first byte."""
        self.check()
        self._fd = self._find_fd()
        self._rest = b""
        self._frames_read = 0
        self._arrived_ns = 0

    def read(self) -> Block | None:
        """Return the whole frames that have arrived."""
        try:
            if not wait_to_read(self._fd):
                return None
            data = os.read(self._fd, READ_BYTES)
        except OSError as error:
            raise SourceError(f"pipe: cannot be read: {error.strerror}") from error
        if not data:
            raise EndOfStream(self._describe_rest())
        data = self._rest + data
        n = len(data) // self._frame_bytes
        self._rest = data[n * self._frame_bytes :]
        if n == 0:
            return None
        samples = decode_pcm(data[: n * self._frame_bytes], self.sample_format)
        return Block(samples.reshape(n, self.channels), self._time_first_ns(n))

    def close(self) -> None:
        """Leave the descriptor to whoever opened it."""
        self._fd = -1

    def _describe_rest(self) -> str:
        if not self._rest:
            return "the producer closed the pipe"
        return (
            f"the pipe ended inside a frame ({len(self._rest)} of {self._frame_bytes} bytes); are "
            f"channels ({self.channels}) and format ({self.sample_format}) declared right?"
        )

    def _time_first_ns(self, n_frames: int) -> int:
        now_ns = time.monotonic_ns()
        if now_ns - self._arrived_ns > PAUSE_NS:
            first_ns = now_ns - samples_to_ns(n_frames, self.sample_rate_hz)
            expected_ns = self._first_ns + samples_to_ns(self._frames_read, self.sample_rate_hz)
            if self._arrived_ns == 0 or first_ns > expected_ns:
                self._first_ns, self._frames_read = first_ns, 0
        self._arrived_ns = now_ns
        t_ns = self._first_ns + samples_to_ns(self._frames_read, self.sample_rate_hz)
        self._frames_read += n_frames
        return t_ns

    def _find_fd(self) -> int:
        if self._fd_wanted is not None:
            return self._fd_wanted
        try:
            return sys.stdin.fileno()
        except (AttributeError, OSError, ValueError) as error:
            raise SourceError("pipe: standard input is closed; pipe raw audio into it") from error
