"""Key files: who the daemon is, who its clients are, and what each of them may do.

A folder made by `streamcls keys new` holds ``server.key`` (private), ``server.pub`` (for the
clients) and ``clients/NAME.pub``, one file per client that may connect, with its rights. Only
files here, no sockets: those are in `auth`. Used by both ends, and by the command line.
"""

import contextlib
import logging
import os
import re
import secrets
import stat
import struct
import threading
import tomllib
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Self

import zmq
from zmq.utils import z85

from streamcls.errors import PublishError

SERVER = "server"
CLIENTS_FOLDER = "clients"
PRIVATE_SUFFIX = ".key"
PUBLIC_SUFFIX = ".pub"
FILE_LIMIT_BYTES = 4096
CLIENTS_LIMIT = 1024

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY_LENGTH_CHARS = 40

log = logging.getLogger(__name__)


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


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """What a client needs to connect: its own pair and the daemon's public key."""

    pair: KeyPair
    server_public: bytes

    @classmethod
    def load(cls, client_key: str | os.PathLike[str], server_key: str | os.PathLike[str]) -> Self:
        """Read the client's private file and the daemon's public file.

        Raises:
            PublishError: A file cannot be read, is damaged, or lets others read a private key.
        """
        return cls(read_private(Path(client_key)), read_public(Path(server_key)).public)


class Client(NamedTuple):
    """A public key file: whose key it is and what it may do."""

    name: str
    public: bytes
    rights: frozenset[Right]


class AllowList:
    """The clients a daemon lets in: the ``.pub`` files of a folder, looked at anew each time.

    So a file that was added, changed or removed counts from the next connection on. Files that
    did not change are not read again. Thread-safe. Whatever cannot be read lets nobody in.

    Args:
        folder: Where the files are.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.problems: dict[str, str] = {}
        """File name -> why that file lets nobody in; logged when somebody knocks."""
        self._said: dict[str, str] = {}
        self._lock = threading.Lock()
        self._versions: dict[str, tuple[int, ...]] | None = None
        self._clients: dict[str, Client] = {}  # by file name

    def find(self, public: bytes) -> Client | None:
        """Return the client with this key (Z85); None if there is none."""
        with self._lock:
            try:
                self._refresh()
            except PublishError as error:
                self._forget_all(str(error))
            self._say_new_problems()
            # By name, so that a key in two files always has the rights of the same one.
            matching = (c for _, c in sorted(self._clients.items()) if c.public == public)
            return next(matching, None)

    def clients(self) -> list[Client]:
        """Return all clients by name.

        Raises:
            PublishError: The folder cannot be read, is not safe, or holds too many files.
        """
        with self._lock:
            self._refresh()
            return [client for _, client in sorted(self._clients.items())]

    def _refresh(self) -> None:
        versions = _list_versions(self.folder)
        if versions == self._versions:
            return
        known = self._versions or {}
        for name in self._clients.keys() | self.problems.keys():
            if name not in versions:
                self._clients.pop(name, None)
                self.problems.pop(name, None)
        for name, version in versions.items():
            if version != known.get(name):
                self._read(name)
        self._versions = versions

    def _read(self, name: str) -> None:
        self._clients.pop(name, None)
        try:
            self._clients[name] = read_public(self.folder / name)
            self.problems.pop(name, None)
        except PublishError as error:
            self.problems[name] = str(error)

    def _forget_all(self, problem: str) -> None:
        self._clients.clear()
        self._versions = None
        self.problems = {"": f"no client is let in: {problem}"}

    def _say_new_problems(self) -> None:
        if self._said != self.problems:
            for name, problem in self.problems.items():
                if self._said.get(name) != problem:
                    log.warning("client key ignored: %s", problem)
            self._said = dict(self.problems)


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """The daemon's own pair and the clients that it lets in."""

    pair: KeyPair
    allowed: AllowList

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], clients: str | os.PathLike[str] | None = None
    ) -> Self:
        """Read a folder made by `streamcls keys new`.

        Args:
            folder: Holds ``server.key``.
            clients: Folder of the allowed clients' keys; by default ``clients`` in ``folder``.

        Raises:
            PublishError: A file cannot be read, is damaged, or lets others read a private key.
        """
        folder = Path(folder)
        pair = read_private(folder / (SERVER + PRIVATE_SUFFIX))
        allowed = AllowList(Path(clients) if clients else folder / CLIENTS_FOLDER)
        allowed.clients()
        return cls(pair, allowed)


