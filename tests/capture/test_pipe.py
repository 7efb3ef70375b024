"""Raw PCM over real pipes, written in pieces that respect no frame."""

import os
import random
import resource
import threading
import time

import numpy as np
import pytest

from streamcls.capture import pipe
from streamcls.capture.pipe import PipeSource, decode_pcm
from streamcls.capture.source import EndOfStream, SampleFormat
from streamcls.errors import SourceError
from streamcls.types import Block
from streamcls.units import NS_PER_S


def encode(samples: np.ndarray, sample_format: SampleFormat) -> bytes:
    if sample_format == "f32le":
        return samples.astype("<f4").tobytes()
    if sample_format == "s16le":
        return np.round(samples * 2**15).astype("<i2").tobytes()
    if sample_format == "s32le":
        return np.round(samples.astype(np.float64) * 2**31).astype("<i4").tobytes()
    wide = np.round(samples.astype(np.float64) * 2**23).astype("<i4").view(np.uint8)
    return wide.reshape(-1, 4)[:, :3].tobytes()


def write_in_pieces(fd: int, data: bytes) -> None:
    rng = random.Random(3)
    with os.fdopen(fd, "wb", buffering=0) as out:
        while data:
            data = data[out.write(data[: rng.choice([1, 3, 7, 1000, 5001])]) :]


def read_into(blocks: list[Block], source: PipeSource) -> None:
    while True:
        if (block := source.read()) is not None:
            blocks.append(block)


@pytest.mark.parametrize("sample_format", ["s16le", "s24le", "s32le", "f32le"])
@pytest.mark.parametrize("channels", [1, 3])
def test_frames_survive_any_division_of_the_bytes(
    sample_format: SampleFormat, channels: int
) -> None:
    rng = np.random.default_rng(0)
    sent = (rng.integers(-(2**15), 2**15, (20_000, channels)) / 2**15).astype(np.float32)
    read_fd, write_fd = os.pipe()
    data = encode(sent.reshape(-1), sample_format)
    writer = threading.Thread(target=write_in_pieces, args=(write_fd, data))
    writer.start()
    source = PipeSource(16_000, channels, sample_format, read_fd)
    source.open()
    blocks: list[Block] = []
    with pytest.raises(EndOfStream, match="closed the pipe"):
        read_into(blocks, source)
    writer.join()
    os.close(read_fd)
    np.testing.assert_array_equal(np.concatenate([b.samples for b in blocks]), sent)
    first_ns = blocks[0].t_first_ns
    assert abs(first_ns - time.monotonic_ns()) < 60 * NS_PER_S
    frames = 0
    for block in blocks:
        assert abs(block.t_first_ns - first_ns - frames * NS_PER_S // 16_000) <= 1
        frames += len(block.samples)


def test_full_scale_of_each_format() -> None:
    assert decode_pcm(bytes([0xFF, 0x7F, 0x00, 0x80]), "s16le").tolist() == [1 - 2**-15, -1.0]
    lowest = bytes([0x00, 0x00, 0x80])
    assert decode_pcm(bytes([0xFF, 0xFF, 0x7F]) + lowest, "s24le").tolist() == [1 - 2**-23, -1.0]
    assert decode_pcm(bytes([0x00, 0x00, 0x00, 0x80]), "s32le").tolist() == [-1.0]


def test_nothing_yet_is_none_and_a_cut_frame_is_told() -> None:
    read_fd, write_fd = os.pipe()
    source = PipeSource(16_000, 2, "s16le", read_fd)
    source.open()
    assert source.read() is None
    os.write(write_fd, bytes(5))
    block = source.read()
    assert block is not None
    assert block.samples.shape == (1, 2)
    os.close(write_fd)
    with pytest.raises(EndOfStream, match=r"inside a frame \(1 of 4 bytes\)"):
        source.read()
    os.close(read_fd)


def test_times_start_afresh_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe, "PAUSE_NS", NS_PER_S // 20)
    read_fd, write_fd = os.pipe()
    source = PipeSource(16_000, 1, "s16le", read_fd)
    source.open()
    times_ns = []
    for _ in range(2):
        os.write(write_fd, bytes(320))
        block = source.read()
        assert block is not None
        times_ns.append(block.t_first_ns)
        time.sleep(0.2)
    assert times_ns[1] - times_ns[0] > NS_PER_S // 10  # the data alone lasts 10 ms
    os.close(write_fd)
    os.close(read_fd)


def test_a_terminal_is_refused() -> None:
    leader, terminal = os.openpty()
    with pytest.raises(SourceError, match="is a terminal; pipe raw audio into it"):
        PipeSource(16_000, fd=terminal).check()
    os.close(leader)
    os.close(terminal)


def test_a_closed_descriptor_is_told() -> None:
    read_fd, write_fd = os.pipe()
    source = PipeSource(16_000, fd=read_fd)
    source.open()
    os.close(read_fd)
    os.close(write_fd)
    with pytest.raises(SourceError, match="Bad file descriptor"):
        source.read()


def test_a_process_with_many_files_open_can_read_a_pipe() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    high_fd = 1024  # select.select takes lower ones only
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, high_fd + 1), hard))
    read_fd, write_fd = os.pipe()
    try:
        os.dup2(read_fd, high_fd)
        source = PipeSource(16_000, fd=high_fd)
        source.open()
        assert source.read() is None
        os.write(write_fd, bytes(8))
        assert source.read() is not None
        os.close(write_fd)
        with pytest.raises(EndOfStream):
            source.read()
    finally:
        os.close(read_fd)
        os.close(high_fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
