"""The service under the real systemd: installed, booted, watched, crashed, stopped.

A copy of this machine boots with systemd as PID 1 (machine.sh), and checks.py goes through the
service's life in it, all in one boot. Not seen here, because a container has none: limits of
cgroups, a sound device.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.service.checks import CHECKS
from tests.service.conftest import Release

BOOT_TIMEOUT_S = 540
pytestmark = pytest.mark.timeout(BOOT_TIMEOUT_S + 60)
_UNSHARE = ("unshare", "--mount", "--propagation", "private")


def find_obstacle(folder: Path) -> str | None:
    """Return why no machine can be booted here, if so."""
    if os.geteuid() != 0:
        return "only root may boot a container"
    if shutil.which("systemd-nspawn") is None:
        return "no systemd-nspawn (Debian's package systemd-container)"
    names = ("upper", "work", "root")
    for name in names:
        (folder / name).mkdir()
    upper, work, root = (folder / name for name in names)
    script = (
        f"mount -t tmpfs none {folder} && mkdir {upper} {work} {root} && "
        f"mount -t overlay overlay -o lowerdir=/,upperdir={upper},workdir={work} {root}"
    )
    probe = subprocess.run([*_UNSHARE, "sh", "-c", script], capture_output=True, text=True)
    return f"no overlay can be mounted here: {probe.stderr.strip()}" if probe.returncode else None


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, release: Release) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("machine")
    probe = folder / "probe"
    probe.mkdir()
    if (obstacle := find_obstacle(probe)) is not None:
        pytest.skip(obstacle)
    script = ROOT / "tests" / "service" / "machine.sh"
    command = [*_UNSHARE, "sh", str(script), str(folder), str(release.wheel), str(ROOT)]
    with (folder / "console").open("wb") as console:
        subprocess.run(
            command,
            env=dict(release.environ),
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            timeout=BOOT_TIMEOUT_S,
            check=False,
        )
    written = folder / "out" / "results.json"
    assert written.exists(), (folder / "console").read_text(errors="replace")[-4000:]
    return json.loads(written.read_text())


@pytest.mark.parametrize("name", [check.__name__ for check in CHECKS])
def test_service_under_systemd(name: str, results: dict[str, Any]):
    result = results.get(name, {"failed": "the checks ended before it"})
    assert "failed" not in result, result["failed"]
    if result["skipped"] is not None:
        pytest.skip(result["skipped"])
