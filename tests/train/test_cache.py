"""The cache of decoded clips: complete or absent, whatever is killed, however many use it."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.train.layouts import TREES, write_tree
from train.data import cache
from train.data.layouts import read_folder
from train.data.manifest import ManifestRow
from train.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
FILES = [f"x/{i}.wav" for i in range(12)]


@pytest.fixture
def rows(tmp_path: Path) -> list[ManifestRow]:
    return read_folder(write_tree(tmp_path / "set", FILES, {})).rows


def test_entry_holds_the_clips_in_order(tmp_path: Path, rows: list[ManifestRow]) -> None:
    audio, length, active = cache.decode_once(tmp_path / "set", rows, 4_000, tmp_path / "cache")
    assert not audio.flags.writeable
    ends = np.cumsum(length)
    assert ends[-1] == len(audio)
    for row, end, n, (first, last) in zip(rows, ends, length, active, strict=True):
        expected = cache.decode_clip(tmp_path / "set" / row.path, 4_000)
        np.testing.assert_array_equal(audio[end - n : end], expected)
        assert 0 <= first < last <= n


LOAD = """
import sys, time
from pathlib import Path
from train.data import cache
from train.data.layouts import read_folder
folder, store, log, stop_at = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
decode = cache.decode_clip
def logged(path, rate_hz):
    with log.open("a") as file:
        file.write(path.name + chr(10))
    if path.name == stop_at:
        time.sleep(60)
    return decode(path, rate_hz)
cache.decode_clip = logged
audio, length, _ = cache.decode_once(folder, read_folder(folder).rows, 4_000, store)
assert len(audio) == length.sum()
"""


def start_loading(tmp_path: Path, log: str, stop_at: str = "") -> subprocess.Popen[bytes]:
    """Load the set in a process of its own, which notes each file that it decodes."""
    arguments = (tmp_path / "set", tmp_path / "cache", tmp_path / log, stop_at)
    return subprocess.Popen([sys.executable, "-c", LOAD, *map(str, arguments)], cwd=ROOT)


@pytest.mark.usefixtures("rows")
def test_killed_while_decoding_leaves_nothing_half_done(tmp_path: Path) -> None:
    killed = start_loading(tmp_path, "first.log", stop_at="7.wav")
    store = tmp_path / "cache"
    while not list(store.glob(".*.part/audio.int16")):
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    assert not [path for path in store.iterdir() if not path.name.startswith(".")]
    assert start_loading(tmp_path, "second.log").wait() == 0
    assert not list(store.glob(".*.part"))
    assert len((tmp_path / "second.log").read_text().split()) == len(FILES)


@pytest.mark.usefixtures("rows")
def test_processes_decode_once_together(tmp_path: Path) -> None:
    together = [start_loading(tmp_path, "log") for _ in range(3)]
    assert [process.wait() for process in together] == [0, 0, 0]
    names = (tmp_path / "log").read_text().split()
    assert sorted(names) == sorted(Path(name).name for name in FILES)


def test_unwritable_cache_says_what_to_do(tmp_path: Path) -> None:
    files, tables, _ = TREES["gtzan"]
    folder = write_tree(tmp_path / "set", files, tables)
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match="name another folder with --work"):
        cache.decode_once(folder, read_folder(folder).rows, 4_000, tmp_path / "cache")
