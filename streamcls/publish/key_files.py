"""One key file: reading with suspicion, writing whole or not at all.

A private file (``NAME.key``) holds a pair, a public one (``NAME.pub``) a public key and the rights
of whoever owns it. What other users could have read or replaced is refused. The folder of files
that makes a daemon's keys is in `keys`.
"""

import os
import secrets
import stat
import struct
import tomllib
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Self

import zmq
from zmq.utils import z85

from streamcls.errors import PublishError

PRIVATE_SUFFIX = ".key"
PUBLIC_SUFFIX = ".pub"
FILE_LIMIT_BYTES = 4096

_KEY_LENGTH_CHARS = 40


class Right(StrEnum):
    """What a client may connect to; also the ZAP domain of the socket that asks for it."""

    LISTEN = "listen"
    """Subscribe to predictions, events and health."""
    SEND = "send"
    """Ship audio to a ``remote:`` source."""
    CONTROL = "control"
    """Call the control methods."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A CURVE key pair in Z85, 40 characters each; the secret half stays out of logs.

    Raises:
        PublishError: The two do not belong together.
    """

    public: bytes
    secret: bytes = field(repr=False)

    def __post_init__(self):
        if zmq.curve_public(self.secret) != self.public:
            raise PublishError("the public key is not that of the secret key: make a new pair")

    @classmethod
    def generate(cls) -> Self:
        """Return a new random pair."""
        return cls(*zmq.curve_keypair())


class Client(NamedTuple):
    """A public key file: whose key it is and what it may do."""

    name: str
    public: bytes
    rights: frozenset[Right]


def read_private(path: Path) -> KeyPair:
    """Return the pair in a private key file.

    Raises:
        PublishError: It cannot be read, is damaged, or others may read or replace it.
    """
    content, status = _read_file(path)
    table = _parse(path, content)
    if "secret" not in table:
        raise PublishError(f"{path} holds no private key: name a {PRIVATE_SUFFIX} file")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise PublishError(
            f"private key {path} has mode {mode:04o}, so other users may get at it: "
            f"run `chmod 600 {path}`, and make a new key if anyone else uses this machine"
        )
    _check_owner(path, status)
    check_folder(path.parent)
    public, secret = _key(path, table, "public"), _key(path, table, "secret")
    try:
        return KeyPair(public, secret)
    except PublishError as error:
        raise PublishError(f"{path}: {error}") from None


def read_public(path: Path) -> Client:
    """Return what a public key file says; without ``rights`` the key may do nothing.

    Raises:
        PublishError: It cannot be read, is damaged, or others may change it.
    """
    content, status = _read_file(path)
    if status.st_mode & 0o022:
        raise PublishError(
            f"public key {path} can be changed by other users: run `chmod 644 {path}`"
        )
    table = _parse(path, content)
    if "secret" in table:
        raise PublishError(f"{path} holds a private key where a {PUBLIC_SUFFIX} file belongs")
    rights = table.get("rights", [])
    if not isinstance(rights, list) or not all(right in tuple(Right) for right in rights):
        raise PublishError(f"{path}: rights must be a list of {list_words(Right)}")
    return Client(path.stem, _key(path, table, "public"), frozenset(map(Right, rights)))


def _read_file(path: Path) -> tuple[bytes, os.stat_result]:
    try:
        # Not blocking: a FIFO must not stop the daemon.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise PublishError(f"{path} is not a file: name a key file")
            return file.read(FILE_LIMIT_BYTES + 1), status
    except FileNotFoundError:
        raise PublishError(
            f"key file {path} does not exist: make keys with `streamcls keys new` or check the path"
        ) from None
    except OSError as error:
        raise PublishError(
            f"key file {path} cannot be read ({error.strerror}): it must belong to the user "
            "that runs this, see `ls -l`"
        ) from None


