"""`streamcls doctor` on this machine as it is, with sources that work and sources that do not."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import zmq

from streamcls.config import load_config
from streamcls.doctor import Finding, Grade, daemon
from streamcls.doctor.finding import attempt
from tests.audio_server import AudioServer, audio_server

__all__ = ["audio_server"]

TIMEOUT_S = 60.0
RATE_HZ = 16_000


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache of compiled programs for all of them, not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def findings_of(*arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Run the command; return its status and the findings by name."""
    command = [sys.executable, "-m", "streamcls", "doctor", "--json", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert result.stderr == ""
    report = json.loads(result.stdout)
    assert report["ok"] == (result.returncode == 0)
    return result.returncode, {one["name"]: one for one in report["findings"]}


def write_tone(path: Path, level: float) -> Path:
    seconds = np.arange(2 * RATE_HZ) / RATE_HZ
    soundfile.write(path, level * np.sqrt(2) * np.sin(2000 * seconds), RATE_HZ)
    return path


def test_everything_is_looked_at_and_works_with_a_file(tmp_path: Path):
    tone = write_tone(tmp_path / "tone.wav", 0.1)
    sockets = [f"--{one}=ipc://{tmp_path}/{one}" for one in ("endpoint", "control")]
    status, findings = findings_of(
        "--source", f"file:{tone}", *sockets, "--set", "inference.max_streams=1"
    )
    assert status == 0, findings
    expected = "software portaudio configuration sockets messages accelerator cache model clock"
    assert [name for name in expected.split() if name not in findings] == []
    assert findings["stream mic"]["seen"] == f"file:{tone}: 16000 Hz, level -20 dBFS"
    assert "ready in" in findings["model"]["seen"]
    # Nothing is left behind.
    assert [path.name for path in tmp_path.iterdir()] == ["tone.wav"]


def test_a_terminal_without_utf_8_is_no_reason_to_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    command = [sys.executable, "-m", "streamcls", "doctor", "--set", "inference.hop_ms=0"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (result.returncode, result.stderr) == (1, "")
    assert "\\u2192 streamcls config --help" in result.stdout


def test_missing_bytecode_that_nobody_can_write_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Refused, so that nothing that takes long is looked at.
    refused = ("--set", "inference.hop_ms=0")
    assert "bytecode" not in findings_of(*refused)[1]
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path))  # where Python looks for it: empty
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    finding = findings_of(*refused)[1]["bytecode"]
    assert finding["grade"] == "warn"
    folder = Path(np.__file__).parents[1]
    assert str(folder) in finding["seen"]
    assert finding["remedy"] == f"{sys.executable} -m compileall -q {folder}"


def hear(tmp_path: Path, source: str, **options: object) -> Finding:
    overrides = {"streams.a.source": source} | {f"streams.a.{k}": v for k, v in options.items()}
    (finding,) = daemon.check_sources(load_config(None, overrides, environ={}))
    assert finding.name == "stream a"
    return finding


def test_its_text_is_wrapped_to_lines_without_blanks_at_their_end():
    command = [sys.executable, "-m", "streamcls", "doctor", "--set", "inference.hop_ms=0"]
    environment = {**os.environ, "COLUMNS": "60"}
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment
    )
    lines = result.stdout.splitlines()
    assert any(line.startswith(" " * 22) for line in lines)
    assert [line for line in lines if len(line) > 60 or line != line.rstrip()] == []


def test_silence_is_a_warning(tmp_path: Path):
    finding = hear(tmp_path, f"file:{write_tone(tmp_path / 'silence.wav', 0.0)}")
    assert finding.grade is Grade.WARN
    assert finding.seen.endswith("level -inf dBFS")
    assert "unmute" in finding.remedy


@pytest.mark.parametrize(
    ("source", "said"),
    [("file:/nonexistent.wav", "/nonexistent.wav"), ("device:no such thing", "no such thing")],
)
def test_a_source_that_is_not_there_fails(tmp_path: Path, source: str, said: str):
    finding = hear(tmp_path, source)
    assert finding.grade is Grade.FAIL
    assert said in finding.seen


def test_a_channel_that_is_not_there_fails(tmp_path: Path):
    finding = hear(tmp_path, f"file:{write_tone(tmp_path / 'mono.wav', 0.1)}", channel=1)
    assert finding.grade is Grade.FAIL
    assert "channel 1 does not exist" in finding.seen


def test_an_address_in_use_fails():
    with zmq.Context() as context, context.socket(zmq.PULL) as other:
        port = other.bind_to_random_port("tcp://127.0.0.1")
        overrides = {"publish.endpoint": f"tcp://127.0.0.1:{port}"}
        config = load_config(None, overrides, environ={})
        findings = list(attempt("sockets", lambda: daemon.check_sockets(config)))
    assert findings[0].grade is Grade.FAIL
    assert "in use by another process" in findings[0].seen


def test_a_wrong_configuration_is_told_and_the_rest_is_still_looked_at():
    status, findings = findings_of("--set", "inference.hop_ms=0")
    assert status == 1
    assert findings["configuration"]["grade"] == "fail"
    assert "inference.hop_ms" in findings["configuration"]["seen"]
    assert findings["software"]["grade"] == "ok"


def test_a_broken_check_does_not_hide_the_others():
    def check():
        yield Finding("a", Grade.OK, "fine")
        raise RuntimeError("oops")

    findings = list(attempt("b", check))
    assert [(one.name, one.grade) for one in findings] == [("a", Grade.OK), ("b", Grade.FAIL)]
    assert "oops" in findings[1].seen


def test_a_running_daemon_is_asked_instead(tmp_path: Path):
    tone = write_tone(tmp_path / "tone.wav", 0.1)
    soundfile.write(tone, np.tile(soundfile.read(tone)[0], 60), RATE_HZ)
    sockets = [f"--{one}=ipc://{tmp_path}/{one}" for one in ("endpoint", "control")]
    command = [sys.executable, "-m", "streamcls", "run", "--source", f"file:{tone}", *sockets]
    command += ["--set", "inference.max_streams=1"]
    overrides = {f"publish.{one}": f"ipc://{tmp_path}/{one}" for one in ("endpoint", "control")}
    config = load_config(None, overrides, environ={})
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            give_up_s = time.monotonic() + TIMEOUT_S
            findings: dict[str, Finding] = {}
            while "is live" not in str(findings.get("stream mic")):
                assert time.monotonic() < give_up_s
                assert process.poll() is None
                running = daemon.find_running(config)
                if running is not None:
                    found = daemon.check_running(config, running)
                    findings = {finding.name: finding for finding in found}
        finally:
            process.kill()
    assert findings["daemon"].seen.startswith("runs here already: model commands")
    assert {finding.grade for finding in findings.values()} == {Grade.OK}


@pytest.mark.pulseaudio
def test_a_device_is_opened_and_its_level_shown(audio_server: AudioServer):
    audio_server.store_raw(np.full(5 * RATE_HZ, 0.1, np.float32))
    program = (
        "from streamcls.config import load_config; from streamcls.doctor import daemon\n"
        "overrides = {'streams.a.source': 'device:filesrc', 'streams.a.channels': 1,\n"
        f"    'streams.a.sample_rate_hz': {RATE_HZ}}}\n"
        "print(*daemon.check_sources(load_config(None, overrides, environ={})))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=audio_server.environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert f"seen='device:filesrc: {RATE_HZ} Hz, level -20 dBFS'" in result.stdout, result
