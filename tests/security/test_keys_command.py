"""`streamcls keys`, and the other commands' use of keys, on the real command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from streamcls.publish.keys import ServerKeys
from streamcls.publish.messages import Vocabulary
from streamcls.publish.publisher import Publisher


def run_cli(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "streamcls", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refuse(*arguments: str | Path) -> str:
    result = run_cli(*arguments)
    assert (result.returncode, result.stdout) == (2, ""), result
    assert "Traceback" not in result.stderr
    return result.stderr


def test_new_and_show_never_print_a_secret(tmp_path: Path):
    folder = tmp_path / "keys"
    made = [
        run_cli("keys", "new", "--dir", folder),
        run_cli("keys", "new", "--dir", folder, "--name", "porch", "--rights", "listen,send"),
    ]
    shown = run_cli("keys", "show", "--dir", folder, "--json")
    text = run_cli("keys", "show", "--dir", folder)
    assert [result.returncode for result in (*made, shown, text)] == [0, 0, 0, 0]
    assert f"keys new --dir {folder} --name NAME" in made[0].stdout  # as it stands, it works
    keys = ServerKeys.load(folder)
    (porch,) = keys.allowed.clients()
    assert json.loads(shown.stdout) == {
        "server": keys.pair.public.decode(),
        "clients": [
            {"name": "porch", "public": porch.public.decode(), "rights": ["listen", "send"]}
        ],
        "problems": [],
    }
    assert f"porch   {porch.public.decode()}  may listen, send" in text.stdout
    said = "".join(result.stdout + result.stderr for result in (*made, shown, text))
    for path in folder.glob("*.key"):
        secret = path.read_text().partition('secret = "')[2][:40]
        assert len(secret) == 40
        assert secret not in said
    assert "exists" in refuse("keys", "new", "--dir", folder)


def test_show_names_a_damaged_client_file_and_fails(folder: Path):
    (folder / "clients" / "broken.pub").touch()
    result = run_cli("keys", "show", "--dir", folder)
    assert result.returncode == 2
    assert "broken.pub has no valid public key" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--name", "porch", "--rights", "fly"], "right 'fly' does not exist"),
        (["--name", "../porch"], "is not allowed"),
        (["--rights", "listen"], "say which one with --name"),
    ],
)
def test_new_refuses(tmp_path: Path, arguments: list[str], said: str):
    assert said in refuse("keys", "new", "--dir", tmp_path / "keys", *arguments)
    assert not (tmp_path / "keys").exists()


def test_a_key_that_others_can_read_stops_the_daemon_and_the_listener(folder: Path):
    run_cli("keys", "new", "--dir", folder, "--name", "porch")
    (folder / "server.key").chmod(0o644)
    (folder / "porch.key").chmod(0o640)
    said = refuse("run", "--set", f"security.keys={folder}", "--endpoint", "tcp://*:0")
    assert "server.key has mode 0644" in said
    assert "chmod 600" in said
    keys = ("--client-key", folder / "porch.key", "--server-key", folder / "server.pub")
    assert "porch.key has mode 0640" in refuse("listen", *keys)


def test_listen_wants_both_keys_and_the_right_ones(folder: Path):
    public = folder / "server.pub"
    assert "--server-key server.pub is missing" in refuse("listen", "--client-key", public)
    assert "--client-key NAME.key is missing" in refuse("listen", "--server-key", public)
    swapped = refuse("listen", "--client-key", public, "--server-key", folder / "server.key")
    assert "server.pub holds no private key" in swapped


def test_listen_with_keys_hears_and_without_says_why_not(folder: Path):
    run_cli("keys", "new", "--dir", folder, "--name", "porch")
    keys = ("--client-key", folder / "porch.key", "--server-key", folder / "server.pub")
    server_keys = ServerKeys.load(folder)
    with Publisher("tcp://127.0.0.1:*", Vocabulary("m", ("a",)), keys=server_keys) as publisher:
        assert run_cli("listen", publisher.endpoint, "--duration", "2", *keys).returncode == 0
        result = run_cli("listen", publisher.endpoint, "--duration", "0.5")
    assert result.returncode == 1
    assert "it asks for keys (give --client-key and --server-key)" in result.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_made_is_named():
    assert "/proc/keys cannot be made" in refuse("keys", "new", "--dir", "/proc/keys")