def _parse(path: Path, content: bytes) -> dict[str, Any]:
    if len(content) > FILE_LIMIT_BYTES:
        raise PublishError(f"{path} is larger than {FILE_LIMIT_BYTES} bytes: this is no key file")
    try:
        return tomllib.loads(content.decode())
    except (ValueError, RecursionError):
        # Without the parser's words: they may quote what is in the file.
        raise PublishError(
            f"{path} is not a key file of `streamcls keys new`: name another or make a new one"
        ) from None


def _key(path: Path, table: dict[str, Any], name: str) -> bytes:
    text = table.get(name)
    problem = PublishError(
        f"{path} has no valid {name} key ({_KEY_LENGTH_CHARS} characters): "
        "name another file or make a new pair with `streamcls keys new`"
    )
    if not isinstance(text, str) or len(text) != _KEY_LENGTH_CHARS or not text.isascii():
        raise problem
    try:
        # Both ways: only one spelling of a key is valid.
        if z85.encode(z85.decode(text)) != text.encode():
            raise problem
    except (KeyError, struct.error):
        raise problem from None
    return text.encode()


def _check_owner(path: Path, status: os.stat_result) -> None:
    if status.st_uid not in (0, os.geteuid()):
        raise PublishError(
            f"{path} belongs to user {status.st_uid}, not to the user that runs this "
            f"({os.geteuid()}): change its owner with chown"
        )


def check_folder(folder: Path) -> None:
    """Refuse a folder in which other users could put keys of theirs.

    Raises:
        PublishError: It is none, or others may write to it.
    """
    try:
        status = folder.stat()
    except OSError as error:
        raise PublishError(
            f"key folder {folder} cannot be used ({error.strerror}): make it with "
            "`streamcls keys new` or check the path"
        ) from None
    if not stat.S_ISDIR(status.st_mode):
        raise PublishError(f"{folder} is not a folder: name the folder of the keys")
    # Whoever may write to the folder may put another key there; sticky means only one's own.
    if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
        raise PublishError(
            f"key folder {folder} has mode {stat.S_IMODE(status.st_mode):04o}, so other users may "
            f"put their keys there: run `chmod 700 {folder}`"
        )


def make_folder(folder: Path) -> None:
    """Make a folder for keys unless it is there.

    Raises:
        PublishError: It cannot be made, or others may write to it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise PublishError(f"key folder {folder} cannot be made ({error.strerror})") from None
    check_folder(folder)


def write_private(path: Path, name: str, pair: KeyPair) -> None:
    """Write a new private key file, for its owner's eyes only.

    Raises:
        PublishError: It exists, or cannot be written.
    """
    text = (
        f"# streamcls PRIVATE key of {name}: whoever has this file is {name}.\n"
        f'public = "{pair.public.decode()}"\nsecret = "{pair.secret.decode()}"\n'
    )
    _write_new(path, text, 0o600)


def write_public(path: Path, name: str, public: bytes, rights: Collection[Right] = ()) -> None:
    """Write a new public key file.

    Raises:
        PublishError: It exists, or cannot be written.
    """
    lines = [f"# streamcls public key of {name}; no secret.", f'public = "{public.decode()}"']
    if rights:
        listed = ", ".join(f'"{right}"' for right in Right if right in rights)
        lines.append(f"rights = [{listed}]  # of {list_words(Right)}")
    _write_new(path, "\n".join(lines) + "\n", 0o644)


def _write_new(path: Path, text: str, mode: int) -> None:
    """Write a file that did not exist, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                os.fchmod(descriptor, mode)
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            os.link(temporary, path)  # a rename would replace an existing key
        finally:
            temporary.unlink()
    except FileExistsError:
        raise PublishError(say_taken(path)) from None
    except OSError as error:
        raise PublishError(f"key file {path} cannot be written ({error.strerror})") from None


def say_taken(path: Path) -> str:
    """Return what is wrong when a key file would be replaced."""
    return f"{path} exists: use another name or folder, or remove the file to replace the key"


def list_words(rights: Collection[Right] | type[Right]) -> str:
    """Return the rights as words for a message."""
    return ", ".join(rights)
