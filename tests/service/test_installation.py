"""`streamcls service`: what it would do, and what it refuses; test_machine.py really does it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from streamcls import installation
from streamcls.config import load_config
from streamcls.installation import UNIT_DIRECTORY, Call, Remove, Scope, ServiceError, Start, Write

USER = Scope.USER


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty configuration folder of a user."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path


def run_service(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "streamcls", "service", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_first_configuration_is_valid_and_says_nothing_that_is_not_so():
    config = load_config(UNIT_DIRECTORY / "default.toml", environ={})
    assert config.streams["mic"].source == "device:"


def test_dry_run_names_every_step_and_takes_none(home: Path):
    result = run_service("install", "--user", "--dry-run")
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == f"would write {home}/streamcls/streamcls.toml"
    assert f"would write {home}/systemd/user/streamcls.service" in lines
    assert lines[-1] == "would systemctl --user restart streamcls.service"
    assert list(home.iterdir()) == []


def test_unit_starts_the_program_of_this_installation(home: Path):
    steps = installation.plan_install(USER, "porch", None)
    (unit,) = (s for s in steps if isinstance(s, Write) and s.path.suffix == ".service")
    program = Path(sys.executable).parent / "streamcls"
    assert unit.path == home / "systemd" / "user" / "streamcls@.service"
    assert f"\nExecStart={program} run %E/streamcls/%i.toml\n" in unit.text
    assert steps[-1] == Start(USER, "streamcls@porch.service")


def test_configuration_is_private_and_an_existing_one_is_kept(home: Path):
    first, *_ = installation.plan_install(USER, "streamcls", None)
    installation.take(first)
    config = home / "streamcls" / "streamcls.toml"
    assert config.stat().st_mode & 0o777 == 0o600
    config.write_text('model = "digits"\n')
    steps = installation.plan_install(USER, "streamcls", None, start=False)
    assert not any(isinstance(step, Write) and step.path == config for step in steps)
    assert steps[-1] == Call(("systemctl", "--user", "enable", "streamcls.service"))
    other = home / "other.toml"
    other.write_text('model = "commands"\n')
    with pytest.raises(ServiceError, match="exists and differs"):
        installation.plan_install(USER, "streamcls", other)


def test_relative_paths_and_homes_are_refused_all_at_once(home: Path):
    given = home / "given.toml"
    given.write_text(
        'model = "./mine.safetensors"\n[streams.a]\nsource = "file:/home/me/a.wav"\n'
        f'[streams.b]\nsource = "file:{home}/b.wav"\n'
    )
    with pytest.raises(ServiceError) as refused:
        installation.plan_install(Scope.SYSTEM, "streamcls", given)
    said = str(refused.value)
    assert 'model names the relative "mine.safetensors"' in said
    assert "streams.a.source is /home/me/a.wav, in a home, which is hidden" in said
    assert f"streams.b.source is {home}/b.wav, which does not exist" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sees folders that are closed to others")
def test_what_a_service_cannot_read_is_found(home: Path):
    audio = home / "a.wav"
    audio.touch()
    home.chmod(0o700)
    given = home / "given.toml"
    given.write_text(f'[streams.a]\nsource = "file:{audio}"\n')
    with pytest.raises(ServiceError, match=r"streams.a.source is .* not for everybody to read"):
        installation.plan_install(Scope.SYSTEM, "streamcls", given)


def test_uninstall_keeps_the_configuration_and_removes_the_rest(
    home: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(installation, "list_services", lambda scope: [])
    monkeypatch.setattr(installation, "manager_version", lambda: 254)
    for step in installation.plan_install(USER, "streamcls", None):
        if isinstance(step, Write):
            installation.take(step)
    drop_in = home / "systemd" / "user" / "streamcls.service.d" / "streamcls.conf"
    assert "RestartMaxDelaySec=" in drop_in.read_text()
    steps = installation.plan_uninstall(USER, "streamcls")
    for step in steps:
        if isinstance(step, Remove):
            installation.take(step)
    assert list((home / "systemd" / "user").iterdir()) == []
    assert (home / "streamcls" / "streamcls.toml").exists()
    with pytest.raises(ServiceError, match="is not installed"):
        installation.plan_uninstall(USER, "streamcls")


def test_a_template_stays_for_a_service_that_is_only_enabled(
    home: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(installation, "list_services", lambda scope: [])
    for step in installation.plan_install(USER, "porch", None):
        if isinstance(step, Write):
            installation.take(step)
    wants = home / "systemd" / "user" / "default.target.wants"
    wants.mkdir()
    for name in ("porch", "yard"):
        (wants / f"streamcls@{name}.service").symlink_to("../streamcls@.service")

    def removed() -> bool:
        return any(isinstance(one, Remove) for one in installation.plan_uninstall(USER, "porch"))

    assert not removed()
    (wants / "streamcls@yard.service").unlink()
    assert removed()


@pytest.mark.parametrize("name", ["", "-x", "a/b", "a b", "%i", "x" * 65])
def test_bad_names_are_refused(name: str):
    with pytest.raises(ServiceError, match="letters"):
        installation.plan_install(USER, name, None)


@pytest.mark.skipif(installation.BOOTED.is_dir(), reason="systemd runs this machine")
@pytest.mark.parametrize("action", ["install", "uninstall", "status"])
def test_without_systemd_it_says_what_to_do_instead(action: str):
    result = run_service(action)
    assert result.returncode == 2
    assert re.search("systemd does not run this machine.*streamcls run CONFIG", result.stderr)
