"""Keys: who the daemon is, who its clients are, and what each of them may do.

A folder made by `streamcls keys new` holds ``server.key`` (private), ``server.pub`` (for the
clients) and ``clients/NAME.pub``, one file per client that may connect, with its rights. Only
files here, no sockets: those are in `auth`. Used by both ends, and by the command line.
"""

import contextlib
import logging
import os
import re
import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from streamcls.errors import PublishError
from streamcls.publish.key_files import (
    PRIVATE_SUFFIX,
    PUBLIC_SUFFIX,
    Client,
    KeyPair,
    Right,
    check_folder,
    list_words,
    make_folder,
    read_private,
    read_public,
    say_taken,
    write_private,
    write_public,
)

SERVER = "server"
CLIENTS_FOLDER = "clients"
CLIENTS_LIMIT = 1024

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

log = logging.getLogger(__name__)


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
    make_folder(folder)
    make_folder(folder / CLIENTS_FOLDER)
    pair = KeyPair.generate()
    write_private(folder / (SERVER + PRIVATE_SUFFIX), SERVER, pair)
    public = folder / (SERVER + PUBLIC_SUFFIX)
    write_public(public, SERVER, pair.public)
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
        raise PublishError(f"client {name!r} would have no rights: choose from {list_words(Right)}")
    make_folder(folder)
    make_folder(folder / CLIENTS_FOLDER)
    private = folder / (name + PRIVATE_SUFFIX)
    public = folder / CLIENTS_FOLDER / (name + PUBLIC_SUFFIX)
    if public.exists():
        raise PublishError(say_taken(public))
    pair = KeyPair.generate()
    write_private(private, name, pair)
    write_public(public, name, pair.public, rights)
    return private, public


def parse_rights(words: Collection[str]) -> frozenset[Right]:
    """Return the rights that ``words`` name.

    Raises:
        PublishError: One does not exist.
    """
    for word in words:
        if word not in tuple(Right):
            raise PublishError(
                f"right {word[:80]!r} does not exist: choose from {list_words(Right)}"
            )
    return frozenset(map(Right, words))


def _list_versions(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return for each public key file what changes when its content may have changed."""
    check_folder(folder)
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
