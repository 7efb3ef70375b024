"""Sound files as sources: every sample, the right times, and clear words for bad files."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from streamcls.capture.file import FileSource
from streamcls.capture.source import EndOfStream
from streamcls.errors import SourceError
from streamcls.types import Block
from streamcls.units import NS_PER_S

START_NS = 1_700_000_000 * NS_PER_S


def noise(seconds: float, rate_hz: int, channels: int) -> np.ndarray:
    shape = (round(seconds * rate_hz), channels)
    return np.random.default_rng(1).uniform(-0.9, 0.9, shape).astype(np.float32)


def read_all(source: FileSource) -> Iterator[Block]:
    source.open()
    try:
        while True:
            if (block := source.read()) is not None:
                yield block
    except EndOfStream:
        return
    finally:
        source.close()


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_blocks_joined_are_the_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"noise{suffix}"
    soundfile.write(path, noise(0.51, 44_100, 2), 44_100)
    source = FileSource(path, "fast", START_NS)
    expected, _ = soundfile.read(path, dtype="float32")
    for _ in range(2):  # can be opened again
        position = 0
        for block in read_all(source):
            n = len(block.samples)
            np.testing.assert_array_equal(block.samples, expected[position : position + n])
            assert abs(block.t_first_ns - START_NS - position * NS_PER_S / 44_100) <= 1
            position += n
        assert position == len(expected)
        assert (source.sample_rate_hz, source.channels) == (44_100, 2)


def test_realtime_hands_no_block_over_before_it_was_spoken(tmp_path: Path) -> None:
    path = tmp_path / "noise.wav"
    soundfile.write(path, noise(0.3, 16_000, 1), 16_000)
    source = FileSource(path)
    before_ns = time.monotonic_ns()
    began_s = time.monotonic()
    due_s = 0.0
    for block in read_all(source):
        due_s += len(block.samples) / 16_000
        assert time.monotonic() - began_s >= due_s - 0.001
        assert before_ns <= block.t_first_ns <= time.monotonic_ns()
    assert due_s == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("rate_hz", "hop_samples", "block_samples"),
    [
        (16_000, 640, 640),
        (16_000, 1280, 1280),
        (16_000, 3840, 1280),
        (16_000, 3520, 880),  # a third of it is no whole number of samples
        (16_000, 160_000, 1280),
        (44_100, 1280, 1764),  # resampled: as without a hop
    ],
)
def test_blocks_make_up_hops(
    tmp_path: Path, rate_hz: int, hop_samples: int, block_samples: int
) -> None:
    path = tmp_path / "noise.wav"
    soundfile.write(path, noise(2.0, rate_hz, 1), rate_hz)
    source = FileSource(path, "fast")
    source.check()
    source.suit_hops(hop_samples, 16_000)
    lengths = [len(block.samples) for block in read_all(source)]
    assert set(lengths[:-1]) == {block_samples}
    assert sum(lengths) == 2 * rate_hz


def make_missing(path: Path) -> None:
    assert not path.exists()


def make_folder(path: Path) -> None:
    path.mkdir()


def make_empty(path: Path) -> None:
    path.touch()


def make_corrupt(path: Path) -> None:
    path.write_bytes(b"RIFF\x00\x00\x00\x00WAVEnonsense" * 10)


def make_text(path: Path) -> None:
    path.write_text("dear diary\n" * 100)


def make_no_audio(path: Path) -> None:
    soundfile.write(path, np.zeros(0), 16_000, format="WAV")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_missing, "no such file"),
        (make_folder, "is a folder"),
        (make_empty, r"is empty \(0 bytes\)"),
        (make_corrupt, "cannot be read as sound"),
        (make_text, "cannot be read as sound .*; WAV, FLAC, Ogg and MP3 files can"),
        (make_no_audio, r"holds no audio \(0 samples\)"),
    ],
)
def test_bad_files_are_refused_with_reason_and_remedy(tmp_path: Path, make, message: str) -> None:
    path = tmp_path / "bad.wav"
    make(path)
    source = FileSource(path)
    for call in (source.check, source.open):
        with pytest.raises(SourceError, match=f"bad.wav: {message}"):
            call()
    source.close()


def test_a_file_that_cannot_be_looked_at_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="File name too long; check its permissions"):
        FileSource(tmp_path / ("x" * 300)).check()


def test_raw_files_are_sent_to_the_pipe(tmp_path: Path) -> None:
    path = tmp_path / "a.raw"
    path.write_bytes(bytes(1000))
    with pytest.raises(SourceError, match=r"no header that tells its rate.*--source pipe:"):
        FileSource(path).check()


def test_a_file_damaged_in_the_middle_says_where(tmp_path: Path) -> None:
    path = tmp_path / "cut.flac"
    soundfile.write(path, noise(2, 16_000, 1), 16_000)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(SourceError, match=r"cut.flac: damaged at [01]\.\d\d s of 2\.00 s"):
        list(read_all(FileSource(path, "fast")))
