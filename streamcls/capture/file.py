"""A sound file as a source: at the pace of a microphone or as fast as it is read.

Runs wholly on the feeder's thread, at real-time pace on the one it shares with other files.
Whatever libsndfile reads: WAV, FLAC, Ogg, MP3, ...
"""

import math
import stat
import time
from collections import deque
from pathlib import Path

import numpy as np
import soundfile

from streamcls.capture.source import EndOfStream, Pace
from streamcls.errors import SourceError
from streamcls.types import Block, FloatArray
from streamcls.units import NS_PER_S, samples_to_ns

BLOCK_S = 0.04
LONGEST_BLOCK_S = 0.08
DECODED_S = 0.4
"""Decoded at once: libsndfile seeks after every read, which costs more than decoding a block."""


class FileSource:
    """Blocks from a sound file.

    The first sample has the time of opening (or `start_ns`), later ones follow by the file's
    rate, whatever the pace.

    Args:
        path: The file.
        pace: ``realtime`` hands a block over when a microphone would have: at its end.
        start_ns: Time of the first sample; None takes the moment of opening.

    Attributes:
        block_s: Length of a block; see `suit_hops`.
    """

    finite = True

    def __init__(self, path: Path, pace: Pace = "realtime", start_ns: int | None = None) -> None:
        self.path = path
        self.live = pace == "realtime"
        self.block_s = BLOCK_S
        self.sample_rate_hz = 0
        self.channels = 0
        self._start_ns = start_ns
        self._first_ns = 0
        self._began_ns = 0
        self._due_ns = 0  # when the next block may be read
        self._frames_read = 0
        self._decoded: deque[FloatArray] = deque()
        self._file: soundfile.SoundFile | None = None

    def __str__(self) -> str:
        return f"file:{self.path}"

    def check(self) -> None:
        """Look whether the file is there and can be decoded."""
        with self._load_header() as file:
            self.sample_rate_hz, self.channels = file.samplerate, file.channels

    def suit_hops(self, hop_samples: int, rate_hz: int) -> None:
        """Hand over whole hops, or equal parts of long ones, to a model that takes the file as is.

        Less than a hop completes no prediction and costs as much. Where the rates differ blocks
        stay short, because a resampler keeps the end of each to itself until the next.
        """
        if self.sample_rate_hz == rate_hz:
            parts = math.ceil(hop_samples / (LONGEST_BLOCK_S * rate_hz))
            while hop_samples % parts:
                parts += 1
            self.block_s = hop_samples / parts / rate_hz

    def open(self) -> None:
        """Open the file and start its clock."""
        self._file = self._load_header()
        self.sample_rate_hz, self.channels = self._file.samplerate, self._file.channels
        self._began_ns = time.monotonic_ns()
        self._first_ns = self._began_ns if self._start_ns is None else self._start_ns
        self._frames_read = 0
        self._decoded.clear()

    def read(self) -> Block | None:
        """Return the next block; None when its last sample is not due yet."""
        if not self._decoded:
            self._decode()
        if self.wait_s() > 0:
            return None
        samples = self._decoded.popleft()
        elapsed_ns = samples_to_ns(self._frames_read, self.sample_rate_hz)
        self._frames_read += len(samples)
        self._look_ahead()
        return Block(samples, self._first_ns + elapsed_ns)

    def wait_s(self) -> float:
        """Return how long until the next block is due; 0 where it need not be waited for."""
        if not self.live or not self._decoded:
            return 0.0
        return max(0.0, (self._due_ns - time.monotonic_ns()) / NS_PER_S)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _decode(self) -> None:
        """Decode some blocks; one at a time where several cannot be, up to the damage itself."""
        if self._file is None:
            raise EndOfStream
        n = max(1, round(self.block_s * self.sample_rate_hz))
        try:
            samples = self._read_frames(self._file, n * round(DECODED_S / self.block_s))
        except soundfile.LibsndfileError:
            try:
                self._file.seek(self._frames_read)
                samples = self._read_frames(self._file, n)
            except soundfile.LibsndfileError as error:
                raise SourceError(self._describe_damage(str(error))) from error
        if len(samples) == 0:
            if self._file.seekable() and self._frames_read < self._file.frames:
                raise SourceError(self._describe_damage("the rest cannot be decoded"))
            raise EndOfStream
        self._decoded.extend(samples[first : first + n] for first in range(0, len(samples), n))
        self._look_ahead()

    def _look_ahead(self) -> None:
        """Note when the last sample of the next block is due: it is asked for more than once."""
        if self._decoded:
            end = self._frames_read + len(self._decoded[0])
            self._due_ns = self._began_ns + samples_to_ns(end, self.sample_rate_hz)

    @staticmethod
    def _read_frames(file: soundfile.SoundFile, frames: int) -> FloatArray:
        return np.asarray(file.read(frames, dtype="float32", always_2d=True), np.float32)

    def _describe_damage(self, reason: str) -> str:
        assert self._file is not None
        at_s = self._frames_read / self.sample_rate_hz
        all_s = self._file.frames / self.sample_rate_hz
        return f"{self.path}: damaged at {at_s:.2f} s of {all_s:.2f} s ({reason}); copy it again"

    def _load_header(self) -> soundfile.SoundFile:
        try:
            status = self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            raise SourceError(f"{self.path}: no such file; give the path of a sound file") from None
        except OSError as error:
            raise SourceError(f"{self.path}: {error.strerror}; check its permissions") from error
        if stat.S_ISDIR(status.st_mode):
            raise SourceError(f"{self.path}: is a folder; give the path of a sound file")
        if status.st_size == 0:
            raise SourceError(f"{self.path}: is empty (0 bytes); was it written to its end?")
        try:
            file = soundfile.SoundFile(self.path)
        except soundfile.LibsndfileError as error:
            reason = str(error).rpartition(": ")[2].strip() or str(error)
            raise SourceError(
                f"{self.path}: cannot be read as sound ({reason}); "
                "WAV, FLAC, Ogg and MP3 files can; convert it, for example with ffmpeg"
            ) from error
        except TypeError as error:  # a name that says raw: there is no header to go by
            raise SourceError(
                f"{self.path}: raw audio has no header that tells its rate; "
                "declare it and read it as a pipe: streamcls run --source pipe: < FILE"
            ) from error
        except OSError as error:
            raise SourceError(f"{self.path}: {error.strerror}; check its permissions") from error
        if file.frames == 0:
            file.close()
            raise SourceError(f"{self.path}: holds no audio (0 samples); record it again")
        return file
