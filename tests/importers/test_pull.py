"""`streamcls models pull yamnet` as a user runs it, from a server that stumbles, by a proxy."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from streamcls.importers.published import YAMNET_FILE
from tests.importers.file_server import serve, status, whole
from tests.test_cli import run_cli


def test_pull_fetches_once_and_imports(tflite_path: Path, tmp_path: Path) -> None:
    place = {"XDG_DATA_HOME": str(tmp_path), "STATE_DIRECTORY": ""}
    with serve(status(503), whole(tflite_path.read_bytes())) as proxy:
        proxies = {"http_proxy": proxy.url, "no_proxy": ""}
        mirror = ("models", "pull", "yamnet", "--from", "http://models.invalid/m/")
        first = run_cli(*mirror, **place, **proxies)
        again = run_cli(*mirror, **place, **proxies)
    assert proxy.requests == [f"http://models.invalid/m/{YAMNET_FILE}"] * 2
    assert first.returncode == again.returncode == 0, first
    assert "the server answers 503" in first.stderr
    assert "run it with: streamcls run --model yamnet" in first.stdout
    assert f"{YAMNET_FILE} is here and whole" in again.stdout
    folder = tmp_path / "streamcls" / "models"
    assert {path.name for path in folder.iterdir()} == {YAMNET_FILE, "yamnet.safetensors"}
    facts = json.loads(run_cli("models", "show", "yamnet", "--json", **place).stdout)
    assert facts["executor"] == "windowed"
    assert len(facts["labels"]) == 521


def test_pull_of_another_file_leaves_nothing(tmp_path: Path) -> None:
    with serve(whole(bytes(4_047_424))) as server:
        said = refuse_pull(server.url, tmp_path)
    assert "has sha256" in said
    assert list(tmp_path.rglob("*.*")) == []


@pytest.mark.parametrize("options", ["size=1m", "ro,size=1m"], ids=["full", "read-only"])
def test_a_state_directory_that_takes_nothing(tflite_path: Path, tmp_path: Path, options) -> None:
    """A tmpfs mounted over it, in a mount namespace of the command's own."""
    mount = f'mount -t tmpfs -o {options} none {tmp_path} && exec "$@"; exit 77'
    unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount, "sh"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("cannot mount here")
    with serve(whole(tflite_path.read_bytes())) as server:
        command = [*unshare, sys.executable, "-m", "streamcls", "models", "pull", "yamnet"]
        result = subprocess.run(
            [*command, "--from", server.url],
            env=os.environ | {"STATE_DIRECTORY": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert result.returncode == 2, result.stderr
    assert re.search("cannot write .*(No space left|Read-only file system)", result.stderr)
    assert "Traceback" not in result.stderr


def refuse_pull(url: str, place: Path) -> str:
    """Pull from ``url``, check that it fails as it should, and return what it said."""
    result = run_cli("models", "pull", "yamnet", "--from", url, STATE_DIRECTORY=str(place))
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    return result.stderr
