"""What happens to a machine happens to the real daemon: kills, full disks, no memory, no CPU."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import zmq

from streamcls.bench import resident_bytes
from streamcls.client import ControlClient
from streamcls.publish.schema import EventMessage, HealthMessage, PredictionMessage
from tests.end_to_end.conftest import Daemon, Launcher
from tests.faults.test_reload import EAGER, is_prediction

EAGER_FLAGS = tuple(
    flag for line in EAGER.split("\n")[:-1] for flag in ("--set", line.replace(" ", ""))
)
STOP_LIMIT_S = 20.0
"""For a machine that does other work; without, it takes well under a second."""


def wait_for_line(log: Path, pattern: str) -> None:
    give_up_s = time.monotonic() + 120
    while not re.search(pattern, log.read_text()):
        assert time.monotonic() < give_up_s, log.read_text()
        time.sleep(0.01)


def test_killed_in_every_phase_it_starts_again(launcher: Launcher, model, long_noise, tmp_path):
    """Sockets that were left behind are taken over, a half-written cache does no harm."""
    source = ["--model", model, "--source", f"file:{long_noise}"]
    phases: dict[str, Callable[[Daemon, Path], None]] = {
        "starting": lambda daemon, log: time.sleep(0.3),
        "compiling": lambda daemon, log: wait_for_line(log, "publishing on"),
        "running": lambda daemon, log: daemon.listen(is_prediction) and None,
        "shutting down": lambda daemon, log: (
            daemon.listen(is_prediction) and daemon.process.terminate()
        ),
    }
    fresh_cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    for phase, reach in phases.items():
        log = tmp_path / f"{phase}.log"
        with log.open("w") as stderr:
            run = launcher.run(*source, environment=fresh_cache, stderr=stderr)
            with run as daemon:
                reach(daemon, log)
                daemon.process.kill()
                daemon.process.wait()
        assert "Traceback" not in log.read_text()
    assert (tmp_path / "pub").is_socket()  # what a killed daemon leaves
    for entry in list((tmp_path / "cache").rglob("*-cache")):
        entry.write_bytes(entry.read_bytes()[:100])  # what a machine that loses power leaves
    with launcher.run(*source, environment=fresh_cache) as daemon:
        daemon.listen(is_prediction)
        daemon.process.terminate()
        assert daemon.process.wait(STOP_LIMIT_S) == 0
    assert not (tmp_path / "pub").exists()


def test_sigterm_under_load_closes_events_in_time(launcher: Launcher, model, long_noise, tmp_path):
    summary = tmp_path / "summary.json"
    flags = [f for i in range(6) for f in ("--set", f"streams.s{i}.source=file:{long_noise}")]
    flags += [f for i in range(6) for f in ("--set", f"streams.s{i}.pace=fast")]
    flags += ["--model", model, *EAGER_FLAGS, "--summary-json", str(summary)]
    with launcher.run(*flags) as daemon:
        daemon.listen(lambda m: isinstance(m, EventMessage))
        daemon.process.terminate()
        daemon.listen_to_the_exit(STOP_LIMIT_S)
        assert daemon.process.returncode == 0
    figures = json.loads(summary.read_text())
    assert figures["events"]["opened"] == figures["events"]["closed"] > 0
    events = [m for m in daemon.messages if isinstance(m, EventMessage)]
    assert {e.id for e in events if e.state == "onset"} == {
        e.id for e in events if e.state == "offset"
    }
    for stream in figures["streams"].values():
        accounted = stream["heard_samples"] + stream["dropped_samples"] + stream["waiting_samples"]
        assert stream["captured_samples"] == accounted


@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_a_cache_that_cannot_be_written_costs_only_time(
    launcher: Launcher, model, long_noise, tmp_path, trouble
):
    """A tmpfs of 64 KiB, or mounted read-only, in a mount namespace of the daemon's own."""
    folder = tmp_path / "small"
    folder.mkdir()
    options = "size=64k" if trouble == "full" else "ro,size=64k"
    mount = f'mount -t tmpfs -o {options} none {folder} && exec "$@"'
    unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount, "sh"]
    probe = subprocess.run([*unshare, "true"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"cannot mount here: {probe.stderr}")
    command = [*unshare, sys.executable, "-m", "streamcls", "run", "--model", model]
    command += ["--source", f"file:{long_noise}", "--set", "inference.max_streams=1"]
    command += ["--endpoint", f"ipc://{tmp_path}/p", "--control", f"ipc://{tmp_path}/c"]
    environment = launcher.environment | {"XDG_CACHE_HOME": str(folder)}
    log = tmp_path / "log"
    with log.open("w") as stderr:
        process = subprocess.Popen(command, env=environment, stderr=stderr)
        try:
            wait_for_line(log, "stream mic is live")
            with ControlClient(f"ipc://{tmp_path}/c") as control:
                while control.call("status")["summary"]["windows"] < 3:
                    time.sleep(0.05)
            process.terminate()
            assert process.wait(STOP_LIMIT_S) == 0
        finally:
            process.kill()
            process.wait()
    assert "Traceback" not in log.read_text()
    if trouble == "read-only":
        assert "no writable compilation cache" in log.read_text()


def test_too_little_memory_is_said_and_ends(launcher: Launcher, model, long_noise, tmp_path):
    command = ["sh", "-c", 'ulimit -v 1300000; exec "$@"', "sh", sys.executable, "-m", "streamcls"]
    command += ["run", "--model", model, "--source", f"file:{long_noise}", "--fast"]
    command += ["--endpoint", f"ipc://{tmp_path}/p", "--control", f"ipc://{tmp_path}/c"]
    result = subprocess.run(
        command, env=launcher.environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 2, result.stderr
    assert "limited to 1269 MiB" in result.stderr


def tells_of_overruns(message: object) -> bool:
    return isinstance(message, HealthMessage) and message.overruns > 0


def check_books(summary: Path, predictions: list[PredictionMessage]) -> int:
    """Check that nothing is missing that was not reported; return how often a ring overran."""
    stream = json.loads(summary.read_text())["streams"]["mic"]
    accounted = stream["heard_samples"] + stream["dropped_samples"] + stream["waiting_samples"]
    assert stream["captured_samples"] == accounted
    assert [p.seq for p in predictions] == list(range(len(predictions)))
    # Within an epoch no hop is missing: what was dropped stands between two epochs.
    for before, after in pairwise(predictions):
        if before.epoch == after.epoch and "padded" not in after.flags:
            assert after.sample_end - before.sample_end == 1_280
    return stream["overruns"]


def test_a_starved_daemon_reports_what_it_drops(launcher: Launcher, model, long_noise, tmp_path):
    """Stopped for longer than its ring, as by a machine with better things to do."""
    summary = tmp_path / "summary.json"
    flags = ["--model", model, "--source", f"file:{long_noise}", "--summary-json", str(summary)]
    with launcher.run(*flags) as daemon:
        daemon.listen(lambda m: isinstance(m, PredictionMessage) and m.seq >= 3)
        os.kill(daemon.process.pid, signal.SIGSTOP)
        time.sleep(6)
        os.kill(daemon.process.pid, signal.SIGCONT)
        daemon.listen(lambda m: isinstance(m, PredictionMessage) and m.epoch > 0)
        daemon.listen(lambda _: any(tells_of_overruns(m) for m in daemon.messages))
        daemon.process.terminate()
        assert daemon.process.wait(STOP_LIMIT_S) == 0
    assert check_books(summary, daemon.predictions("mic")) > 0


def test_a_busy_machine_costs_only_what_is_reported(
    launcher: Launcher, model, long_noise, tmp_path
):
    """All cores at full load with programs that come first; the daemon gets what is left."""
    if (stress := shutil.which("stress-ng")) is None:
        pytest.skip("stress-ng is not installed (make test installs it where it can)")
    summary = tmp_path / "summary.json"
    flags = ["--model", model, "--source", f"file:{long_noise}", "--summary-json", str(summary)]
    with launcher.run(*flags, "--set", "inference.ring_s=0.5") as daemon:
        daemon.listen(is_prediction)
        for thread in Path(f"/proc/{daemon.process.pid}/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(thread.name), 19)
        command = [stress, "--quiet", "--cpu", str(os.cpu_count()), "--timeout", "5"]
        subprocess.run(command, check=True, timeout=60)
        heard = daemon.predictions("mic")[-1].seq
        daemon.listen(lambda m: isinstance(m, PredictionMessage) and m.seq > heard + 15)
        daemon.process.terminate()
        assert daemon.process.wait(STOP_LIMIT_S) == 0
    check_books(summary, daemon.predictions("mic"))


def test_a_thousand_streams_come_and_go(launcher: Launcher, model, long_noise):
    """And subscribers that stall and vanish meanwhile: nothing is left of any of them."""
    source = f"file:{long_noise}"
    with (
        launcher.run("--model", model, "--source", source) as daemon,
        ControlClient(daemon.control) as control,
        zmq.Context() as context,
    ):
        endpoint = daemon.control.removesuffix("ctl") + "pub"
        proc = Path(f"/proc/{daemon.process.pid}")

        def add_and_remove(n: int) -> None:
            for index in range(n):
                name = f"s{index % 7}"
                control.call("streams.add", {"stream": name, "source": source}, timeout_s=60)
                if index % 10 == 0:
                    vanishing = context.socket(zmq.SUB)
                    vanishing.rcvhwm = 1
                    vanishing.subscribe("")
                    vanishing.connect(endpoint)
                    vanishing.close(linger=0)
                control.call("streams.remove", {"stream": name}, timeout_s=60)
                daemon.take_waiting()

        def count(folder: str) -> int:
            return len(list((proc / folder).iterdir()))

        daemon.listen(is_prediction)
        add_and_remove(100)
        files, memory_mib = count("fd"), resident_bytes(daemon.process.pid) / 2**20
        add_and_remove(900)
        # Connections that just went may still be closing; a leak would be hundreds.
        assert count("fd") <= files + 20
        assert count("task") <= 60
        assert resident_bytes(daemon.process.pid) / 2**20 <= memory_mib + 30
        assert [stream["stream"] for stream in control.call("streams.list")] == ["mic"]
        last = control.call("streams.list")[0]["health"]
        assert last["dropped_samples"] == 0
        daemon.listen(lambda m: is_prediction(m) and m.stream == "mic" and m.seq > 20)
    mine = daemon.predictions("mic")
    assert [p.seq for p in mine] == list(range(len(mine)))
    assert {p.epoch for p in mine} == {0}
