"""The checks inside the booted machine, in this order; run by systemd, see machine.sh.

Everything goes the way of an administrator: commands and `systemctl`, no access to the daemon's
inside. Each check is one function; what it raises is its result, and the next one runs.
"""

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

UNIT = "streamcls.service"
CONFIG = Path("/etc/streamcls/streamcls.toml")
RECORDING = Path("/srv/long.wav")
TIMEOUT_S = 60.0


def call(*command: str, status: int = 0) -> str:
    """Run a command, check its exit status and return its output."""
    result = subprocess.run(command, capture_output=True, text=True, timeout=2 * TIMEOUT_S)
    assert result.returncode == status, (command, result.returncode, result.stdout, result.stderr)
    return result.stdout


def show(*names: str, unit: str = UNIT) -> dict[str, str]:
    """Return properties of the unit."""
    lines = call("systemctl", "show", f"--property={','.join(names)}", unit).splitlines()
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def wait_for(what: Callable[[], Any]) -> Any:
    """Poll until something is true and return it."""
    give_up_s = time.monotonic() + TIMEOUT_S
    while not (value := what()):
        assert time.monotonic() < give_up_s, "it never came true"
        time.sleep(0.05)
    return value


def main_pid() -> int:
    """Return the daemon's process; never 0, which would be our own group for a signal."""
    pid = int(show("MainPID")["MainPID"])
    assert pid > 1
    return pid


