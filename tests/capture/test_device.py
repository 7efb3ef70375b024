"""Devices for real: a PulseAudio server, its null sink and sources, through PortAudio.

Capture runs in subprocesses, because PortAudio learns of the devices when it initialises.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from streamcls.capture.portaudio import InputDevice, find_device
from streamcls.capture.source import SourceLost
from streamcls.errors import SourceError
from streamcls.units import NS_PER_S
from tests.audio_server import AudioServer

RECORDER = Path(__file__).parent / "recorder.py"
RATE_HZ = 16_000
FILESRC = ("sample_rate_hz=16000", "channels=1")


class Recording:
    """A recorder at work, its reports and in the end its hops."""

    def __init__(self, server: AudioServer, folder: Path, source: str, seconds: float, *options):
        self.path = folder / "recorded.npz"
        command = [sys.executable, "-W", "error", str(RECORDER), source, str(seconds)]
        self.process = subprocess.Popen(
            [*command, str(self.path), *options],
            env=server.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # ALSA talks there
            text=True,
        )
        self.reports: list[dict[str, Any]] = []

    def wait_for(self, state: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.reports.append(json.loads(line))
            if self.reports[-1]["state"] == state:
                return self.reports[-1]
        raise AssertionError(f"never became {state}: {self.reports}")

    def finish(self) -> dict[str, np.ndarray]:
        rest, _ = self.process.communicate(timeout=30)
        assert self.process.returncode == 0
        self.reports += [json.loads(line) for line in rest.splitlines()]
        with np.load(self.path) as hops:
            return dict(hops)


def save_ramp(server: AudioServer, seconds: int) -> np.ndarray:
    """Let filesrc deliver samples that name their own position, exactly."""
    ramp = (np.arange(1, seconds * RATE_HZ + 1) / 2**20).astype(np.float32)
    server.store_raw(ramp)
    return ramp


@pytest.mark.pulseaudio
def test_monitor_hears_what_is_played(audio_server: AudioServer, tmp_path: Path) -> None:
    """At the device's own rate and channels (44.1 kHz stereo here), resampled."""
    t_s = np.arange(RATE_HZ) / RATE_HZ
    tone = np.concatenate([np.zeros(RATE_HZ // 2), 0.5 * np.sin(2 * np.pi * 1000 * t_s)])
    soundfile.write(tmp_path / "tone.wav", tone, RATE_HZ)
    began_ns = time.time_ns()
    recording = Recording(audio_server, tmp_path, "device:mon", 5)
    recording.wait_for("live")
    assert audio_server.play(tmp_path / "tone.wav").wait(20) == 0
    hops = recording.finish()
    level = np.sqrt(np.mean(hops["audio"] ** 2, axis=1))
    loud = np.flatnonzero(level > 0.1)
    assert 0.95 <= loud.size * hops["audio"].shape[1] / RATE_HZ <= 1.05
    assert loud[-1] - loud[0] == loud.size - 1  # in one piece
    assert np.median(level[loud]) == pytest.approx(0.5 / np.sqrt(2), rel=0.02)
    sound = hops["audio"][loud[1:-1]].ravel()
    strongest_hz = np.argmax(np.abs(np.fft.rfft(sound))) * RATE_HZ / sound.size
    assert strongest_hz == pytest.approx(1000, abs=3)
    assert not hops["losses"].any()
    assert np.all(np.diff(hops["times_ns"]) > 0)
    assert began_ns < hops["times_ns"][0] < hops["times_ns"][-1] < time.time_ns()


@pytest.mark.pulseaudio
def test_samples_arrive_bit_exactly(audio_server: AudioServer, tmp_path: Path) -> None:
    ramp = save_ramp(audio_server, 6)
    hops = Recording(audio_server, tmp_path, "device:filesrc", 4, *FILESRC).finish()
    heard = hops["audio"].ravel()
    assert heard.size > RATE_HZ
    np.testing.assert_array_equal(heard, ramp[: heard.size])


@pytest.mark.pulseaudio
def test_int16_samples_arrive_bit_exactly(audio_server: AudioServer, tmp_path: Path) -> None:
    ramp = np.arange(-32768, 32767, dtype=np.int16)
    audio_server.store_raw(ramp)
    options = (*FILESRC, 'sample_format="s16le"')
    hops = Recording(audio_server, tmp_path, "device:filesrc", 4, *options).finish()
    heard = hops["audio"].ravel()[: ramp.size]
    assert heard.size > RATE_HZ
    np.testing.assert_array_equal(heard * 32768, ramp[: heard.size])


@pytest.mark.pulseaudio
def test_loss_is_exact_when_nobody_reads(audio_server: AudioServer, tmp_path: Path) -> None:
    ramp = save_ramp(audio_server, 12)
    options = (*FILESRC, "read_after_s=5.5")
    recording = Recording(audio_server, tmp_path, "device:filesrc", 8, *options)
    hops = recording.finish()
    starts = hops["starts"]
    assert np.count_nonzero(hops["losses"]) == 1
    assert hops["losses"].sum() > 0
    for start, audio in zip(starts, hops["audio"], strict=True):
        np.testing.assert_array_equal(audio, ramp[start : start + audio.size])
    assert recording.reports[-1]["xruns"] == 1


@pytest.mark.pulseaudio
def test_recovers_by_name_when_the_server_comes_back(
    audio_server: AudioServer, tmp_path: Path
) -> None:
    recording = Recording(audio_server, tmp_path, "device:mon", 8)
    recording.wait_for("live")
    audio_server.kill()
    lost = recording.wait_for("lost")
    assert "ended the stream" in lost["reason"]
    recording.wait_for("recovering")
    audio_server.start()
    recording.wait_for("live")
    hops = recording.finish()
    (hole,) = np.flatnonzero(hops["losses"])
    assert 0 < hole < hops["losses"].size - 1
    # The indices kept matching time over the outage.
    by_index_s = np.diff(hops["starts"])[hole - 1] / RATE_HZ
    by_time_s = np.diff(hops["times_ns"])[hole - 1] / NS_PER_S
    assert by_index_s == pytest.approx(by_time_s, abs=0.1)
    assert recording.reports[-1]["dropped_samples"] == hops["losses"].sum()


@pytest.mark.pulseaudio
def test_a_frozen_server_is_noticed_and_does_not_hold_us(
    audio_server: AudioServer, tmp_path: Path
) -> None:
    recording = Recording(audio_server, tmp_path, "device:mon", 7)
    recording.wait_for("live")
    audio_server.freeze()
    lost = recording.wait_for("lost")
    assert "no audio for" in lost["reason"]
    recording.finish()  # PortAudio hangs in that process; it exits all the same
    audio_server.thaw()


@pytest.mark.pulseaudio
def test_devices_are_listed_and_found(audio_server: AudioServer) -> None:
    program = """
from streamcls.capture import list_devices, parse_source
from streamcls.errors import SourceError
print([d.name for d in list_devices()])
parse_source("device:filesrc").check()
try:
    parse_source("device:microphone").check()
except SourceError as error:
    print(error)
"""
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=audio_server.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    names, *message = answer.stdout.splitlines()
    assert {"mon", "pipesrc", "filesrc"} <= set(json.loads(names.replace("'", '"')))
    assert message[0].startswith("there is no sound device 'microphone' that can record; choose")
    assert "  0: mon (ALSA)" in message


def test_without_portaudio_the_message_says_what_to_install(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(1600), RATE_HZ)
    program = f"""
import ctypes.util
ctypes.util.find_library = lambda name: None
from streamcls.capture import list_devices, parse_source
from streamcls.errors import SourceError
for call in (list_devices, parse_source("device").check, parse_source("device").open):
    try:
        call()
    except SourceError as error:
        print(error)
source = parse_source("file:{tmp_path / "a.wav"}")
source.open()
print(source.sample_rate_hz)
source.close()
"""
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
    )
    *messages, rate = answer.stdout.splitlines()
    assert len(messages) == 3
    assert all("apt-get install libportaudio2" in message for message in messages)
    assert rate == "16000"


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
