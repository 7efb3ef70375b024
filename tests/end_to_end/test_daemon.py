"""`streamcls run` as a user runs it: files, pipes, several streams, signals, figures."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from streamcls.client import ControlClient
from streamcls.publish.schema import HealthMessage, PredictionMessage
from streamcls.signals import ONE_INTERRUPT_S
from tests.audio_server import hide_portaudio
from tests.end_to_end.conftest import Launcher

RATE_HZ = 16_000
HOP_SAMPLES = 1_280


def write_noise(path: Path, seconds: float, rate_hz: int = RATE_HZ, seed: int = 0) -> Path:
    """Write noise that swells and fades, so that predictions differ."""
    n = int(seconds * rate_hz)
    swell = 0.02 + 0.1 * np.sin(np.arange(n) / rate_hz * 4) ** 2
    audio = np.random.default_rng(seed).normal(0, 1, n) * swell
    soundfile.write(path, audio.astype(np.float32), rate_hz, subtype="PCM_16")
    return path


def check_sequence(messages: list, stream: str) -> None:
    """Sequence numbers without a hole, per type."""
    for kind in (PredictionMessage, HealthMessage):
        own = [m for m in messages if isinstance(m, kind) and m.stream == stream]
        assert [m.seq for m in own] == list(range(len(own)))


def test_fast_gives_the_predictions_of_realtime(launcher: Launcher, model, tmp_path) -> None:
    path = write_noise(tmp_path / "noise.wav", 3.3)
    runs = {}
    for pace in ("fast", "realtime"):
        summary = tmp_path / f"{pace}.json"
        source = ["--source", f"file:{path}", f"--{pace}", "--summary-json", str(summary)]
        with launcher.run("--model", model, *source) as daemon:
            daemon.listen_to_the_end()
            assert daemon.process.wait(10) == 0
        runs[pace] = daemon.predictions("mic")
        check_sequence(daemon.messages, "mic")
        figures = json.loads(summary.read_text())
        assert figures["windows"] == len(runs[pace])
        assert figures["messages_dropped"] == 0
        stream = figures["streams"]["mic"]
        assert (stream["captured_samples"], stream["dropped_samples"]) == (int(3.3 * RATE_HZ), 0)
        # Only audio that comes in real time has a latency.
        assert (figures["latency_ms"]["p99"] is None) == (pace == "fast")
    fast, realtime = runs["fast"], runs["realtime"]
    assert len(fast) == len(realtime) == 42 - 13 + 1
    for ours, theirs in zip(fast, realtime, strict=True):
        assert (ours.sample_start, ours.sample_end) == (theirs.sample_start, theirs.sample_end)
        assert ours.scores == pytest.approx(theirs.scores, abs=1e-5)
        assert ours.flags == theirs.flags
        assert ours.level_dbfs == pytest.approx(theirs.level_dbfs, abs=1e-3)


def test_messages_say_where_and_when(launcher: Launcher, model, tmp_path) -> None:
    path = write_noise(tmp_path / "noise.wav", 2.5)
    before_ns = time.time_ns()
    with launcher.run(
        "--model", model, "--source", f"file:{path}", "--set", "publish.top_k=0"
    ) as d:
        d.listen_to_the_end()
    predictions = d.predictions("mic")
    assert [p.sample_end for p in predictions[:-1]] == [
        HOP_SAMPLES * hop for hop in range(13, 13 + len(predictions) - 1)
    ]
    assert len({p.run for p in predictions}) == 1
    for p in predictions:
        assert p.sample_rate_hz == RATE_HZ
        assert p.model == "seasoned"
        assert before_ns < p.t_start_ns < p.t_end_ns <= p.published_ns
        duration_ns = (p.sample_end - p.sample_start) * 10**9 // RATE_HZ
        assert p.t_end_ns - p.t_start_ns == pytest.approx(duration_ns, abs=2_000_000)
        assert len(p.scores) == 12
        assert sum(p.scores.values()) == pytest.approx(1.0, abs=1e-4)
        assert list(p.scores.values()) == sorted(p.scores.values(), reverse=True)
    states = [m.state for m in d.messages if isinstance(m, HealthMessage)]
    assert states == ["starting", "live", "ended"]


def test_several_streams_of_several_kinds_at_once(launcher: Launcher, model, tmp_path) -> None:
    wav = write_noise(tmp_path / "a.wav", 2.4, seed=1)
    stereo = tmp_path / "b.flac"
    audio = np.random.default_rng(2).normal(0, 0.1, (int(2.1 * 44_100), 2))
    soundfile.write(stereo, audio, 44_100)
    config = tmp_path / "streamcls.toml"
    config.write_text(
        f'model = "{model}"\n'
        f'[streams.wav]\nsource = "file:{wav}"\npace = "fast"\n'
        f'[streams.stereo]\nsource = "file:{stereo}"\nchannel = "mix"\npace = "fast"\n'
        '[streams.raw]\nsource = "pipe:"\nsample_rate_hz = 8000\nsample_format = "f32le"\n'
    )
    raw = np.random.default_rng(3).normal(0, 0.1, 8_000 * 2).astype("<f4").tobytes()
    with launcher.run(str(config), stdin=subprocess.PIPE) as daemon:
        assert daemon.process.stdin is not None
        # In odd pieces: a sample may be cut in the middle.
        for start in range(0, len(raw), 4_099):
            daemon.process.stdin.write(raw[start : start + 4_099])
        daemon.process.stdin.close()
        daemon.listen_to_the_end(3)
        assert daemon.process.wait(10) == 0
    for stream, samples in (("wav", 2.4), ("stereo", 2.1), ("raw", 2.0)):
        predictions = daemon.predictions(stream)
        assert predictions[-1].sample_end == round(samples * RATE_HZ)
        assert len(predictions) == -(-round(samples * RATE_HZ) // HOP_SAMPLES) - 13 + 1
        check_sequence(daemon.messages, stream)


@pytest.mark.parametrize(
    ("audio", "flags"),
    [
        (np.zeros(2 * RATE_HZ, np.float32), {"silent"}),
        (np.ones(2 * RATE_HZ, np.float32), {"clipped"}),
        (np.full(2 * RATE_HZ, np.nan, np.float32), {"silent", "nonfinite"}),
        (np.full(2 * RATE_HZ, np.inf, np.float32), {"silent", "nonfinite"}),
    ],
    ids=["silence", "full scale", "NaN", "infinity"],
)
def test_sick_audio_is_flagged_and_survived(launcher, model, tmp_path, audio, flags) -> None:
    path = tmp_path / "sick.wav"
    soundfile.write(path, audio, RATE_HZ, subtype="FLOAT")
    with launcher.run("--model", model, "--source", f"file:{path}", "--fast") as daemon:
        daemon.listen_to_the_end()
        assert daemon.process.wait(10) == 0
    predictions = daemon.predictions("mic")
    assert len(predictions) == 25 - 13 + 1
    assert set(predictions[0].flags) == flags
    for p in predictions:
        assert all(0 <= score <= 1 for score in p.scores.values())
    last = [m for m in daemon.messages if isinstance(m, HealthMessage)][-1]
    assert last.nonfinite_samples == (2 * RATE_HZ if "nonfinite" in flags else 0)


def test_a_resampled_stream_ends_without_a_complaint(launcher: Launcher, model, tmp_path) -> None:
    path = write_noise(tmp_path / "noise.wav", 1.5, rate_hz=48_000)
    source = ["--model", model, "--source", f"file:{path}", "--fast"]
    with launcher.run(*source, stderr=subprocess.PIPE) as daemon:
        assert daemon.process.stderr is not None
        said = daemon.process.stderr.read().decode()  # to the interpreter's last word
    assert "was read to its end" in said
    assert "leaked" not in said


def test_file_shorter_than_a_window(launcher: Launcher, model, tmp_path) -> None:
    path = write_noise(tmp_path / "short.wav", 0.4)
    with launcher.run("--model", model, "--source", f"file:{path}", "--fast") as daemon:
        daemon.listen_to_the_end()
        assert daemon.process.wait(10) == 0
    (prediction,) = daemon.predictions("mic")
    assert prediction.flags == ("padded",)
    assert prediction.sample_end == int(0.4 * RATE_HZ)


@pytest.mark.parametrize(
    ("number", "again_s"), [(signal.SIGTERM, 0.0), (signal.SIGINT, 0.0), (signal.SIGINT, 0.6)]
)
def test_a_signal_ends_it_in_order(launcher: Launcher, model, tmp_path, number, again_s) -> None:
    """Also when it comes again and again before it has been heeded, up to the last moment."""
    path = write_noise(tmp_path / "long.wav", 60.0)
    with launcher.run("--model", model, "--source", f"file:{path}", stderr=subprocess.PIPE) as d:
        d.listen(lambda m: isinstance(m, PredictionMessage))
        with ControlClient(d.control) as control:
            status = control.call("status")
            assert status["model"] == "seasoned"
            assert status["hop_ms"] == 80
            (stream,) = control.call("streams.list")
            assert stream["health"]["state"] == "live"
            assert {m["type"] for m in control.call("snapshot")} == {"health", "prediction"}
        d.process.send_signal(number)
        give_up_s = time.monotonic() + again_s
        while time.monotonic() < give_up_s and d.process.poll() is None:
            d.process.send_signal(number)
            time.sleep(0.002)
        assert d.process.wait(10) == 0
        assert d.process.stderr is not None
        said = d.process.stderr.read().decode()
    assert "Traceback" not in said
    assert "windows with model seasoned" in said
    assert "samples captured" in said.splitlines()[-1]


def test_an_interrupt_that_repeats_ends_what_does_not_end(
    launcher: Launcher, model, tmp_path
) -> None:
    path = write_noise(tmp_path / "long.wav", 60.0)
    summary = tmp_path / "summary"
    os.mkfifo(summary)  # that nobody reads
    arguments = ("--model", model, "--source", f"file:{path}", "--summary-json", str(summary))
    with launcher.run(*arguments, stderr=subprocess.PIPE) as d:
        d.listen(lambda m: isinstance(m, PredictionMessage))
        d.process.send_signal(signal.SIGINT)
        time.sleep(ONE_INTERRUPT_S + 1.0)
        assert d.process.poll() is None
        d.process.send_signal(signal.SIGINT)
        assert d.process.wait(10) == 130
        assert d.process.stderr is not None
        said = d.process.stderr.read().decode()
    assert "Traceback" not in said
    assert said.endswith("streamcls: interrupted again, not waiting for the end\n")


def test_bad_input_is_refused_in_one_message(launcher: Launcher, model, tmp_path) -> None:
    corrupt = tmp_path / "corrupt.wav"
    corrupt.write_bytes(b"RIFF\x10\x00\x00\x00WAVEfmt nonsense")
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes(Path(model).read_bytes()[:5_000])
    noise = write_noise(tmp_path / "noise.wav", 1.0)
    source = ("--source", f"file:{noise}")
    cases = [
        (("--model", model, "--source", "file:/no/such.wav"), "/no/such.wav"),
        (("--model", model, "--source", f"file:{corrupt}"), "corrupt.wav"),
        (("--model", model, "--source", "radio:1"), "radio:1"),
        (("--model", model, "--source", "pipe:"), "--rate"),
        (
            ("--model", model, *source, "--summary-json", "/no/such.json"),
            "cannot write the summary",
        ),
        (("--model", "nonesuch", *source), "models: commands, digits"),
        (("--model", str(truncated), *source), "may be truncated"),
        (("--model", model, "--hop-ms", "50", *source), "use 40 ms or 80 ms"),
        (("--model", model, "--hop-ms", "minus", *source), "hop_ms"),
        (("--model", model, "--channel", "7", *source), f"{noise}: channel 7 does not exist"),
    ]
    for arguments, expected in cases:
        assert expected in launcher.refuse(*arguments), arguments


def test_endpoint_in_use_is_refused(launcher: Launcher, model, tmp_path) -> None:
    path = write_noise(tmp_path / "long.wav", 60.0)
    with launcher.run("--model", model, "--source", f"file:{path}") as first:
        first.listen(lambda m: isinstance(m, PredictionMessage))
        said = launcher.refuse("--model", model, "--source", f"file:{path}")
    assert "in use" in said


def test_without_portaudio_files_work_and_devices_say_what_is_missing(
    launcher: Launcher, model, tmp_path
) -> None:
    path = write_noise(tmp_path / "noise.wav", 1.5)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        sockets = ["--endpoint", f"ipc://{tmp_path}/p", "--control", f"ipc://{tmp_path}/c"]
        return subprocess.run(
            [sys.executable, "-m", "streamcls", "run", "--model", model, *arguments, *sockets],
            capture_output=True,
            text=True,
            env={**launcher.environment, **hide_portaudio(tmp_path)},
            timeout=120,
        )

    with_file = run("--source", f"file:{path}", "--fast")
    assert with_file.returncode == 0, with_file.stderr
    with_device = run("--source", "device:")
    assert with_device.returncode == 2
    assert "libportaudio2" in with_device.stderr
    assert "Traceback" not in with_device.stderr
