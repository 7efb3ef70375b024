"""Devices for real: a PulseAudio server, its null sink and sources, through PortAudio.

The feeder runs here, as in the daemon; what records is the process that it starts. Limits that
are seconds in the field are shortened, so that a fault is noticed within the test.
"""

import itertools
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import numpy as np
import pytest
import soundfile

from streamcls.capture import Feeder, Source, SourceOptions, list_devices, parse_source
from streamcls.capture import device as device_module
from streamcls.capture import feeder as feeder_module
from streamcls.capture import portaudio as portaudio_module
from streamcls.capture.device import DeviceSource
from streamcls.capture.portaudio import InputDevice, Record, find_device
from streamcls.capture.source import SourceLost
from streamcls.clock import read_utc_offset_ns
from streamcls.errors import SourceError
from streamcls.ring import Ring
from streamcls.types import Block, Health, HealthState
from streamcls.units import NS_PER_S
from tests.audio_server import AudioServer, FifoWriter, hide_portaudio

RATE_HZ = 16_000
HOP_SAMPLES = 160
BITWISE = SourceOptions(sample_rate_hz=RATE_HZ, channels=1)
DEADLINE_S = 20.0


class Listener:
    """A device with its feeder, and a reader that keeps all hops; closes with the context."""

    def __init__(self, spec: str, options: SourceOptions | None = None) -> None:
        self._news = threading.Condition()
        self._wake = threading.Event()
        self.source = parse_source(spec, options)
        assert isinstance(self.source, DeviceSource)
        self.ring = Ring(10 * RATE_HZ, RATE_HZ, self._wake.set, utc_offset_ns=read_utc_offset_ns)
        self.feeder = Feeder("heard", self.source, self.ring, 0, self._take)
        self.reports: list[Health] = []
        self.audio: list[np.ndarray] = []
        self.starts: list[int] = []
        self.losses: list[int] = []
        self.times_ns: list[int] = []
        self._reader = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._reader.start()
        self.feeder.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert self.feeder.stop()
        self._reader.join()

    def wait_for(self, state: HealthState, after: Health | None = None, reason: str = "") -> Health:
        """Return the first report of a state that says so, behind another report if given."""

        def found() -> Iterator[Health]:
            first = 0 if after is None else self.reports.index(after) + 1
            later = self.reports[first:]
            return (r for r in later if r.state is state and reason in r.reason)

        self._wait(lambda: any(True for _ in found()))
        return next(found())

    def wait_for_audio(self, seconds: float) -> None:
        """Return when so much more has been read."""
        wanted = len(self.audio) + round(seconds * RATE_HZ / HOP_SAMPLES)
        self._wait(lambda: len(self.audio) >= wanted)

    def wait_for_sound(self) -> None:
        """Return when what is played has begun to be heard."""
        self._wait(lambda: bool(self.audio) and bool(self.audio[-1].any()))

    @property
    def process_id(self) -> int:
        """Of the process that records now."""
        assert isinstance(self.source, DeviceSource)
        assert self.source._process is not None
        return self.source._process._process.pid

    @property
    def hole(self) -> int:
        """Number of the hop behind the loss; a busy machine may add smaller ones."""
        assert any(self.losses)
        return int(np.argmax(self.losses))

    def check_times_over_the_hole(self) -> None:
        """Indices went on with time while nothing arrived, and nothing was lost unsaid."""
        by_index_s = np.diff(self.starts)[self.hole - 1] / RATE_HZ
        by_time_s = np.diff(self.times_ns)[self.hole - 1] / NS_PER_S
        assert by_index_s == pytest.approx(by_time_s, abs=0.1)
        assert self.feeder.health().dropped_samples == sum(self.losses)

    def _wait(self, condition: Callable[[], bool]) -> None:
        with self._news:
            assert self._news.wait_for(condition, DEADLINE_S), self.reports

    def _take(self, health: Health) -> None:
        with self._news:
            self.reports.append(health)
            self._news.notify_all()

    def _read(self) -> None:
        out = np.empty(HOP_SAMPLES, np.float32)
        while not self.ring.ended:
            self._wake.wait()
            self._wake.clear()
            while (hop := self.ring.read_hop(out)) is not None:
                with self._news:
                    self.audio.append(out[: hop.n_real].copy())
                    self.starts.append(hop.sample_start)
                    self.losses.append(hop.lost_samples)
                    self.times_ns.append(self.ring.time_ns(hop.sample_start))
                    self._news.notify_all()


