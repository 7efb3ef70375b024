"""The shipped model hears real and synthetic words through the whole daemon."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from streamcls.publish.schema import HealthMessage, PredictionMessage
from tests.audio_server import AudioServer
from tests.end_to_end.conftest import Launcher

RECORDINGS = Path(__file__).resolve().parents[2] / "streamcls" / "recordings"
NOTHING = {"unknown", "silence"}


def heard_words(predictions: list[PredictionMessage], threshold: float) -> list[tuple[float, str]]:
    """Return (seconds, label) for every run of confident predictions of one word."""
    words, previous = [], ""
    for p in predictions:
        label, score = next(iter(p.scores.items()))
        word = label if score >= threshold and label not in NOTHING else ""
        if word and word != previous:
            words.append((p.sample_end / p.sample_rate_hz, word))
        previous = word
    return words


def count_right(said: list[dict], heard: list[tuple[float, str]], offset_s: float = 0.0) -> int:
    """Count the words heard while or shortly after they were said."""
    right = 0
    for word in said:
        start, end = word["start_s"] + offset_s, word["end_s"] + offset_s + 0.8
        right += any(start < at < end and label == word["word"] for at, label in heard)
    return right


@pytest.fixture(scope="module")
def transcript() -> list[dict]:
    return json.loads((RECORDINGS / "demo.json").read_text())["words"]


def test_demo_recording(launcher: Launcher, transcript) -> None:
    source = f"file:{RECORDINGS / 'demo.flac'}"
    with launcher.run("--model", "commands", "--source", source, "--fast") as daemon:
        daemon.listen_to_the_end()
    heard = heard_words(daemon.predictions("mic"), 0.6)
    assert count_right(transcript, heard) >= 8
    # Between the words it holds its tongue.
    assert len(heard) <= len(transcript) + 3


@pytest.mark.pulseaudio
def test_captured_from_a_sound_server(
    launcher: Launcher, playing_server: AudioServer, transcript
) -> None:
    """A recording played into a sink, its monitor captured by the daemon through PortAudio."""
    environment = playing_server.environment
    with launcher.run(
        "--model", "commands", "--source", "device:mon", environment=environment
    ) as d:
        d.listen(lambda m: isinstance(m, HealthMessage) and m.state == "live")
        began_ns = time.time_ns()
        player = subprocess.Popen(["paplay", str(RECORDINGS / "demo.flac")], env=environment)
        deadline_ns = began_ns + 22 * 10**9
        d.listen(lambda m: isinstance(m, PredictionMessage) and m.t_end_ns > deadline_ns)
        assert player.wait(5) == 0
    predictions = d.predictions("mic")
    heard = [(at, word) for at, word in heard_words(predictions, 0.6)]
    # Playing started at an unknown moment of the stream: the first word heard fixes it.
    best = max(
        count_right(transcript, heard, offset_s=at - transcript[0]["end_s"]) for at, _ in heard
    )
    assert best >= 8
    latencies_s = [(p.published_ns - p.t_end_ns) / 1e9 for p in predictions[-100:]]
    assert -0.05 < np.median(latencies_s) < 1.0


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("model", "folder", "share"), [("digits", "fsdd", 0.9), ("commands", "speech_commands", 0.85)]
)
def test_real_clips_with_pauses(
    launcher: Launcher, tmp_path, shared_data, model, folder, share
) -> None:
    """Thirty real clips spliced into one recording: each is named while it is heard."""
    generator = np.random.default_rng(5)
    clips = [
        path
        for path in sorted((shared_data / folder / "audio").glob("*/*"))
        if path.parent.name not in NOTHING
    ]
    rate_hz = soundfile.info(clips[0]).samplerate
    pieces, said, at = [], [], 0
    for index in generator.permutation(len(clips))[:30]:
        audio, _ = soundfile.read(clips[index], dtype="float32")
        pause = np.zeros(rate_hz, np.float32)
        said.append(
            {
                "word": clips[index].parent.name,
                "start_s": (at + rate_hz) / rate_hz,
                "end_s": (at + rate_hz + len(audio)) / rate_hz,
            }
        )
        pieces += [pause, audio]
        at += len(pause) + len(audio)
    recording = np.concatenate([*pieces, np.zeros(rate_hz, np.float32)])
    recording += generator.normal(0, 1e-3, recording.shape).astype(np.float32)
    path = tmp_path / "clips.wav"
    soundfile.write(path, recording, rate_hz)
    with launcher.run("--model", model, "--source", f"file:{path}", "--fast") as daemon:
        daemon.listen_to_the_end()
    heard = heard_words(daemon.predictions("mic"), 0.5)
    assert count_right(said, heard) >= share * len(said)


def test_the_demo_command(launcher: Launcher) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "streamcls", "demo"],
        env=launcher.environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert "words right" in result.stdout
    assert "0 gaps" in result.stdout
    assert "dBFS" in result.stdout
    assert "latency, last sample to publisher" in result.stderr