def process_status() -> dict[str, str]:
    """Return /proc/PID/status of the daemon."""
    lines = Path(f"/proc/{main_pid()}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def journal(*matches: str) -> list[dict[str, Any]]:
    """Return the daemon's entries in the journal."""
    call("journalctl", "--sync")
    lines = call("journalctl", "-o", "json", "-u", UNIT, *matches).splitlines()
    return [json.loads(line) for line in lines]


def restarted_after(action: Callable[[int], None]) -> int:
    """Do something to the daemon that ends it; return its new process once it is ready."""
    before = show("NRestarts", "MainPID")
    action(main_pid())

    def ready_again() -> bool:
        now = show("NRestarts", "MainPID", "ActiveState")
        return (
            now["NRestarts"] != before["NRestarts"]
            and now["ActiveState"] == "active"
            and now["MainPID"] not in ("0", before["MainPID"])
        )

    wait_for(ready_again)
    assert int(show("NRestarts")["NRestarts"]) == int(before["NRestarts"]) + 1
    return main_pid()


def check_install_starts_it_and_waits_until_it_is_ready() -> None:
    import numpy as np
    import soundfile

    import streamcls

    assert streamcls.__file__.startswith("/opt/streamcls/")
    demo = Path(streamcls.__file__).parent / "recordings" / "demo.flac"
    samples, rate_hz = soundfile.read(demo, dtype="int16")
    soundfile.write(RECORDING, np.tile(samples, 20), rate_hz)
    given = Path("/srv/given.toml")
    given.write_text(
        'model = "commands"\n'
        f'[streams.porch]\nsource = "file:{RECORDING}"\n'
        "[events]\nonset_threshold = 0.05\noffset_threshold = 0.04\ncooldown_s = 0\n"
        "[inference]\nmax_streams = 1\n"
    )
    # For this test only: a stuck daemon is to be found in seconds, not in half a minute.
    drop_in = Path("/etc/systemd/system/streamcls.service.d/test.conf")
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text("[Service]\nWatchdogSec=4\nTimeoutAbortSec=2\nRestartSec=0\n")
    said = call("streamcls", "service", "install", "--config", str(given))
    assert "systemctl enable streamcls.service" in said
    assert call("systemctl", "is-enabled", UNIT) == "enabled\n"
    state = show("ActiveState", "StatusText", "Type", "ExecStart")
    assert state["ActiveState"] == "active"
    assert "path=/opt/streamcls/bin/streamcls ;" in state["ExecStart"]
    assert "1/1 streams live" in state["StatusText"], state


def check_it_runs_as_a_user_of_its_own_with_the_group_of_sound_devices() -> None:
    import grp

    status = process_status()
    assert int(status["Uid"].split()[0]) >= 61184  # systemd's range of dynamic users
    assert str(grp.getgrnam("audio").gr_gid) in status["Groups"].split()
    assert int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    assert (CONFIG.stat().st_mode & 0o777, CONFIG.group()) == (0o640, "audio")


def check_it_writes_its_cache_and_can_write_its_state() -> None:
    uid = int(process_status()["Uid"].split()[0])
    programs = list(Path("/var/cache/private/streamcls/xla").iterdir())
    assert programs
    assert all(path.stat().st_uid == uid for path in programs)
    state = Path("/var/lib/private/streamcls")
    assert (state.stat().st_uid, Path(f"/proc/{main_pid()}/cwd").readlink()) == (uid, state)
    assert journal("PRIORITY=4") == []  # no warning: the cache was writable


def check_the_journal_has_fields_and_priorities() -> None:
    entries = journal("STREAMCLS_STREAM=porch")
    assert any(entry["MESSAGE"].startswith("stream porch is live") for entry in entries), entries
    assert {entry["PRIORITY"] for entry in entries} == {"6"}
    assert {entry["SYSLOG_IDENTIFIER"] for entry in entries} == {"streamcls"}
    assert all(entry["CODE_FILE"].endswith(".py") for entry in entries)


def check_reload_takes_what_is_right_and_keeps_what_works() -> None:
    from streamcls.client import Subscriber
    from streamcls.publish.schema import HeartbeatMessage

    pid, text = main_pid(), CONFIG.read_text()
    with Subscriber("tcp://127.0.0.1:5570", types=["heartbeat"]) as messages:

        def next_beat() -> HeartbeatMessage:
            message = messages.receive(TIMEOUT_S)
            assert isinstance(message, HeartbeatMessage)
            return message

        assert next_beat().reloads == 0
        CONFIG.write_text(text.replace("0.05", "0.06"))
        call("systemctl", "reload", UNIT)
        wait_for(lambda: next_beat().reloads == 1)
        CONFIG.write_text(text.replace("commands", "no such model"))
        call("systemctl", "reload", UNIT)
        beat = wait_for(lambda: (beat := next_beat()).reload_error and beat)
        assert "no such model" in beat.reload_error
        CONFIG.write_text(text)
    wait_for(lambda: show("ActiveState")["ActiveState"] == "active")
    assert main_pid() == pid


def check_a_crash_is_followed_by_a_restart() -> None:
    restarted_after(lambda pid: os.kill(pid, signal.SIGKILL))


def check_a_stopped_daemon_is_killed_by_the_watchdog_and_restarted() -> None:
    restarted_after(lambda pid: os.kill(pid, signal.SIGSTOP))
    messages = [entry["MESSAGE"] for entry in journal() if entry.get("_PID") == "1"]
    assert any("Watchdog timeout (limit 4s)!" in message for message in messages), messages


def check_a_second_service_is_ready_although_its_device_is_missing() -> None:
    given = Path("/srv/yard.toml")
    given.write_text(
        'model = "digits"\n[streams.yard]\nsource = "device:not there"\n'
        "[inference]\nmax_streams = 1\n"
        '[publish]\nendpoint = "tcp://127.0.0.1:5580"\ncontrol = "tcp://127.0.0.1:5581"\n'
    )
    call("streamcls", "service", "install", "--name", "yard", "--config", str(given))
    unit = "streamcls@yard.service"
    assert "0/1 streams live, yard " in show("StatusText", unit=unit)["StatusText"]
    assert "streamcls@yard.service  active" in call("streamcls", "service", "status")
    call("streamcls", "service", "uninstall", "--name", "yard")
    assert show("LoadState", unit=unit) == {"LoadState": "not-found"}
    # The signal that ends the daemon is not for the processes that record for it.
    assert "process died" not in call("journalctl", "-o", "cat", "-u", unit)
    assert show("ActiveState") == {"ActiveState": "active"}


def check_the_manager_of_a_user_takes_the_unit_of_a_user() -> None:
    import pwd

    call("useradd", "--create-home", "tester")
    uid = pwd.getpwnam("tester").pw_uid
    call("systemctl", "start", f"user@{uid}.service")
    runtime = f"XDG_RUNTIME_DIR=/run/user/{uid}"

    def as_user(*command: str) -> str:
        return call("runuser", "-u", "tester", "--", "env", runtime, "HOME=/home/tester", *command)

    said = as_user("streamcls", "service", "install", "--no-start")
    assert "systemctl --user enable streamcls.service" in said
    properties = "--property=LoadState,UnitFileState,Type,ExecStart"
    shown = as_user("systemctl", "--user", "show", properties, UNIT)
    assert "LoadState=loaded\n" in shown
    assert "UnitFileState=enabled\n" in shown
    assert "Type=notify" in shown
    assert "run /home/tester/.config/streamcls/streamcls.toml ;" in shown
    as_user("streamcls", "service", "uninstall")
    assert "LoadState=not-found" in as_user("systemctl", "--user", "show", properties, UNIT)


def check_the_status_line_has_live_figures() -> None:
    def windows() -> int:
        return int(show("StatusText")["StatusText"].split(" windows")[0].split()[-1])

    wait_for(lambda: windows() > 20)  # said again every few seconds
    said = call("streamcls", "service", "status")
    assert "streamcls.service  active (running)" in said
    assert "1/1 streams live" in said
    assert f"restarts 2, configuration {CONFIG}" in said


def check_stop_ends_with_status_0_and_no_open_event() -> None:
    from streamcls.client import Subscriber
    from streamcls.publish.schema import EventMessage

    open_events: set[str] = set()
    with Subscriber("tcp://127.0.0.1:5570", types=["event"]) as messages:

        def take() -> None:
            message = messages.receive(TIMEOUT_S)
            if isinstance(message, EventMessage):
                change = open_events.discard if message.state == "offset" else open_events.add
                change(message.id)

        while not open_events:
            take()
        call("systemctl", "stop", UNIT)
        while open_events:
            take()
    state = show("ActiveState", "Result", "ExecMainStatus")
    assert state == {"ActiveState": "inactive", "Result": "success", "ExecMainStatus": "0"}


def check_uninstall_leaves_only_the_configuration() -> None:
    said = call("streamcls", "service", "uninstall")
    assert f"{CONFIG} stays" in said
    assert CONFIG.exists()
    # The test's own drop-in is what is left of it.
    assert not Path("/etc/systemd/system/streamcls.service").exists()
    assert list(Path("/etc/systemd/system").rglob("streamcls*.service")) == []


CHECKS = [one for name, one in list(globals().items()) if name.startswith("check_")]


def main(folder: Path) -> None:
    """Run all checks and write, for each, None, the reason of a skip, or a traceback."""
    results: dict[str, dict[str, Any]] = {}
    for check in CHECKS:
        began_s = time.monotonic()
        try:
            result: dict[str, Any] = {"skipped": check()}
        except BaseException:  # noqa: BLE001 - a failed check is a result
            result = {"failed": traceback.format_exc()}
        result["seconds"] = round(time.monotonic() - began_s, 2)
        results[check.__name__] = result
        (folder / "results.json").write_text(json.dumps(results, indent=2))
        if "failed" in result and check is CHECKS[0]:
            break  # nothing runs that the others could look at
    with (folder / "journal").open("w") as file:
        subprocess.run(["journalctl", "--no-pager", "-o", "short-precise"], stdout=file)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