@pytest.fixture
def server(audio_server: AudioServer, monkeypatch: pytest.MonkeyPatch) -> AudioServer:
    """A server that recorders started from here see, and a feeder that is in a hurry."""
    for name, value in audio_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(feeder_module, "RETRY_FIRST_S", 0.05)
    monkeypatch.setattr(feeder_module, "RETRY_LONGEST_S", 0.2)
    monkeypatch.setattr(device_module, "STALL_TIMEOUT_S", 0.5)
    monkeypatch.setattr(device_module, "FIRST_BLOCK_TIMEOUT_S", 2.5)
    return audio_server


def save_ramp(server: AudioServer, seconds: int) -> np.ndarray:
    """Let filesrc deliver samples that name their own position, exactly."""
    ramp = (np.arange(1, seconds * RATE_HZ + 1) / 2**20).astype(np.float32)
    server.store_raw(ramp)
    return ramp


def play_count(server: AudioServer, path: Path, seconds: int) -> "subprocess.Popen[bytes]":
    """Play, over and over, 4.1 s of samples that name their own position."""
    count = np.resize(np.arange(-32768, 32768, dtype=np.int16), seconds * RATE_HZ)
    soundfile.write(path, count, RATE_HZ)
    return server.play(path)


def read_block(source: Source) -> Block:
    while (block := source.read()) is None:
        pass
    return block


def read_count(audio: np.ndarray) -> np.ndarray:
    return np.round(np.asarray(audio) * 32768).astype(np.int64)


