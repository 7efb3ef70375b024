"""Every example runs as its first lines say, on the bundled recording."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import soundfile

from tests.end_to_end.conftest import TIMEOUT_S, Launcher

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
RECORDING = ROOT / "streamcls" / "recordings" / "demo.flac"
LONG_S = 17.0
"""The recording is a little longer."""


def run_example(name: str, *arguments: str, stdin: bytes | None = None) -> list[str]:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        input=stdin,
        capture_output=True,
        timeout=TIMEOUT_S,
    )
    assert (done.returncode, done.stderr.decode()) == (0, "")
    return done.stdout.decode().splitlines()


@contextmanager
def listening(*command: str) -> Iterator[subprocess.Popen[str]]:
    """Run a subscriber; in the end interrupt it as Ctrl-C would, and see that it takes it well."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        yield process
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        assert (process.returncode, said) == (0, "")
    finally:
        process.kill()


def lines_until(process: subprocess.Popen[str], pattern: str) -> list[str]:
    """Return what it prints up to the line that matches; the test's timeout is the limit."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if re.search(pattern, line):
            return lines
    raise AssertionError(f"it ended without {pattern!r}: {lines}")


def daemon_arguments(model: str, *settings: str) -> list[str]:
    """The untrained model is never sure: any score above 0.2 is an event."""
    settings = ("events.onset_threshold=0.2", "events.offset_threshold=0.1", *settings)
    sets = [part for setting in settings for part in ("--set", setting)]
    return ["--model", model, "--source", f"file:{RECORDING}", *sets]


def test_classify_file(model: str) -> None:
    lines = run_example("classify_file.py", str(RECORDING), "--model", model, "--threshold", "0.2")
    assert lines
    for line in lines:
        found = re.fullmatch(r" *([\d.]+) s to +([\d.]+) s +(\d+)%  (class_\d+)", line)
        assert found, line
        begin_s, end_s, peak = (float(text) for text in found.groups()[:3])
        assert 0 <= begin_s < end_s < LONG_S + 1
        assert peak >= 20


def test_numpy_stream(model: str) -> None:
    samples, rate_hz = soundfile.read(RECORDING, dtype="int16", frames=4 * 16_000)
    raw = samples.tobytes() + b"\0"  # cut in the middle of a sample
    lines = run_example("numpy_stream.py", "--rate", str(rate_hz), "--model", model, stdin=raw)
    predictions = [line for line in lines if " dBFS " in line]
    assert len(predictions) == 4 * 16_000 // 1_280 - 13 + 1
    assert float(predictions[-1].split(" s ")[0]) == pytest.approx(4.0, abs=0.08)


def test_subscribe(launcher: Launcher, model: str) -> None:
    endpoint, control = f"ipc://{launcher.folder}/pub", f"ipc://{launcher.folder}/ctl"
    script = str(EXAMPLES / "subscribe.py")
    command = [sys.executable, script, "--endpoint", endpoint, "--control", control]
    with (
        listening(*command, "--stream", "mic") as example,
        launcher.run(*daemon_arguments(model)) as daemon,
    ):
        lines = lines_until(example, "mic is ended")
        daemon.listen_to_the_end()
    assert [line for line in lines if re.match(r"mic: class_\d+ began -?[\d.]+ s ago", line)]
    assert [line for line in lines if re.match(r"mic: class_\d+ lasted [\d.]+ s, peak \d+%", line)]
    assert not [line for line in lines if "missed" in line]


def test_subscribe_async(launcher: Launcher, model: str) -> None:
    endpoint, control = f"ipc://{launcher.folder}/pub", f"ipc://{launcher.folder}/ctl"
    script = str(EXAMPLES / "subscribe_async.py")
    with (
        listening(sys.executable, script, "--endpoint", endpoint, "--control", control) as example,
        launcher.run(*daemon_arguments(model)) as daemon,
    ):
        lines = lines_until(example, "a daemon is here: model seasoned")
        lines += lines_until(example, r"^mic \d+ +\d+% (class_\d+|unknown)$")
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(30) == 0
        lines += lines_until(example, "the daemon is gone")
    assert not [line for line in lines if "missed" in line]
