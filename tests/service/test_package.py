"""The wheel and the sdist, and the wheel in an environment that has nothing else."""

import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.service.conftest import Release

DATA = (
    "streamcls/config/config.schema.json",
    "streamcls/recordings/demo.flac",
    "streamcls/recordings/demo.json",
    "streamcls/systemd/default.toml",
    "streamcls/systemd/streamcls.service",
    "streamcls/systemd/streamcls@.service",
    "streamcls/systemd/systemd-254.conf",
    "streamcls/systemd/user/streamcls.service",
    "streamcls/systemd/user/streamcls@.service",
    "streamcls/zoo/commands.safetensors",
    "streamcls/zoo/digits.safetensors",
    "streamcls/zoo/environment.safetensors",
    "train/recipes/commands.py",
)


@pytest.fixture(scope="module")
def installed(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and what it depends on; no extra."""
    folder = tmp_path_factory.mktemp("clean") / "environment"
    uv = ("uv", "--quiet", "--no-config")
    commands = (
        (*uv, "venv", str(folder)),
        (*uv, "pip", "install", "--python", str(folder / "bin" / "python"), str(release.wheel)),
    )
    for command in commands:
        subprocess.run(command, env=dict(release.environ), cwd=folder.parent, check=True)
    return folder


def run(installed: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the environment, from a folder that is not the checkout."""
    program = installed / "bin" / command[0]
    return subprocess.run(
        [program, *command[1:]], cwd=installed.parent, capture_output=True, text=True, timeout=120
    )


def test_wheel_has_the_data_and_a_manual_page_for_every_command(release: Release):
    names = zipfile.ZipFile(release.wheel).namelist()
    assert set(DATA) <= set(names)
    pages = {Path(name).name for name in names if ".data/data/share/man/man1/" in name}
    assert pages == {path.name for path in (ROOT / "docs" / "man").glob("*.1")}
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "docs/"))]


def test_sdist_has_the_sources_and_the_tests(release: Release):
    with tarfile.open(release.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"LICENSE", "README.md", "uv.lock", "deploy/install.sh", "tests/conftest.py"}
    assert wanted | {name.replace("streamcls/systemd/", "systemd/") for name in DATA} <= names


def test_installed_command_has_the_version_and_the_models(installed: Path):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert run(installed, "streamcls", "--version").stdout == f"streamcls {version}\n"
    listing = run(installed, "streamcls", "models", "list")
    assert (listing.returncode, listing.stderr) == (0, "")
    assert "commands" in listing.stdout
    assert (installed / "share" / "man" / "man1" / "streamcls-run.1").exists()


def test_installed_command_classifies(installed: Path):
    recordings = next(installed.glob("lib/python*/site-packages/streamcls/recordings"))
    endpoints = [f"--{one}=ipc://{installed.parent}/{one}" for one in ("endpoint", "control")]
    result = run(
        installed,
        *("streamcls", "run", "--source", f"file:{recordings / 'demo.flac'}", "--fast"),
        *(*endpoints, "--set", "inference.max_streams=1", "--summary-json", "-"),
    )
    assert result.returncode == 0, result.stderr
    assert '"failed_streams": []' in result.stdout


def test_installed_command_finds_its_units(installed: Path):
    result = run(installed, "streamcls", "service", "install", "--user", "--dry-run")
    assert (result.returncode, result.stderr) == (0, "")


def test_without_the_extra_training_says_what_to_install(installed: Path):
    result = run(installed, "python", "-m", "train", "fit", "digits")
    assert (result.returncode, result.stdout) == (2, "")
    assert "training needs matplotlib" in result.stderr
    assert "pip install 'streamcls[train]'" in result.stderr
    assert run(installed, "python", "-m", "train", "--help").returncode == 0


def test_without_the_extra_a_camera_says_what_to_install(installed: Path):
    program = "import streamcls.capture as c; c.parse_source('rtsp://127.0.0.1:9/yard').check()"
    result = run(installed, "python", "-c", program)
    assert "SourceError" in result.stderr
    assert "streamcls[network]" in result.stderr
