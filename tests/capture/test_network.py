"""Audio over real HTTP and RTSP connections on loopback, through FFmpeg."""

import io
import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from streamcls.capture import feeder as feeder_module
from streamcls.capture import network
from streamcls.capture.feeder import Feeder
from streamcls.capture.network import NetworkSource
from streamcls.capture.source import EndOfStream, SourceLost
from streamcls.capture.url import hide_credentials
from streamcls.errors import SourceError
from streamcls.ring import Ring
from streamcls.types import Block, Health, HealthState
from streamcls.units import NS_PER_S
from tests.capture.audio_http import AudioHttp, AudioRtsp, Playlist, live
from tests.importers.file_server import cut, whole

RATE_HZ = 16_000


def noise(seconds: float, channels: int = 1) -> np.ndarray:
    shape = (round(seconds * RATE_HZ), channels)
    return np.random.default_rng(2).integers(-9000, 9000, shape).astype(np.int16)


def encode(samples: np.ndarray, container: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE_HZ, format=container)
    return file.getvalue()


def read_all(source: NetworkSource, blocks: list[Block]) -> None:
    """Read to the end, which is an exception."""
    source.open()
    try:
        read_on(source, blocks)
    finally:
        source.close()


def read_on(source: NetworkSource, blocks: list[Block]) -> None:
    while True:
        if (block := source.read()) is not None:
            blocks.append(block)


def as_int16(blocks: list[Block]) -> np.ndarray:
    return np.rint(np.concatenate([block.samples for block in blocks]) * 32768).astype(np.int16)


