"""Key files: who may read them, what is refused and why, and that nothing secret gets out."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcls.errors import PublishError
from streamcls.publish.key_files import KeyPair, Right, read_private, read_public
from streamcls.publish.keys import (
    CLIENTS_LIMIT,
    AllowList,
    ClientKeys,
    ServerKeys,
    create_client,
    create_server,
)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_private_files_and_folders_are_for_their_owner_whatever_the_umask(
    tmp_path: Path, umask: int
):
    folder = tmp_path / "made" / "keys"
    previous = os.umask(umask)
    try:
        create_server(folder)
        private, public = create_client(folder, "porch", [Right.LISTEN])
    finally:
        os.umask(previous)
    assert (mode(folder), mode(folder / "clients")) == (0o700, 0o700)
    assert (mode(folder / "server.key"), mode(private)) == (0o600, 0o600)
    assert (mode(folder / "server.pub"), mode(public)) == (0o644, 0o644)
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == [
        "porch.key",
        "porch.pub",
        "server.key",
        "server.pub",
    ]


def test_what_was_made_can_be_read(folder: Path):
    private, public = create_client(folder, "porch", [Right.SEND, Right.LISTEN])
    server = ServerKeys.load(folder)
    client = ClientKeys.load(private, folder / "server.pub")
    assert client.server_public == server.pair.public
    (allowed,) = server.allowed.clients()
    assert allowed == read_public(public)
    assert (allowed.name, allowed.public) == ("porch", client.pair.public)
    assert allowed.rights == {Right.LISTEN, Right.SEND}


def test_nothing_is_overwritten(folder: Path):
    before = (folder / "server.key").read_bytes()
    with pytest.raises(PublishError, match=r"server\.key exists: use another name"):
        create_server(folder)
    assert (folder / "server.key").read_bytes() == before
    private, _ = create_client(folder, "porch", [Right.LISTEN])
    before = private.read_bytes()
    with pytest.raises(PublishError, match=r"porch\.pub exists"):
        create_client(folder, "porch", [Right.CONTROL])
    assert private.read_bytes() == before


def test_the_secret_half_is_not_shown():
    pair = KeyPair.generate()
    assert pair.secret.decode() not in repr(pair) + str(ClientKeys(pair, pair.public))


@pytest.mark.parametrize("open_mode", [0o640, 0o604, 0o610, 0o666])
def test_a_private_key_that_others_may_touch_is_refused(folder: Path, open_mode: int):
    path = folder / "server.key"
    path.chmod(open_mode)
    with pytest.raises(PublishError, match=f"{open_mode:04o}.*chmod 600"):
        ServerKeys.load(folder)


def test_a_folder_that_others_may_write_to_is_refused(folder: Path):
    (folder / "clients").chmod(0o770)
    with pytest.raises(PublishError, match=r"clients has mode 0770.*chmod 700"):
        ServerKeys.load(folder)
    (folder / "clients").chmod(0o700)
    folder.chmod(0o777)
    with pytest.raises(PublishError, match=r"keys has mode 0777"):
        ServerKeys.load(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_private_key_of_another_user_is_refused(folder: Path):
    os.chown(folder / "server.key", 65534, 65534)
    with pytest.raises(PublishError, match="belongs to user 65534"):
        ServerKeys.load(folder)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "no private key"),
        ('secret = "x"', "no valid public key"),
        ('secret = "{secret}"\npublic = "{other}"', "not that of the secret key"),
        ('secret = "{secret}\npublic = ', "not a key file"),
        ('secret = ["{secret}"]\npublic = "{public}"', "no valid secret key"),
        ('secret = "' + "#" * 40 + '"\npublic = "{public}"', "no valid secret key"),
        ("#" * 5000, "larger than 4096 bytes"),
    ],
)
def test_damaged_private_files_are_refused_without_quoting_them(
    tmp_path: Path, content: str, problem: str
):
    pair, other = KeyPair.generate(), KeyPair.generate()
    names = {"secret": pair.secret, "public": pair.public, "other": other.public}
    for name, key in names.items():
        content = content.replace("{" + name + "}", key.decode())
    path = tmp_path / "porch.key"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(PublishError, match=problem) as caught:
        read_private(path)
    assert str(path) in str(caught.value)
    assert pair.secret.decode() not in str(caught.value)


@given(content=st.binary(max_size=200) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_a_key_file_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
):
    path = tmp_path_factory.getbasetemp() / "any.pub"
    path.write_bytes(content)
    path.chmod(0o644)
    with pytest.raises(PublishError, match="no valid public key|not a key file|rights"):
        read_public(path)


@pytest.mark.parametrize("name", ["", "server", "../porch", "a/b", ".hidden", "x" * 65, "a b"])
def test_bad_client_names_are_refused(tmp_path: Path, name: str):
    with pytest.raises(PublishError, match="client name .* is not allowed"):
        create_client(tmp_path / "keys", name, [Right.LISTEN])
    assert not (tmp_path / "keys").exists()


def test_what_is_no_file_is_refused_at_once(folder: Path):
    (folder / "server.key").unlink()
    os.mkfifo(folder / "server.key")
    with pytest.raises(PublishError, match="is not a file"):
        ServerKeys.load(folder)
    with pytest.raises(PublishError, match="does not exist: make keys with `streamcls keys new`"):
        ServerKeys.load(folder / "nowhere")


def test_changes_of_the_folder_count_at_once(folder: Path):
    allowed = AllowList(folder / "clients")
    _, public = create_client(folder, "porch", [Right.LISTEN])
    key = read_public(public).public
    client = allowed.find(key)
    assert client is not None
    assert client.rights == {Right.LISTEN}
    public.write_text(public.read_text().replace('["listen"]', '["control"]'))
    client = allowed.find(key)
    assert client is not None
    assert client.rights == {Right.CONTROL}
    public.chmod(0o666)
    assert allowed.find(key) is None
    public.chmod(0o644)
    assert allowed.find(key) is not None
    public.unlink()
    assert allowed.find(key) is None


def test_one_damaged_file_harms_nobody_else(folder: Path, caplog: pytest.LogCaptureFixture):
    _, public = create_client(folder, "porch", [Right.LISTEN])
    (folder / "clients" / "broken.pub").write_text('public = "short"')
    (folder / "clients" / "wrong.pub").write_text(
        re.sub("rights.*", 'rights = ["fly"]', public.read_text())
    )
    allowed = ServerKeys.load(folder).allowed
    for _ in range(3):
        client = allowed.find(read_public(public).public)
        assert client is not None
        assert client.name == "porch"
    assert sorted(allowed.problems) == ["broken.pub", "wrong.pub"]
    assert caplog.text.count("broken.pub") == 1
    assert "rights must be a list of listen, send, control" in caplog.text


def test_a_folder_that_becomes_unsafe_lets_nobody_in(folder: Path):
    _, public = create_client(folder, "porch", [Right.LISTEN])
    key = read_public(public).public
    allowed = ServerKeys.load(folder).allowed
    (folder / "clients").chmod(0o722)
    assert allowed.find(key) is None
    assert "0722" in allowed.problems[""]
    (folder / "clients").chmod(0o700)
    assert allowed.find(key) is not None
    assert allowed.problems == {}


def test_the_number_of_clients_is_bounded(folder: Path):
    for index in range(CLIENTS_LIMIT + 1):
        (folder / "clients" / f"c{index}.pub").touch()
    with pytest.raises(PublishError, match=f"more than {CLIENTS_LIMIT} client keys"):
        ServerKeys.load(folder)
