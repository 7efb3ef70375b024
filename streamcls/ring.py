"""The ring: mono audio at the model's rate between one capture thread and the engine.

Flow: capture (feeder) -> **ring** -> features. The feeder's thread is the only writer, the
engine's thread the only reader. Nobody takes a lock: the writer announces what it is about to
overwrite (*reserve*), copies, then announces what is readable (*commit*); the reader copies and
looks afterwards whether the writer has got into its way (a seqlock). Torn audio is thrown away
and counted, never returned.

Samples are copied as memory, not as arrays: NumPy lets go of the interpreter's lock for every copy
of more than 500 numbers, and getting it back from a busy thread takes longer than the copy.

Two countings: a *position* counts stored samples, an *absolute index* counts lost samples too.
They differ by the holes: segment `k` of consecutive audio starts at `position` and has absolute
index `index` there. The writer replaces the tuple of segments as a whole when a hole appears.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from streamcls.clock import StreamClock
from streamcls.types import FloatArray, Hop

MAX_SEGMENTS = 64
"""Holes remembered at once. More than that in one ring of audio means a broken device; the
oldest audio is then dropped as if it were overrun."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive audio: stored from `position` on, with absolute index `index` there."""

    position: int
    index: int


class Ring:
    """Fixed-capacity ring of one stream's audio; one writer thread, one reader thread.

    At any quiet moment ``written + skipped == read + dropped + pending``.

    Args:
        capacity_samples: Samples held; a hop may be at most half of it (without `keep_samples`).
        sample_rate_hz: The model's rate.
        on_data: See `listen`.
        keep_samples: Of the capacity, what a writer that waits for space leaves behind the reader
            for `rewind`.
        first_index: Absolute index of the first sample.
        utc_offset_ns: What to add to the times that the writer gives to get UTC, now:
            `clock.read_utc_offset_ns` where they are monotonic times, as those of sources are.

    Attributes:
        longest_hop_samples: Half of the ring without what it keeps: more could neither be read nor
            waited for.
        written: Samples stored since the start.
        skipped: Samples declared lost by the writer.
        read: Real samples handed out in hops.
        passed: Skipped samples that the reader has moved over.
        discarded: Samples of pieces too short for a hop in front of a hole.
        overrun_samples: Samples overwritten before they were read.
        overrun_events: How often that happened.
    """

    def __init__(
        self,
        capacity_samples: int,
        sample_rate_hz: int,
        on_data: Callable[[], None] = lambda: None,
        keep_samples: int = 0,
        utc_offset_ns: Callable[[], int] = lambda: 0,
        first_index: int = 0,
    ) -> None:
        if capacity_samples - keep_samples < 2:
            raise ValueError(
                f"capacity_samples is {capacity_samples}, must be at least {keep_samples + 2}"
            )
        self.capacity_samples = capacity_samples
        self.keep_samples = keep_samples
        self.sample_rate_hz = sample_rate_hz
        self.longest_hop_samples = (capacity_samples - keep_samples) // 2
        self._samples = np.zeros(capacity_samples, np.float32).data
        self._utc_offset_ns = utc_offset_ns
        self._first_index = first_index
        self._clock = StreamClock(sample_rate_hz, utc_offset_ns)
        self._on_data = on_data
        # Written by the writer only.
        self._segments = (Segment(0, first_index),)
        self._reserved = 0
        self.written = 0
        self.skipped = 0
        self._nonfinite: tuple[tuple[int, int], ...] = ()  # absolute indices from, to; ascending
        self._closed = False
        # Written by the reader only.
        self._position = 0
        self._index = first_index
        self._hop_end_index = first_index
        self._run_position = 0  # where the audio read last without a loss in between begins
        self.read = 0
        self.passed = 0
        self.discarded = 0
        self.overrun_samples = 0
        self.overrun_events = 0
        self._space = threading.Event()
        self._abandoned = False

    # Either side.

    @property
    def index_end(self) -> int:
        """Absolute index one past the newest sample: ``first_index + written + skipped``."""
        return self._first_index + self.written + self.skipped

    def succeed(self, capacity_samples: int, sample_rate_hz: int, keep_samples: int) -> "Ring":
        """Return an empty ring of another rate that goes on at the same time of the stream."""
        ratio = sample_rate_hz / self.sample_rate_hz
        index_end = self.index_end
        successor = Ring(
            capacity_samples,
            sample_rate_hz,
            keep_samples=keep_samples,
            utc_offset_ns=self._utc_offset_ns,
            first_index=round(index_end * ratio),
        )
        t_ns = self._clock.time_ns(index_end) - self._utc_offset_ns()
        successor._clock.expect(successor.index_end, t_ns)
        return successor

    def time_ns(self, sample_index: int) -> int:
        """Return the UTC time of an absolute sample index by the source's clock."""
        return self._clock.time_ns(sample_index)

    def index_at(self, t_ns: int) -> int:
        """Return the absolute index of the sample taken at a time as `write` takes it."""
        return self._clock.index_at(t_ns)

    @property
    def drift_ppm(self) -> float | None:
        """How much faster than ours the source's clock is, in millionths; None: not known yet."""
        return self._clock.drift_ppm

    # Writer's side.

    def write(self, samples: FloatArray, t_first_ns: int, has_nonfinite: bool = False) -> None:
        """Store consecutive audio; never blocks, overwrites the oldest.

        Args:
            samples: ``[n]`` float32, mono, at the ring's rate.
            t_first_ns: Time of ``samples[0]`` by the source's clock.
            has_nonfinite: Some of them replace NaN or infinite ones.
        """
        if samples.size == 0 or self._closed:  # closed over a driver that hung until now
            return
        if not self._clock.observe(self.index_end, t_first_ns):
            # The source paused or its clock was set: times start afresh, and because times must
            # not run backwards within an epoch, one sample is declared lost to begin a new one.
            self.skip(1)
            self._clock.observe(self.index_end, t_first_ns)
        if has_nonfinite:
            self._note_nonfinite(self.index_end, self.index_end + samples.size)
        audio, step = samples.data, max(1, self.longest_hop_samples // 2)
        for first in range(0, samples.size, step):
            self._store(audio[first : first + step])
        self._on_data()

    def skip(self, lost_samples: int) -> None:
        """Mark a hole: `lost_samples` of the stream never arrived."""
        if lost_samples <= 0:
            return
        kept = self._segments
        if kept[-1].position == self.written:
            kept = kept[:-1]  # no audio since the last hole: they are one
        floor = max(self._position, self._reserved - self.capacity_samples)
        while len(kept) > 1 and kept[1].position <= floor:
            kept = kept[1:]
        self.skipped += lost_samples
        opened = Segment(self.written, self.index_end)
        self._segments = (*kept[1 - MAX_SEGMENTS :], opened)
        self._clock.restart()
        self._on_data()

    def close(self) -> None:
        """Mark the end of the stream; what is stored can still be read."""
        self._closed = True
        self._on_data()

    def wait_for_space(self, n_samples: int, timeout_s: float) -> bool:
        """Wait until `n_samples` can be written without an overrun (sources that can wait).

        Returns:
            False when there was still no space after `timeout_s`.

        Raises:
            ValueError: `n_samples` is more than half of what can be waited for, which could take
                for ever with a reader that waits for a whole hop.
        """
        limit = self.longest_hop_samples
        if n_samples > limit:
            raise ValueError(f"cannot wait for {n_samples} samples, the limit is {limit}")
        self._space.clear()
        if self._abandoned or self._free_samples() >= n_samples:
            return True
        self._space.wait(timeout_s)
        return self._abandoned or self._free_samples() >= n_samples

    def _free_samples(self) -> int:
        return self.capacity_samples - self.keep_samples - (self.written - self._position)

    def _note_nonfinite(self, start: int, end: int) -> None:
        oldest = self._index - self.capacity_samples  # further back the reader cannot go
        spans = [span for span in self._nonfinite if span[1] > oldest]
        if spans and (spans[-1][1] == start or len(spans) == MAX_SEGMENTS):
            start = spans.pop()[0]  # too many to tell apart: rather flag too much
        self._nonfinite = (*spans, (start, end))

    def _store(self, audio: memoryview) -> None:
        n = len(audio)
        self._reserved = self.written + n
        start = self.written % self.capacity_samples
        head = min(n, self.capacity_samples - start)
        self._samples[start : start + head] = audio[:head]
        if head < n:
            self._samples[: n - head] = audio[head:]
        self.written = self._reserved

    # Reader's side.

    def listen(self, on_data: Callable[[], None]) -> None:
        """Have the writer call `on_data` whenever there is news: audio, a hole, the end."""
        self._on_data = on_data

    @property
    def closed(self) -> bool:
        """The writer will write no more."""
        return self._closed

    @property
    def dropped(self) -> int:
        """All samples the reader had to do without so far."""
        return self.passed + self.discarded + self.overrun_samples

    @property
    def pending(self) -> int:
        """Absolute indices between the reader and the writer, holes included."""
        return self.index_end - self._index

    @property
    def waiting(self) -> int:
        """Samples that were stored and neither read nor given up (yet).

        ``written == read + discarded + overrun_samples + waiting``.
        """
        return self.written - self.read - self.discarded - self.overrun_samples

    @property
    def ended(self) -> bool:
        """The writer has closed the ring and everything was read."""
        return self._closed and self.pending == 0

    def available(self) -> int:
        """Return the stored samples not yet read.

        `read_hop` may still return None for them: when a hole leaves a piece shorter than a hop.
        """
        return min(self.written - self._position, self.capacity_samples)

    def read_hop(self, out: FloatArray) -> Hop | None:
        """Copy the next hop of consecutive audio.

        Audio in front of a hole that does not fill a hop is dropped. After an overrun whole hops
        are dropped until at most a quarter of the ring is pending (or a hop, if that is more): one
        long loss costs the receiver one fresh start, many short ones would never let it get warm.
        Under lasting overload the run between two losses is the longer, the more is given up.

        Args:
            out: ``[hop_samples]`` float32 to fill; the end is zeroed when the stream ends inside
                the hop.

        Returns:
            Where the hop lies, or None when there is no whole hop yet.

        Raises:
            ValueError: `out` is longer than half the ring (without what it keeps).
        """
        hop_samples = out.size
        limit = self.longest_hop_samples
        if not 1 <= hop_samples <= limit:
            raise ValueError(f"a hop has 1 to {limit} samples in this ring, not {hop_samples}")
        while True:
            closed = self._closed  # looked at first: nothing follows a close
            segments, written, floor = self._look()
            if self._position < floor:
                self._drop_overrun(segments, written, floor, hop_samples)
            end = self._find_piece_end(segments, written, hop_samples)
            n_real = min(hop_samples, end - self._position)
            if n_real < hop_samples and (n_real == 0 or not closed):
                return None
            self._load(out, n_real)
            if self._reserved - self.capacity_samples <= self._position:
                break  # the writer has not touched what we copied
        if n_real < hop_samples:
            out[n_real:] = 0.0
        start, end = self._index, self._index + n_real
        spans = self._nonfinite
        nonfinite = bool(spans) and any(first < end and last > start for first, last in spans)
        hop = Hop(start, n_real, start - self._hop_end_index, nonfinite)
        if hop.lost_samples > 0:
            self._run_position = self._position
        self._move(self._position + n_real, segments)
        self._hop_end_index = end
        self.read += n_real
        if not self._space.is_set():
            self._space.set()
        return hop

    def abandon(self) -> None:
        """Read no more, for good: no writer waits for space any longer."""
        self._abandoned = True
        self._space.set()

    def release(self) -> None:
        """Give the memory back: everything was read to the end; the books remain."""
        self._samples = memoryview(b"")

    def rewind(self, hop_samples: int, n_hops: int) -> int:
        """Go back, so that the newest audio that was read is read again, and no longer `read`.

        Never past a loss, past what is still stored, or so far that the writer could not go on
        meanwhile: `keep_samples`, or three quarters of the ring in all. A loss that was told
        with a hop is not told again.

        Args:
            hop_samples: Only whole hops of this many samples count.
            n_hops: As many of them at most.

        Returns:
            How many hops the reader went back.
        """
        if self._index != self._hop_end_index:
            return 0  # a loss lies between the audio read last and what comes next
        _, written, oldest = self._look()
        room = min(self._position - self.keep_samples, written - self.capacity_samples * 3 // 4)
        furthest = max(room, oldest, self._run_position)
        hops = max(0, min(n_hops, (self._position - furthest) // hop_samples))
        back = hops * hop_samples
        self._position -= back
        self._index -= back
        self._hop_end_index -= back
        self.read -= back
        return hops

    def _look(self) -> tuple[tuple[Segment, ...], int, int]:
        """Return segments, samples written and lowest readable position, fitting together."""
        while True:
            oldest = self._reserved - self.capacity_samples
            segments = self._segments
            written = self.written
            if segments is self._segments:
                return segments, written, max(oldest, segments[0].position)

    def _move(self, position: int, segments: tuple[Segment, ...]) -> int:
        """Go to a stored position, past holes if need be; return the audio left behind."""
        segment = segments[-1]  # mostly: holes are rare
        if segment.position > position:
            segment = next(s for s in reversed(segments) if s.position <= position)
        index = segment.index + position - segment.position
        audio = position - self._position
        self.passed += index - self._index - audio
        self._position, self._index = position, index
        return audio

    def _drop_overrun(
        self, segments: tuple[Segment, ...], written: int, floor: int, hop_samples: int
    ) -> None:
        """Give up the oldest audio, in whole hops of the piece of audio they lie in."""
        target = max(floor, written - max(self.capacity_samples // 4, hop_samples))
        start = max([s.position for s in segments if s.position <= target] + [self._position])
        position = start + -(-(target - start) // hop_samples) * hop_samples
        position = min([s.position for s in segments if s.position > target] + [position])
        self.overrun_samples += self._move(position, segments)
        self.overrun_events += 1

    def _find_piece_end(self, segments: tuple[Segment, ...], written: int, hop_samples: int) -> int:
        """Move over pieces too short for a hop in front of a hole; return where ours ends."""
        if segments[-1].position < self._position:
            return written
        for segment in segments:
            ahead = segment.position - self._position
            if ahead >= hop_samples:
                return segment.position
            if ahead >= 0:
                self.discarded += self._move(segment.position, segments)
        return written

    def _load(self, out: FloatArray, n: int) -> None:
        """Copy the next ``n`` samples to the beginning of ``out``."""
        audio = out.data
        start = self._position % self.capacity_samples
        head = min(n, self.capacity_samples - start)
        audio[:head] = self._samples[start : start + head]
        if head < n:
            audio[head:n] = self._samples[: n - head]