def in_pieces(content: bytes, seconds: float, burst: float = 0.0) -> Iterator[bytes]:
    """Yield content in 50 ms pieces at the pace of its duration, the first part at once."""
    n_pieces = round(seconds / 0.05)
    size = -(-len(content) // n_pieces)
    first = round(burst / 0.05)
    began_s = time.monotonic()
    for piece in range(n_pieces):
        time.sleep(max(0.0, began_s + (piece - first) * 0.05 - time.monotonic()))
        yield content[piece * size : (piece + 1) * size]


@pytest.mark.parametrize("container", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_recording_is_read_whole_and_ends(container: str) -> None:
    sent = noise(3, channels=2)
    content = encode(sent, container)
    blocks: list[Block] = []
    with AudioHttp({"/a": whole(content)}) as server:
        source = NetworkSource(server.url("/a"))
        before_ns = time.monotonic_ns()
        with pytest.raises(EndOfStream):
            read_all(source, blocks)
    assert (source.sample_rate_hz, source.channels) == (RATE_HZ, 2)
    assert (source.live, source.finite) == (False, True)
    if container in ("WAV", "FLAC"):
        np.testing.assert_array_equal(as_int16(blocks), sent)
    else:  # another decoder of the same bits
        expected, _ = soundfile.read(io.BytesIO(content))
        heard = np.concatenate([block.samples for block in blocks])
        np.testing.assert_allclose(heard, expected[: len(heard)], atol=1e-3)
        assert len(heard) > len(sent) - 0.1 * RATE_HZ
    first_ns = blocks[0].t_first_ns
    assert before_ns <= first_ns <= time.monotonic_ns()
    frames = 0
    for block in blocks:
        assert block.t_first_ns - first_ns == pytest.approx(frames * NS_PER_S / RATE_HZ, abs=2)
        frames += len(block.samples)
    assert sum(block.lost_frames for block in blocks) == 0


def test_a_live_stream_is_heard_from_its_burst_to_its_end_with_times_of_the_present() -> None:
    sent = noise(3)
    content = encode(sent, "WAV")
    blocks: list[Block] = []
    with AudioHttp({"/live": live(lambda: in_pieces(content, 3, burst=1.5))}) as server:
        source = NetworkSource(server.url("/live?token=geheim"))
        began_ns = time.monotonic_ns()
        with pytest.raises(SourceLost, match=r"/live\?\.\.\.: the server ended the stream"):
            read_all(source, blocks)
        ended_ns = time.monotonic_ns()
    assert (source.live, source.finite) == (False, False)
    np.testing.assert_array_equal(as_int16(blocks), sent)
    # The burst is older than the connection, and nothing is of the future.
    assert blocks[0].t_first_ns < began_ns - 0.5 * NS_PER_S
    end_ns = blocks[-1].t_first_ns + len(blocks[-1].samples) * NS_PER_S // RATE_HZ
    assert ended_ns - 1.5 * NS_PER_S < end_ns <= ended_ns
    times_ns = [block.t_first_ns for block in blocks]
    assert times_ns == sorted(times_ns)


class Judged(list[Block]):
    """Blocks, and how far in the future each ended when it came."""

    def __init__(self) -> None:
        super().__init__()
        self.leads_ns: list[int] = []

    def append(self, block: Block) -> None:
        super().append(block)
        end_ns = block.t_first_ns + len(block.samples) * NS_PER_S // RATE_HZ
        self.leads_ns.append(end_ns - time.monotonic_ns())


def test_a_live_playlist_is_followed_with_times_of_the_present_and_its_end_is_a_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "READ_TIMEOUT_S", 0.8)  # segments are further apart
    monkeypatch.setattr(network, "SEGMENT_TIMEOUT_S", 3.0)
    playlist = Playlist(noise(5)[:, 0] / np.float32(32768), RATE_HZ, tmp_path)
    blocks = Judged()
    with AudioHttp(playlist.pages) as server:
        source = NetworkSource(server.url("/live.m3u8"))
        with pytest.raises(SourceLost):
            read_all(source, blocks)
    assert (source.live, source.finite) == (False, False)
    assert min(blocks.leads_ns) > -3.0 * NS_PER_S
    assert max(blocks.leads_ns) <= 0
    # From the newest segment at the beginning on, the third.
    assert 2.8 * RATE_HZ < sum(len(block.samples) for block in blocks) < 3.2 * RATE_HZ


def test_a_live_playlist_that_came_to_its_end_is_waited_for_and_not_heard_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    playlist = Playlist(noise(20)[:, 0] / np.float32(32768), RATE_HZ, tmp_path)
    with AudioHttp(playlist.pages) as server, Fed(server.url("/live.m3u8"), monkeypatch) as fed:
        fed.wait_for(HealthState.LIVE)
        playlist.ended = True
        lost = fed.wait_for(HealthState.LOST)
        seen = len(fed.reports)
        waits = fed.wait_for(HealthState.RECOVERING, after=seen + 1)
        assert "not live any more" in waits.reason
        assert waits.captured_samples == lost.captured_samples
        playlist.ended = False
        fed.wait_for(HealthState.LIVE, after=seen)


def test_a_playlist_that_names_its_end_is_a_recording(tmp_path: Path) -> None:
    playlist = Playlist(noise(4)[:, 0] / np.float32(32768), RATE_HZ, tmp_path, n_told=4)
    playlist.ended = True
    blocks: list[Block] = []
    with AudioHttp(playlist.pages) as server:
        source = NetworkSource(server.url("/live.m3u8"))
        with pytest.raises(EndOfStream):
            read_all(source, blocks)
    assert (source.live, source.finite) == (False, True)
    assert sum(len(block.samples) for block in blocks) >= 4 * RATE_HZ


def test_rtsp_is_played_and_lost_packets_are_holes() -> None:
    sent = noise(2)[:, 0]
    lost = {40, 41, 42, 43, 44, 70, 71, 72}
    blocks: list[Block] = []
    with AudioRtsp(sent, RATE_HZ, lost) as server:
        source = NetworkSource(server.url)
        assert "secret" not in str(source)
        with pytest.raises(SourceLost, match=r"^rtsp://127.0.0.1:\d+/live: "):
            read_all(source, blocks)
    assert source.live
    assert server.requests[:4] == ["OPTIONS", "DESCRIBE", "SETUP", "PLAY"]
    assert [block.lost_frames for block in blocks if block.lost_frames] == [1600, 960]
    n = RATE_HZ // 50
    expected = [sent[seq * n : (seq + 1) * n] for seq in range(100) if seq not in lost]
    heard = as_int16(blocks)[:, 0]
    whole_sent = np.concatenate(expected)
    # FFmpeg may keep back its last packets when the connection ends.
    assert len(heard) > len(whole_sent) - 5 * n
    np.testing.assert_array_equal(heard, whole_sent[: len(heard)])


class Fed:
    """A feeder on a network source and what it reported."""

    def __init__(self, url: str, monkeypatch: pytest.MonkeyPatch, channel: int = 0) -> None:
        monkeypatch.setattr(feeder_module, "RETRY_FIRST_S", 0.05)
        monkeypatch.setattr(feeder_module, "RETRY_LONGEST_S", 0.2)
        self.reports: list[Health] = []
        self.ring = Ring(60 * RATE_HZ, RATE_HZ)
        self.feeder = Feeder("net", NetworkSource(url), self.ring, channel, self.reports.append)

    def __enter__(self) -> "Fed":
        self.feeder.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert self.feeder.stop(10)
        assert all("secret" not in report.reason for report in self.reports)

    def wait_for(self, state: HealthState, after: int = 0) -> Health:
        deadline_s = time.monotonic() + 15
        while True:
            for report in self.reports[after:]:
                if report.state is state:
                    return report
            assert time.monotonic() < deadline_s, self.reports
            time.sleep(0.01)


def test_a_server_that_dies_and_comes_back_is_heard_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = encode(noise(1), "WAV")
    pages = {"/live": live(lambda: in_pieces(content, 1, burst=0.5))}
    with AudioHttp(pages) as server:
        port = server.port
        url = f"http://me:secret@127.0.0.1:{port}/live?key=secret"
        fed = Fed(url, monkeypatch).__enter__()
        fed.wait_for(HealthState.LOST)
    # Now nobody listens.
    refused = fed.wait_for(HealthState.RECOVERING, after=len(fed.reports))
    assert f"http://127.0.0.1:{port}/live?...: " in refused.reason
    seen = len(fed.reports)
    with AudioHttp(pages, port):
        assert fed.wait_for(HealthState.LIVE, after=seen).dropped_samples > 0
        fed.__exit__()


def test_a_camera_that_comes_back_without_the_channel_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stereo, mono = (encode(noise(1, channels=n), "WAV") for n in (2, 1))
    sent = itertools.chain([stereo, mono, mono], itertools.repeat(stereo))
    pages = {"/live": live(lambda: in_pieces(next(sent), 1, burst=0.5))}
    with AudioHttp(pages) as server, Fed(server.url("/live"), monkeypatch, channel=1) as fed:
        fed.wait_for(HealthState.LIVE)
        fed.wait_for(HealthState.LOST)
        seen = len(fed.reports)
        live_again = fed.wait_for(HealthState.LIVE, after=seen)
        waited = fed.reports[seen : fed.reports.index(live_again)]
    without = [report for report in waited if "/live: channel 1 does not exist" in report.reason]
    assert [report.state for report in without] == 2 * [HealthState.RECOVERING]
    assert all(report.reason.startswith("attempt ") for report in without)


@pytest.mark.parametrize("container", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_recording_that_is_cut_short_goes_on_where_it_was(
    container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = encode(noise(3), container)
    cuts = [len(content) // 3, len(content) // 2, len(content)]
    left = iter(cuts)
    once = [Block(np.empty((0, 1), np.float32), 0)]
    with AudioHttp({"/a": whole(content)}) as server, pytest.raises(EndOfStream):
        read_all(NetworkSource(server.url("/a")), once)
    pages = {"/a": lambda request: cut(content, next(left, len(content)))(request)}
    with AudioHttp(pages) as server, Fed(server.url("/a"), monkeypatch) as fed:
        fed.wait_for(HealthState.LOST)
        ended = fed.wait_for(HealthState.ENDED)
    expected = np.concatenate([block.samples for block in once])[:, 0]
    heard, out = [], np.empty(1, np.float32)
    while fed.ring.read_hop(out):
        heard.append(out[0])
    np.testing.assert_array_equal(heard, expected)
    assert ended.dropped_samples <= 2  # one a cut, which begins a new epoch


def test_another_recording_at_the_same_address_is_heard_from_its_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = encode(noise(2), "WAV"), encode(noise(1), "WAV")
    answers = iter([cut(first, len(first) // 2), whole(second)])
    pages = {"/a": lambda request: next(answers)(request)}
    with AudioHttp(pages) as server, Fed(server.url("/a"), monkeypatch) as fed:
        fed.wait_for(HealthState.LOST)
        ended = fed.wait_for(HealthState.ENDED)
    assert 1.5 * RATE_HZ < ended.captured_samples <= 2 * RATE_HZ


def test_a_server_that_stalls_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "READ_TIMEOUT_S", 0.6)
    content = encode(noise(8), "WAV")
    go_on = threading.Event()

    def stall() -> Iterator[bytes]:
        yield content[: len(content) // 2]
        go_on.wait(20)

    with (
        AudioHttp({"/live": live(stall)}) as server,
        Fed(server.url("/live"), monkeypatch) as fed,
    ):
        fed.wait_for(HealthState.LIVE)
        lost = fed.wait_for(HealthState.LOST)
        go_on.set()
    assert "no answer within 0.6 s" in lost.reason or "no audio for" in lost.reason


def garbage() -> Iterator[bytes]:
    yield b"<html>please log in</html>" * 1000


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/missing", "404 Not Found"),
        ("/garbage", "what the server sends is no audio FFmpeg knows"),
        ("/nothing", "what the server sends is no audio FFmpeg knows"),
    ],
)
def test_what_is_no_audio_now_is_tried_again(path: str, reason: str) -> None:
    pages = {"/garbage": live(garbage), "/nothing": whole(b"")}
    with AudioHttp(pages) as server:
        source = NetworkSource(f"http://me:secret@127.0.0.1:{server.port}{path}?key=secret")
        with pytest.raises(SourceLost) as caught:
            source.open()
        source.close()
    assert str(caught.value).startswith(f"http://127.0.0.1:{server.port}{path}?...: ")
    assert reason in str(caught.value)


def test_a_reader_that_nobody_empties_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "BUFFER_S", 0.5)
    content = encode(noise(20), "WAV")
    with AudioHttp({"/a": whole(content)}) as server:
        source = NetworkSource(server.url("/a"))
        source.open()
        time.sleep(0.5)
        reader = source._reader
        assert reader is not None
        assert reader._buffered_frames <= 0.5 * RATE_HZ
        blocks: list[Block] = []
        with pytest.raises(EndOfStream):
            read_on(source, blocks)
        source.close()
    # A server that can wait loses nothing.
    assert sum(len(block.samples) for block in blocks) == 20 * RATE_HZ


def test_a_camera_that_cannot_wait_loses_the_oldest_and_says_how_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(network, "BUFFER_S", 0.3)
    sent = noise(1.5)[:, 0]
    with AudioRtsp(sent, RATE_HZ, set()) as server:
        source = NetworkSource(server.url)
        source.open()
        time.sleep(1.2)
        blocks: list[Block] = []
        with pytest.raises(SourceLost):
            read_on(source, blocks)
        source.close()
    assert blocks[0].lost_frames > 0.4 * RATE_HZ
    assert sum(block.lost_frames for block in blocks[1:]) == 0
    heard = as_int16(blocks)[:, 0]
    first = blocks[0].lost_frames
    np.testing.assert_array_equal(heard, sent[first : first + len(heard)])


def test_without_pyav_the_remedy_is_named() -> None:
    code = (
        "import sys; sys.modules['av'] = None\n"
        "from streamcls.capture import parse_source\n"
        "parse_source('http://x/y').check()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "SourceError: PyAV is not installed" in done.stderr
    assert "pip install streamcls[network]" in done.stderr


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://a/b", "http://a/b"),
        ("http://me:p@ss@a:80/b@c?d=e#f", "http://a:80/b@c?..."),
        ("rtsp://me@a", "rtsp://a"),
        ("rtsp://me:p#ss@a/b", "rtsp://..."),
        ("rtsp://me:p/ss@a/b?c", "rtsp://..."),
        ("http://a:8000/b@c", "http://a:8000/b@c"),
        ("http://a:8000/b?c=d@e.f", "http://a:8000/b?..."),
        ("http://a:8000/b/c.mp3", "http://a:8000/b/c.mp3"),
        ("rtsp://me:123/ss@a/b", "rtsp://..."),
        ("rtsp://me:123/ss@192.0.2.7", "rtsp://..."),
        ("rtsp://me:123/ss@a:554", "rtsp://..."),
        ("rtsp://me:123#ss@a", "rtsp://..."),
        ("rtsp://me:123?ss@a/b", "rtsp://..."),
        ("rtsp://me:123456/ss@a", "rtsp://..."),
        ("rtsp://me:/ss@a", "rtsp://..."),
        ("https://a?x@y", "https://a?..."),
        ("device:USB @home?", "device:USB @home?"),
    ],
)
def test_addresses_are_shown_without_secrets(address: str, shown: str) -> None:
    assert hide_credentials(address) == shown


def test_a_path_must_not_make_us_open_files(tmp_path) -> None:
    """A playlist that names a local file."""
    secret = tmp_path / "secret.wav"
    soundfile.write(secret, noise(1), RATE_HZ)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n"
    with AudioHttp({"/list.m3u8": whole(playlist.encode())}) as server:
        source = NetworkSource(server.url("/list.m3u8"))
        with pytest.raises(SourceError):
            source.open()
        source.close()
