"""The sender against the real ingest socket: every sample accounted for, whatever happens."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile

from streamcls.capture import Feeder, parse_source
from streamcls.capture.packets import Codec
from streamcls.errors import PublishError
from streamcls.ingest import Ingest
from streamcls.publish.key_files import Right
from streamcls.publish.keys import ClientKeys, ServerKeys, create_client, create_server
from streamcls.publish.wakeup import Wakeup
from streamcls.ring import Ring
from streamcls.send import Sender, SendOptions
from streamcls.send import sender as sender_module
from streamcls.send.clock import ClockEstimate
from streamcls.send.sender import to_pcm16
from streamcls.types import HealthState
from streamcls.units import NS_PER_S
from tests.audio_server import AudioServer
from tests.remote.lossy_path import Frames, LossyPath
from tests.remote.streams import RATE_HZ, Receiver, connect, ramp

SEND = [sys.executable, "-W", "error", "-m", "streamcls", "send"]


def write_ramp(folder: Path, seconds: float) -> Path:
    path = folder / "ramp.wav"
    soundfile.write(path, ramp(round(seconds * RATE_HZ)), RATE_HZ, subtype="PCM_16")
    return path


class Sending:
    """A sender in a thread, as `run_send` has it in the main thread."""

    def __init__(self, endpoint: str, path: Path, **options) -> None:
        self.options = SendOptions(endpoint, f"file:{path}", "porch", packet_ms=10, **options)
        self.stopping = threading.Event()
        self.delivered: bool | None = None
        self.wakeup = Wakeup()
        self.ring = Ring(round(self.options.buffer_s * RATE_HZ), RATE_HZ, self.wakeup.ring)
        source = parse_source(self.options.source)
        wake = self.wakeup.ring
        self.feeder = Feeder("porch", source, self.ring, on_health=lambda health: wake())
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self.sender = Sender(self.options, self.feeder, self.ring, self.wakeup)
        self.delivered = self.sender.run(self.stopping)
        self.sender.close()


@contextmanager
def sending(endpoint: str, path: Path, **options) -> Iterator[Sending]:
    one = Sending(endpoint, path, **options)
    one.feeder.start()
    one.thread.start()
    yield one
    one.stopping.set()
    one.feeder.stop()
    one.thread.join(20)
    assert not one.thread.is_alive()
    one.wakeup.close()


def check_ramp(receiver: Receiver) -> dict[int, int]:
    """Every sample heard names its own index."""
    heard = receiver.samples_by_index()
    assert heard
    assert all(value == index - 32768 for index, value in heard.items())
    return heard


@pytest.mark.parametrize("codec", ["s16", "flac"])
def test_everything_arrives_exactly(ingest: Ingest, tmp_path: Path, codec: Codec) -> None:
    with connect(ingest, Receiver()) as receiver:
        with sending(ingest.endpoint, write_ramp(tmp_path, 1.5), codec=codec) as sent:
            receiver.wait_for(lambda: "lost" in receiver.states[3:], "end")
            sent.thread.join(10)
        assert sent.delivered
    assert len(check_ramp(receiver)) == 1.5 * RATE_HZ
    assert (receiver.ring.skipped, sent.sender.packets) == (0, 150)
    figures = ingest.stats()["senders"]["porch"]
    assert (figures["missing_packets"], figures["network_lost_samples"]) == (0, 0)
    assert (figures["payload_bytes"] < 1.5 * RATE_HZ) == (codec == "flac")  # a ramp packs well
    assert abs(figures["clock_offset_ms"]) < 50  # it is the same clock
    assert (
        f"has ended (file:{tmp_path}/ramp.wav was read to its end)" in receiver.reports[-1].reason
    )


def test_a_network_that_loses_repeats_and_reorders_leaves_exactly_the_right_holes(
    ingest: Ingest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamcls.capture.sequence.HOLD_S", 60.0)
    lost, repeated, swapped = {20, 21, 55, 90, 91, 92}, {30, 31, 60}, {40, 70, 100}
    held: list[Frames] = []

    def treat(seq: int, frames: Frames) -> list[Frames]:
        if seq in lost:
            return []
        if seq in swapped:
            held.append(frames)
            return []
        after = [held.pop()] if held else []
        return [frames, *after, *([frames] if seq in repeated else [])]

    with (
        connect(ingest, Receiver()) as receiver,
        LossyPath(ingest.endpoint, treat) as path,
        sending(path.endpoint, write_ramp(tmp_path, 1.4)),
    ):
        receiver.wait_for(lambda: "lost" in receiver.states[3:], "end")
    expected = {i for i in range(round(1.4 * RATE_HZ)) if i // 160 not in lost}
    assert set(check_ramp(receiver)) == expected
    assert receiver.ring.skipped == len(lost) * 160
    figures = ingest.stats()["senders"]["porch"]
    assert figures["missing_packets"] == len(lost)
    assert figures["repeated_packets"] == len(repeated)
    assert figures["reordered_packets"] == len(swapped)
    assert figures["network_lost_samples"] == len(lost) * 160


def test_a_daemon_that_goes_and_comes_costs_only_what_was_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender_module, "BEAT_INTERVAL_S", 0.1)
    monkeypatch.setattr(sender_module, "ANSWER_TIMEOUT_S", 0.8)
    monkeypatch.setattr("streamcls.capture.sequence.HOLD_S", 0.1)
    with Receiver() as receiver:
        with Ingest("tcp://127.0.0.1:*") as first:
            connect(first, receiver)
            endpoint = first.endpoint
            context = sending(endpoint, write_ramp(tmp_path, 4))
            sent = context.__enter__()
            receiver.wait_for(lambda: len(receiver.hops) > 30, "audio")
        time.sleep(1.5)  # longer than the timeout, which is longer than a busy machine stalls
        before = len(receiver.hops)
        with Ingest(endpoint) as second:
            connect(second, receiver)
            receiver.wait_for(lambda: len(receiver.hops) > before + 30, "return")
            receiver.wait_for(lambda: "lost" in receiver.states[3:], "end")
            sent.thread.join(10)
            context.__exit__(None, None, None)
    heard = check_ramp(receiver)
    assert sent.sender.connections == 2
    assert max(heard) == 4 * RATE_HZ - 1  # exact to the end: the numbering went on
    assert len(heard) + receiver.ring.skipped == 4 * RATE_HZ
    # The sender kept the rest. Until it notices, packets go where nobody reads: at most the
    # timeout's worth, and what libzmq may hold.
    assert receiver.ring.skipped <= 1.0 * RATE_HZ


def test_what_the_buffer_cannot_keep_is_a_hole_of_exact_length(
    ingest: Ingest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender_module, "PACKETS_IN_FLIGHT", 1)
    with (
        connect(ingest, Receiver()) as receiver,
        sending(ingest.endpoint, write_ramp(tmp_path, 2.5), buffer_s=0.3) as sent,
    ):
        receiver.wait_for(lambda: len(receiver.hops) > 20, "audio")
        sent.sender._welcome = False  # as after a refusal: nothing goes out for a second
        sent.sender._beat_due_s = time.monotonic() + 1.0
        receiver.wait_for(lambda: "lost" in receiver.states[3:], "end")
    heard = check_ramp(receiver)
    lost = sent.ring.dropped
    assert 0.4 * RATE_HZ < lost < 1.2 * RATE_HZ
    assert len(heard) == 2.5 * RATE_HZ - lost
    assert receiver.ring.skipped == lost == receiver.source.sender_lost_samples
    assert receiver.source.network_lost_samples == 0


def test_a_refused_sender_says_so_once_and_tries_on(
    ingest: Ingest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    monkeypatch.setattr(sender_module, "BEAT_INTERVAL_S", 0.05)
    with sending(ingest.endpoint, write_ramp(tmp_path, 3)) as sent:
        deadline_s = time.monotonic() + 10
        while ingest.stats()["refused"].get("unknown_stream", 0) < 3:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        with connect(ingest, Receiver()) as receiver:
            receiver.wait_for(lambda: receiver.hops, "audio")
            sent.stopping.set()
            sent.feeder.stop()
            sent.thread.join(10)
    said = [r.getMessage() for r in caplog.records if "refused" in r.getMessage()]
    assert len(said) == 1
    assert "no stream here is remote:porch; there is none; trying on" in said[0]
    check_ramp(receiver)


def test_a_daemon_that_is_not_there_is_told_and_the_end_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    monkeypatch.setattr(sender_module, "ANSWER_TIMEOUT_S", 0.2)
    monkeypatch.setattr(sender_module, "END_WAIT_S", 0.5)
    with sending("tcp://127.0.0.1:9", write_ramp(tmp_path, 0.1)) as sent:
        sent.thread.join(10)
        assert sent.delivered is False
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == [
        "no daemon answers at tcp://127.0.0.1:9: "
        "it is not running, has no remote: stream or asks for keys; trying on"
    ]
    assert sent.sender.undelivered_samples == 1600


@pytest.mark.parametrize("endpoint", ["gopher:x", "tcp://h\udcff:1"])
def test_what_is_no_address_is_refused(endpoint: str) -> None:
    wakeup = Wakeup()
    ring = Ring(RATE_HZ, RATE_HZ)
    feeder = Feeder("porch", parse_source("device:"), ring)
    with pytest.raises(PublishError, match="use tcp://HOST:PORT"):
        Sender(SendOptions(endpoint, "device:", "porch"), feeder, ring, wakeup)
    wakeup.close()


def test_sixteen_bits_survive_the_way_through_floats() -> None:
    every = np.arange(-32768, 32768).astype(np.int16)
    np.testing.assert_array_equal(to_pcm16(every.astype(np.float32) / np.float32(32768)), every)
    assert to_pcm16(np.array([2.0, -2.0], np.float32)).tolist() == [32767, -32768]


def test_the_clock_estimate_believes_the_quickest_exchange() -> None:
    clock = ClockEstimate()
    assert not clock.known
    offset_ns = 7 * NS_PER_S
    for there_ns, back_ns in ((5_000_000, 100_000), (90_000, 110_000), (100_000, 80_000_000)):
        sent_ns = 1000 * NS_PER_S
        received_ns = sent_ns + offset_ns + there_ns
        clock.observe(sent_ns, received_ns, received_ns + 50, sent_ns + there_ns + 50 + back_ns)
    round_trip_ns, estimate_ns = clock.best
    assert round_trip_ns == 200_000
    assert abs(estimate_ns - offset_ns) <= round_trip_ns / 2
    clock.observe(0, NS_PER_S, NS_PER_S, 1_000_000)  # one of the clocks was set
    assert clock.best == (1_000_000, NS_PER_S - 500_000)


def test_only_known_keys_with_the_right_may_send(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    server_public = create_server(folder)
    sender_key, _ = create_client(folder, "pi", [Right.SEND])
    listener_key, _ = create_client(folder, "tablet", [Right.LISTEN])
    path = write_ramp(tmp_path, 0.8)
    with (
        Ingest("tcp://127.0.0.1:*", keys=ServerKeys.load(folder)) as ingest,
        connect(ingest, Receiver()) as receiver,
    ):
        keys = ClientKeys.load(listener_key, server_public)
        with sending(ingest.endpoint, path, keys=keys) as refused:
            time.sleep(0.3)
        assert refused.sender.connections == 0
        with sending(ingest.endpoint, path) as refused:
            time.sleep(0.3)
        assert refused.sender.connections == 0
        keys = ClientKeys.load(sender_key, server_public)
        with sending(ingest.endpoint, path, keys=keys) as sent:
            receiver.wait_for(lambda: "lost" in receiver.states[3:], "end")
            sent.thread.join(10)
    assert len(check_ramp(receiver)) == 0.8 * RATE_HZ


def test_a_key_that_was_removed_sends_no_more(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    server_public = create_server(folder)
    private, public = create_client(folder, "pi", [Right.SEND])
    with (
        Ingest("tcp://127.0.0.1:*", keys=ServerKeys.load(folder)) as ingest,
        connect(ingest, Receiver()) as receiver,
    ):
        keys = ClientKeys.load(private, server_public)
        with sending(ingest.endpoint, write_ramp(tmp_path, 4), keys=keys):
            receiver.wait_for(lambda: receiver.hops, "audio")
            public.unlink()
            time.sleep(0.3)
            receiver.drain()
            before = ingest.stats()["senders"]["porch"]["packets"]
            time.sleep(0.3)
            assert ingest.stats()["senders"]["porch"]["packets"] == before


def test_the_command_sends_a_file_to_its_end(ingest: Ingest, tmp_path: Path) -> None:
    with connect(ingest, Receiver()) as receiver:
        command = [*SEND, "--to", ingest.endpoint, "--stream", "porch", "--codec", "flac"]
        command += ["--source", f"file:{write_ramp(tmp_path, 1)}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        receiver.wait_for(lambda: "lost" in receiver.states[3:], "end")
    assert done.returncode == 0, done.stderr
    assert "sent 25 packets with 16000 samples, 0 dropped, 1 connections" in done.stderr
    assert len(check_ramp(receiver)) == RATE_HZ


def test_a_signal_ends_the_command_in_order(ingest: Ingest, tmp_path: Path) -> None:
    with connect(ingest, Receiver()) as receiver:
        command = [*SEND, "--to", ingest.endpoint, "--stream", "porch"]
        command += ["--source", f"file:{write_ramp(tmp_path, 4)}"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        receiver.wait_for(lambda: len(receiver.hops) > 20, "audio")
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=20)
        assert process.returncode == 0, said
        receiver.wait_for(lambda: "lost" in receiver.states[3:], "end")
    assert "has ended (interrupted)" in receiver.reports[-1].reason
    check_ramp(receiver)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "file:missing.wav"], "missing.wav: no such file"),
        (["--source", "tape:"], "'tape:' is not a source"),
        (["--source", "remote:porch"], "remote:porch: is what the daemon has"),
        (["--source", "file:x", "--rate", "8000"], "--rate: for pipe: and device: only"),
        (["--source", "pipe:"], "--rate"),
        (["--stream", "a b"], "letters, digits"),
        (["--packet-ms", "900", "--send-rate", "96000", "--source", "file:x"], "x: no such file"),
        (["--client-key", "x"], "give both or neither"),
        (["--to", "gopher:x", "--source", "pipe:", "--rate", "8000"], "use tcp://HOST:PORT"),
    ],
)
def test_mistakes_are_one_message(arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [*SEND, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_sender_loads_no_model_code() -> None:
    code = "import sys, streamcls.cli.send, streamcls.send; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded.isdisjoint({"jax", "jaxlib", "flax", "av", "sounddevice"})
    assert "zmq" in loaded


@pytest.mark.pulseaudio
def test_a_real_device_is_heard_on_the_other_end_bit_by_bit(
    ingest: Ingest, audio_server: AudioServer
) -> None:
    """The same 16-bit samples from PortAudio's callback to the daemon's ring, from the first on."""
    stored = ramp(3 * RATE_HZ)
    audio_server.store_raw(stored)
    command = [*SEND, "--to", ingest.endpoint, "--stream", "porch", "--codec", "flac"]
    command += ["--source", "device:filesrc", "--rate", "16000", "--channels", "1"]
    command += ["--format", "s16le"]
    with connect(ingest, Receiver()) as receiver:
        process = subprocess.Popen(
            command, env=audio_server.environment | {"PATH": os.environ["PATH"]}, stderr=-3
        )
        receiver.wait_for(lambda: len(receiver.hops) > 200, "audio", 30)
        process.terminate()
        assert process.wait(20) == 0
    heard = receiver.samples_by_index()
    count = min(len(heard), 2 * RATE_HZ)
    assert receiver.ring.skipped == 0
    assert [heard[index] for index in range(count)] == stored[:count].tolist()
    now_ns = time.time_ns()
    assert now_ns - 60 * NS_PER_S < receiver.ring.time_ns(0) < now_ns
    assert receiver.feeder.state in (HealthState.LIVE, HealthState.LOST, HealthState.RECOVERING)
