"""From a source's blocks to the ring: sanitise, choose the channel, resample, place in time.

Called by the feeder on its thread. Outlives the source: totals and indices run on over losses.
"""

import threading

import numpy as np

from streamcls.capture.resample import Channel, Resampler, select_channel
from streamcls.capture.source import READ_WAIT_S
from streamcls.ring import Ring
from streamcls.types import Block, FloatArray
from streamcls.units import samples_to_ns

INT16_SCALE = np.float32(2.0**-15)
LARGEST_SAMPLE = 1e6
"""Full scale is 1; beyond +120 dBFS stands garbage that would overflow in the features."""
SILENCE_PEAK = 2.0**-15
"""One step of a 16-bit converter; what stays below it is digital silence."""
_TWO_OR_MORE = 0x40000000_40000000
"""The bit that magnitudes of 2 and more, infinity and NaN have in common, in either half of a
word of two samples."""
_PROBES = 8


class Intake:
    """Turns blocks of one stream into ring audio.

    Args:
        ring: Where to write, at the model's rate.
        channel: Which native channel, or ``mix``.
        stopping: Set when nobody wants more audio; ends waiting for space.

    Attributes:
        ring: Where it writes at present.
        xruns: Driver overflows so far.
        nonfinite_samples: Native samples replaced by zeros because they were NaN, infinite or
            absurdly large.
    """

    def __init__(self, ring: Ring, channel: Channel, stopping: threading.Event) -> None:
        self.xruns = 0
        self.nonfinite_samples = 0
        self._silent_frames = 0
        self.ring = ring
        self._channel: Channel = channel
        self._stopping = stopping
        self._resampler: Resampler | None = None
        self._can_wait = False
        self._native_rate_hz = 0
        # Of the current source, from its first block: its place in the ring and native frames
        # with the lost ones.
        self._base_index: int | None = None
        self._native_frames = 0
        # Of the current piece of consecutive audio: samples in and out, time of its beginning.
        self._piece_in = 0
        self._piece_out = 0
        self._piece_t_ns = 0
        self._has_nonfinite = False

    @property
    def silence_s(self) -> float:
        """How long it has been digitally silent up to now."""
        return self._silent_frames / self._native_rate_hz if self._silent_frames else 0.0

    def begin(self, native_rate_hz: int, can_wait: bool) -> None:
        """Prepare for the blocks of a source that was just opened.

        Args:
            native_rate_hz: Its rate.
            can_wait: It is not live: rather wait for the reader than overrun.
        """
        self._resampler = Resampler(native_rate_hz, self.ring.sample_rate_hz)
        self._native_rate_hz = native_rate_hz
        self._can_wait = can_wait
        self._base_index = None
        self._native_frames = 0
        self._silent_frames = 0

    def take(self, block: Block) -> None:
        """Write one block; a loss in front of it becomes a hole.

        Raises:
            SourceError: The source has no such channel.
        """
        self.xruns += block.xruns
        if self._base_index is None:
            # What a driver lost before its first block belongs to the outage.
            if self.ring.index_end > 0:
                away = self.ring.index_at(block.t_first_ns) - self.ring.index_end
                self.ring.skip(max(1, away))
            self._base_index = self.ring.index_end
            self._begin_piece()
        elif block.lost_frames > 0:
            self._flush()
            self._native_frames += block.lost_frames
            # From the source's first block, so that rounding does not add up.
            model_rate_hz = self.ring.sample_rate_hz
            passed = round(self._native_frames * model_rate_hz / self._native_rate_hz)
            self.ring.skip(max(1, self._base_index + passed - self.ring.index_end))
            self._begin_piece()
        mono = self._sanitise(select_channel(_as_float(block.samples), self._channel))
        self._piece_t_ns = block.t_first_ns - samples_to_ns(self._piece_in, self._native_rate_hz)
        self._piece_in += mono.size
        self._native_frames += mono.size
        assert self._resampler is not None
        self._write(self._resampler.process(mono))

    def move_to(self, ring: Ring) -> None:
        """Write into another ring, of another rate, from the next block on.

        In one that was left before, what came in between is a hole.
        """
        if self._base_index is not None:
            self._flush()
            self._base_index = None if ring.written else ring.index_end
        self.ring = ring
        self._native_frames = 0
        self._begin_piece()
        if self._resampler is not None:
            self._resampler = Resampler(self._native_rate_hz, ring.sample_rate_hz)

    def end(self) -> None:
        """Write what the resampler still holds: the source has ended or broken away."""
        if self._base_index is not None:
            self._flush()
            self._base_index = None
        # Let go of it: soxr complains on standard error about one that outlives the interpreter.
        self._resampler = None

    def _begin_piece(self) -> None:
        self._piece_in = self._piece_out = 0

    def _flush(self) -> None:
        assert self._resampler is not None
        self._write(self._resampler.flush())

    def _sanitise(self, mono: FloatArray) -> FloatArray:
        if _is_ordinary(mono):
            self._has_nonfinite, self._silent_frames = False, 0
            return mono
        magnitude = np.abs(mono)
        peak = magnitude.max(initial=0.0)
        self._has_nonfinite = not peak <= LARGEST_SAMPLE  # a NaN compares with nothing
        if self._has_nonfinite:
            good = magnitude <= LARGEST_SAMPLE
            self.nonfinite_samples += mono.size - int(np.count_nonzero(good))
            mono = np.where(good, mono, np.float32(0.0))
        if self._has_nonfinite or peak > SILENCE_PEAK:
            self._silent_frames = 0
        else:
            self._silent_frames += mono.size
        return mono

    def _write(self, samples: FloatArray) -> None:
        if not self._can_wait:
            self._put(samples)
            return
        step = max(1, self.ring.longest_hop_samples // 2)
        for first in range(0, samples.size, step):
            piece = samples[first : first + step]
            while not self.ring.wait_for_space(piece.size, READ_WAIT_S):
                if self._stopping.is_set():
                    return
            self._put(piece)

    def _put(self, samples: FloatArray) -> None:
        t_ns = self._piece_t_ns + samples_to_ns(self._piece_out, self.ring.sample_rate_hz)
        self.ring.write(samples, t_ns, self._has_nonfinite)
        self._piece_out += samples.size


def _is_ordinary(mono: FloatArray) -> bool:
    """Tell whether a glance shows that audio is neither silent nor too large; mostly it does.

    All bits of all samples together, two samples a word: NumPy does not let go of the
    interpreter's lock for so few numbers. With hundreds of streams the engine's thread would be
    woken by each of these moments, and find the lock taken again.
    """
    n = mono.size
    if n == 0 or n % 2:
        return False
    if int(np.bitwise_or.reduce(mono.view(np.uint64))) & _TWO_OR_MORE:
        return False
    return max(mono.data[:: n // _PROBES or 1]) > SILENCE_PEAK


def _as_float(samples: np.ndarray) -> FloatArray:
    if samples.dtype == np.int16:
        return samples.astype(np.float32) * INT16_SCALE
    return samples