@pytest.mark.pulseaudio
def test_monitor_hears_what_is_played(server: AudioServer, tmp_path: Path) -> None:
    """At the device's own rate and channels (44.1 kHz stereo here), resampled."""
    t_s = np.arange(RATE_HZ) / RATE_HZ
    tone = np.concatenate([np.zeros(RATE_HZ // 2), 0.5 * np.sin(2 * np.pi * 1000 * t_s)])
    soundfile.write(tmp_path / "tone.wav", tone, RATE_HZ)
    began_ns = time.time_ns()
    with Listener("device:mon") as listener:
        listener.wait_for(HealthState.LIVE)
        assert server.play(tmp_path / "tone.wav").wait(20) == 0
        listener.wait_for_audio(0.1)
    audio = np.array(listener.audio[:-1])
    level = np.sqrt(np.mean(audio**2, axis=1))
    loud = np.flatnonzero(level > 0.1)
    assert 0.95 <= loud.size * HOP_SAMPLES / RATE_HZ <= 1.05
    assert loud[-1] - loud[0] == loud.size - 1  # in one piece
    assert np.median(level[loud]) == pytest.approx(0.5 / np.sqrt(2), rel=0.02)
    sound = audio[loud[1:-1]].ravel()
    strongest_hz = np.argmax(np.abs(np.fft.rfft(sound))) * RATE_HZ / sound.size
    assert strongest_hz == pytest.approx(1000, abs=3)
    assert not any(listener.losses)
    assert np.all(np.diff(listener.times_ns) > 0)
    assert began_ns < listener.times_ns[0] < listener.times_ns[-1] < time.time_ns()


@pytest.mark.pulseaudio
def test_float_samples_arrive_bit_exactly(server: AudioServer) -> None:
    ramp = save_ramp(server, 4)
    with Listener("device:filesrc", BITWISE) as listener:
        listener.wait_for_audio(1.0)
    heard = np.concatenate(listener.audio)
    np.testing.assert_array_equal(heard, ramp[: heard.size])


@pytest.mark.pulseaudio
def test_int16_samples_of_many_channels_arrive_bit_exactly(server: AudioServer) -> None:
    """Sixteen channels: a block is shorter than 10 ms, so that the pipe takes it whole."""
    n_channels = 16
    count = np.arange(-32768, 32767, dtype=np.int16)
    server.store_raw(np.repeat(count, n_channels))
    options = SourceOptions(sample_rate_hz=RATE_HZ, channels=n_channels, sample_format="s16le")
    with Listener("device:filesrc", options) as listener:
        listener.wait_for_audio(1.0)
    heard = read_count(np.concatenate(listener.audio))[: count.size]
    np.testing.assert_array_equal(heard, count[: heard.size])


@pytest.mark.pulseaudio
def test_loss_is_exact_when_nobody_reads(
    server: AudioServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portaudio_module, "PIPE_BYTES", 1 << 16)  # a second
    ramp = save_ramp(server, 8)
    with Listener("device:filesrc", BITWISE) as listener:
        listener.wait_for_audio(0.3)
        read = listener.source.read
        held = threading.Event()

        def read_late() -> Block | None:
            if not held.is_set():
                time.sleep(2.0)
                held.set()
            return read()

        listener.source.read = read_late
        assert held.wait(DEADLINE_S)
        listener.wait_for_audio(2.0)
    assert 0 < listener.losses[listener.hole] < 2 * RATE_HZ
    for start, audio in zip(listener.starts, listener.audio, strict=True):
        np.testing.assert_array_equal(audio, ramp[start : start + audio.size])
    assert listener.feeder.health().xruns == np.count_nonzero(listener.losses)


@pytest.mark.pulseaudio
def test_losses_equal_what_a_reference_recording_says(server: AudioServer, tmp_path: Path) -> None:
    """The recording process is killed while numbered samples are played."""
    options = SourceOptions(sample_rate_hz=RATE_HZ, channels=1, sample_format="s16le")
    player = play_count(server, tmp_path / "count.wav", 12)
    with Listener("device:mon", options) as listener:
        listener.wait_for_sound()
        listener.wait_for_audio(1.0)
        os.kill(listener.process_id, signal.SIGKILL)
        lost = listener.wait_for(HealthState.LOST)
        assert lost.reason == "device:mon: the recording process died (exit status -9)"
        back = listener.wait_for(HealthState.LIVE, after=lost)
        assert "arrives again" in back.reason
        listener.wait_for_audio(0.5)
    player.kill()
    player.wait()
    before, after = listener.audio[listener.hole - 1], listener.audio[listener.hole]
    numbers = read_count(np.array([before[-1], after[0]]))
    really_lost = (numbers[1] - numbers[0] - 1) % 65536
    assert RATE_HZ / 100 < really_lost < 4 * RATE_HZ
    # To the fragments in which this server hands out samples, and late ones on a busy machine.
    assert listener.losses[listener.hole] == pytest.approx(really_lost, abs=0.1 * RATE_HZ)
    listener.check_times_over_the_hole()


@pytest.mark.pulseaudio
def test_a_device_pulled_out_comes_back_with_another_rate(server: AudioServer) -> None:
    with Listener("device:mon") as listener:
        listener.wait_for(HealthState.LIVE)
        server.unload_sink()
        lost = listener.wait_for(HealthState.LOST)
        assert "no audio for 0." in lost.reason
        listener.wait_for(HealthState.RECOVERING)
        server.load_sink(48_000)
        listener.wait_for(HealthState.LIVE, after=lost)
        listener.wait_for_audio(0.3)
    listener.check_times_over_the_hole()


@pytest.mark.pulseaudio
def test_a_server_that_dies_and_comes_back_is_heard_again(server: AudioServer) -> None:
    with Listener("device:mon") as listener:
        listener.wait_for(HealthState.LIVE)
        server.kill()
        lost = listener.wait_for(HealthState.LOST)
        # PortAudio says so at once or, as often, never.
        assert "ended the stream" in lost.reason or "no audio for 0." in lost.reason
        listener.wait_for(HealthState.RECOVERING, reason="attempt 2 in 0.1 s")
        server.start()
        listener.wait_for(HealthState.LIVE, after=lost)
        listener.wait_for_audio(0.3)
    listener.check_times_over_the_hole()


@pytest.mark.pulseaudio
def test_a_frozen_server_is_noticed_again_and_again_and_heard_when_it_thaws(
    server: AudioServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "ANSWER_TIMEOUT_S", 0.5)
    with Listener("device:mon") as listener:
        listener.wait_for(HealthState.LIVE)
        server.freeze()
        lost = listener.wait_for(HealthState.LOST)
        hang = "PortAudio cannot list the sound devices: no answer for"
        listener.wait_for(HealthState.RECOVERING, reason=hang)
        server.thaw()
        monkeypatch.setattr(device_module, "ANSWER_TIMEOUT_S", 10.0)
        listener.wait_for(HealthState.LIVE, after=lost)
    listener.check_times_over_the_hole()
    server.freeze()
    with pytest.raises(SourceLost, match="no answer for 0 s"):
        list_devices(timeout_s=0.3)


@pytest.mark.pulseaudio
def test_a_stuck_device_is_tried_on_while_another_one_is_undisturbed(server: AudioServer) -> None:
    """Every attempt looks for devices anew, in a process of its own."""
    ramp = save_ramp(server, 10)
    with (
        FifoWriter(server.pipe_path) as card,
        Listener("device:filesrc", BITWISE) as other,
        Listener("device:pipesrc", BITWISE) as stuck,
    ):
        stuck.wait_for(HealthState.LIVE)
        other.wait_for(HealthState.LIVE)
        card.value = None
        lost = stuck.wait_for(HealthState.LOST)
        assert lost.reason.startswith("device:pipesrc: no audio for 0.")
        stuck.wait_for(HealthState.RECOVERING, reason="attempt 2")
        card.value = 0
        stuck.wait_for(HealthState.LIVE, after=lost)
        other.wait_for_audio(0.1)
    heard = np.concatenate(other.audio)
    np.testing.assert_array_equal(heard, ramp[: heard.size])
    assert not any(other.losses)
    assert [r.state for r in other.reports] == [HealthState.STARTING, HealthState.LIVE]


@pytest.mark.pulseaudio
def test_a_device_is_found_when_it_appears_and_lost_when_it_gets_another_name(
    server: AudioServer,
) -> None:
    ramp = save_ramp(server, 6)
    with Listener("device:filesrc", BITWISE) as other, Listener("device:attic") as late:
        other.wait_for(HealthState.LIVE)
        lost = late.wait_for(HealthState.LOST)
        assert lost.reason.startswith("there is no sound device 'attic' that can record; choose")
        server.add_device("usb_attic", "testsink.monitor")
        live = late.wait_for(HealthState.LIVE)
        server.rename_device("usb_attic", "usb_cellar")
        os.kill(late.process_id, signal.SIGKILL)  # as if it was pulled out and put in elsewhere
        late.wait_for(HealthState.RECOVERING, after=live, reason="usb_cellar")
        server.rename_device("usb_cellar", "the_attic")
        late.wait_for(HealthState.LIVE, after=live)
        other.wait_for_audio(0.1)
    heard = np.concatenate(other.audio)
    np.testing.assert_array_equal(heard, ramp[: heard.size])
    assert not any(other.losses)


@pytest.mark.pulseaudio
def test_a_device_that_comes_back_with_fewer_channels_is_waited_for(server: AudioServer) -> None:
    server.add_device("desk", "testsink.monitor")
    with Listener("device:desk", SourceOptions(channels=2)) as listener:
        live = listener.wait_for(HealthState.LIVE)
        server.rename_device("desk", "cellar")
        server.add_narrow_device("desk")
        os.kill(listener.process_id, signal.SIGKILL)  # as if it was pulled out
        listener.wait_for(
            HealthState.RECOVERING, after=live, reason="desk has 1 channels, not 2; set channels"
        )
        server.rename_device("desk", "attic")
        server.rename_device("cellar", "desk")
        listener.wait_for(HealthState.LIVE, after=live)
        listener.wait_for_audio(0.3)
    listener.check_times_over_the_hole()


@pytest.mark.pulseaudio
def test_a_microphone_of_zeros_is_silent_until_it_is_heard(
    server: AudioServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeder_module, "SILENCE_S", 0.3)
    with FifoWriter(server.pipe_path) as card, Listener("device:pipesrc") as listener:
        silent = listener.wait_for(HealthState.SILENT)
        assert silent.reason == "digital silence for 0.3 s; muted?"
        card.value = 1000
        listener.wait_for(HealthState.LIVE, after=silent)
    assert not any(listener.losses)


@pytest.mark.pulseaudio
def test_recorders_do_not_heed_signals_and_leave_with_their_parent(server: AudioServer) -> None:
    """Ctrl-C and systemd reach the whole group; a killed daemon leaves nothing behind."""
    program = """
import sys
from streamcls.capture import parse_source
source = parse_source("device:mon")
source.open()
while source.read() is None:
    pass
print(source._process._process.pid, flush=True)
sys.stdin.read()
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    recorder_id = int(parent.stdout.readline())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(recorder_id, number)
    handle = os.pidfd_open(recorder_id)
    assert not is_over(handle, 0.1)
    server.freeze()  # PortAudio hangs in there
    parent.kill()
    parent.communicate()
    assert is_over(handle, DEADLINE_S)
    os.close(handle)


def is_over(handle: int, timeout_s: float) -> bool:
    return bool(select.select([handle], [], [], timeout_s)[0])


class ScriptedProcess:
    """What a recorder says when a driver misbehaves as no server here can be made to."""

    def __init__(self, records: list[Record]) -> None:
        self.messages = iter([{"devices": [vars_of(DEVICES[2])]}, {"opened": True}])
        self.records = iter(records)
        self.receive = lambda: next(self.messages)
        self.read = lambda: next(self.records)

    def open(self, order: dict[str, object]) -> None:
        assert order["device"] == 4


def vars_of(device: InputDevice) -> dict[str, object]:
    return {name: getattr(device, name) for name in InputDevice.__slots__}


def feed(records: list[Record]) -> list[Block]:
    source = DeviceSource("", RATE_HZ, 1)
    process = ScriptedProcess(records)
    blocks = source._record(process)  # pyright: ignore[reportArgumentType]
    return [block for block in itertools.islice(blocks, len(records)) if block is not None]


def record_at(frame: int, called_s: float, age_s: float = 0.01, overflowed: int = 0) -> Record:
    data = np.full(160, frame, np.float32).tobytes()
    return Record(round(called_s * NS_PER_S), age_s, 160, 0, overflowed, data)


def test_a_loss_that_the_driver_reports_is_measured_by_the_clock() -> None:
    """Its blocks come in bursts of three; 100 ms are lost in front of block 300."""
    records = []
    for k in range(400):
        burst_s = (k // 3 * 3 + 3) * 0.01 + 0.1 * (k >= 300)
        age_s = burst_s - k * 0.01 - 0.1 * (k >= 300)
        records.append(record_at(k, burst_s, age_s, overflowed=int(k == 300)))
    blocks = feed(records)
    assert [k for k, block in enumerate(blocks) if block.lost_frames] == [300]
    assert blocks[300].lost_frames == pytest.approx(0.1 * RATE_HZ, abs=2)
    assert blocks[300].xruns == 1
    times_ns = np.array([block.t_first_ns for block in blocks])
    np.testing.assert_allclose(np.diff(times_ns[2:300]), NS_PER_S / 100, atol=1)


def test_a_loss_that_no_driver_reports_is_found_and_a_stall_that_is_caught_up_is_none() -> None:
    lost_s = 0.4
    records, now_s = [], 0.0
    for k in range(600):
        due_s = (k + 1) * 0.01 + lost_s * (k >= 300)
        now_s = due_s if not 100 <= k < 250 else max(2.5, due_s)  # then 150 blocks at once
        records.append(record_at(k, now_s, now_s - due_s + 0.01))
    blocks = feed(records)
    (at,) = [k for k, block in enumerate(blocks) if block.lost_frames]
    assert 300 < at <= 402  # once it has lasted
    assert blocks[at].lost_frames == lost_s * RATE_HZ
    assert blocks[at].xruns == 1
    assert blocks[-1].t_first_ns == round((599 * 0.01 + lost_s) * NS_PER_S)


@pytest.mark.pulseaudio
def test_devices_are_listed_and_found(server: AudioServer) -> None:
    assert {"mon", "pipesrc", "filesrc"} <= {device.name for device in list_devices()}
    found = parse_source("device:filesrc")
    found.check()
    assert found.channels == 2  # so that a channel beyond them is refused before anything starts
    with pytest.raises(SourceError) as caught:
        parse_source("device:microphone").check()
    message = str(caught.value)
    assert message.startswith("there is no sound device 'microphone' that can record; choose")
    assert "  0: mon (ALSA)" in message


def test_without_portaudio_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in hide_portaudio(tmp_path).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SourceError, match="apt-get install libportaudio2"):
        list_devices()
    source = parse_source("device:")
    with pytest.raises(SourceError, match="apt-get install libportaudio2"):
        source.check()
    source.open()
    with pytest.raises(SourceError, match="apt-get install libportaudio2") as caught:
        read_block(source)
    assert not isinstance(caught.value, SourceLost)  # no use trying again
    source.close()


DEVICES = [
    InputDevice(0, "USB Audio: front (hw:1,0)", "ALSA", 2, 48_000, False),
    InputDevice(3, "USB Audio", "JACK", 2, 48_000, False),
    InputDevice(4, "Built-in", "ALSA", 2, 44_100, True),
    InputDevice(7, "3", "ALSA", 2, 44_100, False),
]


@pytest.mark.parametrize(
    ("name", "index"),
    [("", 4), ("USB Audio", 3), ("usb audio", 3), ("front", 0), ("BUILT", 4), ("3", 7), ("4", 4)],
)
def test_device_names_match_exactly_then_by_index_then_by_part(name: str, index: int) -> None:
    assert find_device(name, DEVICES).index == index


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("audio", r"2 devices match sound device 'audio'; name one of\n  0: USB .*\n  3: USB"),
        ("9", r"there is no sound device '9' that can record; choose one of\n  0: USB"),
    ],
)
def test_a_name_that_fits_none_or_several_lists_them(name: str, message: str) -> None:
    with pytest.raises(SourceLost, match=message):
        find_device(name, DEVICES)


def test_no_devices_at_all() -> None:
    with pytest.raises(SourceError, match="there is no default sound device, nor any other"):
        find_device("", [])
