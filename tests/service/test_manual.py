"""Manual pages and completion: complete, current, and accepted by the programs that read them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

MAN_PAGES = ROOT / "docs" / "man"


def test_pages_are_what_the_commands_say(tmp_path: Path):
    program = (
        "import sys; sys.path.insert(0, 'scripts'); import man_pages\n"
        f"from pathlib import Path; man_pages.FOLDER = Path({str(tmp_path)!r}); man_pages.main()"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True)
    made, kept = (
        {path.name: path.read_text() for path in folder.glob("*.1")}
        for folder in (tmp_path, MAN_PAGES)
    )
    differing = sorted(name for name in made | kept if made.get(name) != kept.get(name))
    assert differing == [], "the help has changed: run `make man` and commit docs/man"


@pytest.mark.skipif(shutil.which("groff") is None, reason="no groff")
def test_pages_are_sound_roff():
    pages = sorted(MAN_PAGES.glob("*.1"))
    assert pages
    result = subprocess.run(
        ["groff", "-man", "-ww", "-z", "-K", "utf8", *pages], capture_output=True, text=True
    )
    # A command line longer than the page is no mistake: it must not be broken.
    said = [line for line in result.stderr.splitlines() if "cannot adjust line" not in line]
    assert said == []


def complete(shell: str) -> str:
    command = [sys.executable, "-m", "streamcls", "completion", shell]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["streamcls", "serv"], ["service"]),
        (["streamcls", "service", "inst"], ["install"]),
        (["streamcls", "service", "install", "--dry"], ["--dry-run"]),
        (["streamcls", "completion", "z"], ["zsh"]),
        (["streamcls", "config", "check", "pypro"], ["pyproject.toml"]),
    ],
)
def test_bash_completes(typed: list[str], offered: list[str], tmp_path: Path):
    script = tmp_path / "completion"
    script.write_text(complete("bash"))
    program = (
        f"source {script}; COMP_WORDS=({' '.join(typed)}); COMP_CWORD={len(typed) - 1}\n"
        f"_shtab_streamcls streamcls {typed[-1]} {typed[-2]}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    result = subprocess.run(
        ["bash", "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert [re.sub(r"\s+$", "", line) for line in result.stdout.splitlines()] == offered


@pytest.mark.parametrize("shell", ["zsh", "fish", "tcsh"])
def test_other_shells_have_their_script(shell: str):
    assert "install" in complete(shell)
