"""Clips decoded once into a memory map that any number of processes share.

An entry is a folder that appears by one rename, so that it is complete or absent whatever is
killed when. A file lock per entry lets the second process wait for the first instead of decoding
everything again; the system frees it with its holder. Its name is a hash of all that decides the
content: rate, clips in order, size and modification time of each file.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from train.data.decode import decode_clip, find_active_span
from train.data.manifest import ManifestRow
from train.errors import DataError

CACHE_VERSION = 2
"""Part of the name: raise it when what is stored about a clip changes."""
_AUDIO_FILE, _INDEX_FILE = "audio.int16", "index.npz"
_CLIPS_AHEAD = 256
"""Clips decoded before the oldest is written: bounds the memory."""


def decode_once(
    folder: Path, rows: Sequence[ManifestRow], sample_rate_hz: int, cache: Path
) -> tuple[NDArray[np.int16], NDArray[np.int64], NDArray[np.int64]]:
    """Return all clips end to end, decoding what the cache does not hold yet.

    Args:
        folder: Of the data set.
        rows: Its clips.
        sample_rate_hz: Rate to decode to.
        cache: Folder of the entries; made if need be.

    Returns:
        ``(audio [samples] int16, a read-only memory map; length [clips]; active [clips, 2])``.

    Raises:
        DataError: If a file is missing or cannot be decoded, or the cache cannot be written.
    """
    entry = cache / _name_entry(folder, rows, sample_rate_hz)
    try:
        if not entry.is_dir():
            cache.mkdir(parents=True, exist_ok=True)
            with _lock(entry.with_name(f".{entry.name}.lock")):
                if not entry.is_dir():
                    _build(entry, [folder / row.path for row in rows], sample_rate_hz)
        with np.load(entry / _INDEX_FILE, allow_pickle=False) as index:
            length, active = index["length"], index["active"]
        audio = np.memmap(entry / _AUDIO_FILE, np.int16, mode="r")
    except OSError as error:
        raise DataError(
            f"cache {cache}: {error.strerror or error}; free some space or name another folder "
            f"with --work"
        ) from error
    return audio, length, active


def _name_entry(folder: Path, rows: Sequence[ManifestRow], sample_rate_hz: int) -> str:
    digest = hashlib.sha256(f"{CACHE_VERSION} {sample_rate_hz} {folder.resolve()}".encode())
    for row in rows:
        file = folder / row.path
        try:
            stat = file.stat()
        except OSError as error:
            raise DataError(f"{file}: listed in the manifest but {error.strerror}") from error
        digest.update(f"\0{row.path}\0{stat.st_size} {stat.st_mtime_ns}".encode())
    return f"{folder.resolve().name}-{sample_rate_hz}-{digest.hexdigest()[:16]}"


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(entry: Path, paths: Sequence[Path], sample_rate_hz: int) -> None:
    """Decode all files into ``entry``; the caller holds the lock."""
    part = entry.with_name(f".{entry.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
    part.mkdir()
    lengths: list[int] = []
    spans: list[tuple[int, int]] = []
    with (part / _AUDIO_FILE).open("wb") as file:
        for clip in _decode_ahead(paths, sample_rate_hz):
            file.write(clip.tobytes())
            lengths.append(len(clip))
            spans.append(find_active_span(clip, sample_rate_hz))
        file.flush()
        os.fsync(file.fileno())
    with (part / _INDEX_FILE).open("wb") as file:
        np.savez(file, length=np.array(lengths, np.int64), active=np.array(spans, np.int64))
        file.flush()
        os.fsync(file.fileno())
    part.rename(entry)


def _decode_ahead(paths: Sequence[Path], sample_rate_hz: int) -> Iterator[NDArray[np.int16]]:
    """Yield the decoded clips in order; decoding and resampling release the interpreter's lock."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(0, len(paths), _CLIPS_AHEAD):
            batch = paths[first : first + _CLIPS_AHEAD]
            yield from pool.map(lambda path: decode_clip(path, sample_rate_hz), batch)