def create_server(folder: Path) -> Path:
    """Make a daemon's key pair in ``folder`` and return the public file.

    Raises:
        PublishError: There is one already, or the folder cannot be written.
    """
    _make_folder(folder)
    _make_folder(folder / CLIENTS_FOLDER)
    pair = KeyPair.generate()
    _write_private(folder / (SERVER + PRIVATE_SUFFIX), SERVER, pair)
    public = folder / (SERVER + PUBLIC_SUFFIX)
    _write_new(public, _public_text(SERVER, pair.public), 0o644)
    return public


def create_client(folder: Path, name: str, rights: Collection[Right]) -> tuple[Path, Path]:
    """Make a client's key pair and return its private and its public file.

    The private file is for the client. The public one is where a daemon looks for it, so when
    ``folder`` is the daemon's the client may connect from now on.

    Raises:
        PublishError: The name is not allowed or taken, or the folder cannot be written.
    """
    if not _NAME.fullmatch(name) or name == SERVER:
        raise PublishError(
            f"client name {name[:80]!r} is not allowed: 1 to 64 of A-Z a-z 0-9 . _ -, beginning "
            f"with a letter or digit, and not {SERVER!r}; use another name"
        )
    if not rights:
        raise PublishError(f"client {name!r} would have no rights: choose from {_words(Right)}")
    _make_folder(folder)
    _make_folder(folder / CLIENTS_FOLDER)
    private = folder / (name + PRIVATE_SUFFIX)
    public = folder / CLIENTS_FOLDER / (name + PUBLIC_SUFFIX)
    if public.exists():
        raise PublishError(_taken(public))
    pair = KeyPair.generate()
    _write_private(private, name, pair)
    _write_new(public, _public_text(name, pair.public, rights), 0o644)
    return private, public


def parse_rights(words: Collection[str]) -> frozenset[Right]:
    """Return the rights that ``words`` name.

    Raises:
        PublishError: One does not exist.
    """
    for word in words:
        if word not in tuple(Right):
            raise PublishError(f"right {word[:80]!r} does not exist: choose from {_words(Right)}")
    return frozenset(map(Right, words))


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
    _check_folder(path.parent)
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
        raise PublishError(f"{path}: rights must be a list of {_words(Right)}")
    return Client(path.stem, _key(path, table, "public"), frozenset(map(Right, rights)))


def _list_versions(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return for each public key file what changes when its content may have changed."""
    _check_folder(folder)
    versions: dict[str, tuple[int, ...]] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.endswith(PUBLIC_SUFFIX) or entry.name.startswith("."):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat()
                    versions[entry.name] = (
                        status.st_ino,
                        status.st_mtime_ns,
                        status.st_ctime_ns,
                        status.st_size,
                    )
                if len(versions) > CLIENTS_LIMIT:
                    raise PublishError(
                        f"{folder} holds more than {CLIENTS_LIMIT} client keys: "
                        "remove those that are no longer in use"
                    )
    except OSError as error:
        raise PublishError(f"{folder} cannot be read ({error.strerror})") from None
    return versions


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


def _check_folder(folder: Path) -> None:
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


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise PublishError(f"key folder {folder} cannot be made ({error.strerror})") from None
    _check_folder(folder)


def _write_private(path: Path, name: str, pair: KeyPair) -> None:
    text = (
        f"# streamcls PRIVATE key of {name}: whoever has this file is {name}.\n"
        f'public = "{pair.public.decode()}"\nsecret = "{pair.secret.decode()}"\n'
    )
    _write_new(path, text, 0o600)


def _public_text(name: str, public: bytes, rights: Collection[Right] = ()) -> str:
    lines = [f"# streamcls public key of {name}; no secret.", f'public = "{public.decode()}"']
    if rights:
        listed = ", ".join(f'"{right}"' for right in Right if right in rights)
        lines.append(f"rights = [{listed}]  # of {_words(Right)}")
    return "\n".join(lines) + "\n"


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
        raise PublishError(_taken(path)) from None
    except OSError as error:
        raise PublishError(f"key file {path} cannot be written ({error.strerror})") from None


def _taken(path: Path) -> str:
    return f"{path} exists: use another name or folder, or remove the file to replace the key"


def _words(rights: Collection[Right] | type[Right]) -> str:
    return ", ".join(rights)
