"""The unit files: what systemd's own tools say of them, and that the four say the same."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from streamcls.installation import SHIPPED_PROGRAM, UNIT_DIRECTORY

LIMIT = "--threshold=25"
"""Exposure of 2.5; 1.4 was reached when this was written."""
UNITS = ("streamcls.service", "streamcls@.service")
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze (Debian's package systemd)"
)


@pytest.fixture
def runnable(tmp_path: Path) -> Path:
    """Copies of the units whose program exists."""
    for path in UNIT_DIRECTORY.rglob("*.service"):
        copy = tmp_path / path.relative_to(UNIT_DIRECTORY)
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(path.read_text().replace(SHIPPED_PROGRAM, shutil.which("true") or ""))
    return tmp_path


@needs_systemd
@pytest.mark.parametrize("folder", [".", "user"])
def test_units_are_verified_clean(folder: str, runnable: Path):
    units = [runnable / folder / name for name in ("streamcls.service", "streamcls@porch.service")]
    units[1].write_text((runnable / folder / "streamcls@.service").read_text())
    scope = ["--user"] if folder == "user" else []
    result = subprocess.run(
        ["systemd-analyze", "verify", *scope, "--man=no", "--recursive-errors=no", *units],
        capture_output=True,
        text=True,
        env=os.environ | {"XDG_RUNTIME_DIR": str(runnable)},
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@needs_systemd
@pytest.mark.parametrize("unit", UNITS)
def test_system_units_are_hardly_exposed(unit: str, runnable: Path):
    result = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", LIMIT, "--no-pager", runnable / unit],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("folder", [".", "user"])
def test_plain_unit_is_the_template_without_an_instance(folder: str):
    plain, template = (UNIT_DIRECTORY / folder / name for name in UNITS)
    text = template.read_text()
    for instance, without in ((" (%i)", ""), ("-%i", ""), ("%i", "streamcls")):
        text = text.replace(instance, without)
    assert plain.read_text() == text


def test_units_of_system_and_user_agree_on_the_daemon():
    """Whatever is in the user's [Service] is in the system's, except where a user is meant."""
    system, user = (
        {
            line.replace("%E/", "/etc/")
            for line in (UNIT_DIRECTORY / folder / UNITS[1]).read_text().splitlines()
            if "=" in line and not line.startswith("#")
        }
        for folder in (".", "user")
    )
    assert user - system == {
        "After=pipewire.socket pulseaudio.socket",
        "UMask=0077",
        "WantedBy=default.target",
    }
