"""Where a socket listens or connects: which addresses are allowed, and errors people can use.

Shared by both ends of every socket; called at start.
"""

import contextlib
import errno
import ipaddress
import os
import re
import socket as posix_socket
import stat
from pathlib import Path
from typing import Any

import zmq

from streamcls.errors import PublishError

IPC_PATH_LIMIT_BYTES = zmq.IPC_PATH_MAX_LEN
IPC_MODE = 0o600
"""Of an ``ipc://`` file unless configured: only its owner may connect."""
IPC_BACKLOG = 100

_TCP = re.compile(r"tcp://(?P<host>\[[^\]]*\]|[^:\[\]]+):(?P<port>\*|\d{1,5})")


def check_bind(endpoint: str, insecure: bool, encrypted: bool = False) -> None:
    """Refuse an endpoint that is malformed, or open to the network without protection.

    Args:
        endpoint: ``tcp://HOST:PORT`` (``*`` as port lets the system choose) or ``ipc://PATH``.
        insecure: The user accepts that everyone who reaches the address may connect.
        encrypted: The socket has keys: only known clients can connect, from wherever they are.

    Raises:
        PublishError: The endpoint is malformed, or beyond loopback without keys or ``insecure``.
    """
    try:
        endpoint.encode()
    except UnicodeEncodeError:
        raise PublishError(
            f"endpoint {endpoint!r} is not UTF-8: use tcp://HOST:PORT or ipc:///PATH"
        ) from None
    if endpoint.startswith("ipc://"):
        _check_ipc(endpoint)
        return
    match = _TCP.fullmatch(endpoint)
    if match is None or (match["port"] != "*" and int(match["port"]) > 65535):
        raise PublishError(
            f"endpoint {endpoint!r} is not an address to listen on: use tcp://HOST:PORT with a "
            "port from 0 to 65535 (such as tcp://127.0.0.1:5570) or ipc:///PATH"
        )
    if not (insecure or encrypted or _is_loopback(match["host"])):
        raise PublishError(
            f"endpoint {endpoint!r} can be reached from other machines, and nothing on it is "
            "encrypted or asks who connects: make keys with `streamcls keys new` and name their "
            "folder as security.keys (of a relay: --keys), or use tcp://127.0.0.1:PORT or "
            "ipc:///PATH, or set publish.insecure = true (of a relay: --insecure) if everyone on "
            "that network may connect"
        )


def _check_ipc(endpoint: str) -> None:
    path = endpoint.removeprefix("ipc://")
    if not path:
        raise PublishError("endpoint 'ipc://' names no file: use ipc:///PATH")
    size_bytes = len(os.fsencode(path))
    if size_bytes > IPC_PATH_LIMIT_BYTES:
        raise PublishError(
            f"endpoint {endpoint!r}: the path has {size_bytes} bytes, the system allows "
            f"{IPC_PATH_LIMIT_BYTES}: use a shorter path"
        )


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        # "*", an interface or a short form of an address: could be anything, except for these.
        return host in ("localhost", "lo")
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def socket_file(endpoint: str) -> Path | None:
    """Return the file behind an ``ipc://`` endpoint; None for tcp, ``ipc://*`` and ``ipc://@``."""
    path = endpoint.removeprefix("ipc://")
    return None if path == endpoint or path == "*" or path.startswith("@") else Path(path)


def bind(socket: zmq.Socket[bytes], endpoint: str, ipc_mode: int = IPC_MODE) -> str:
    """Bind ``socket`` and return the actual endpoint (with the port the system chose).

    Args:
        socket: Not yet bound.
        endpoint: As accepted by `check_bind`.
        ipc_mode: Of the file of an ``ipc://`` endpoint, whatever the umask.

    Raises:
        PublishError: The address is in use, not of this machine, or not permitted.
    """
    path = socket_file(endpoint)
    if path is not None:
        _clear_stale_socket(path, endpoint)
        socket.setsockopt(zmq.USE_FD, _listen(path, endpoint, ipc_mode))
    if endpoint.startswith("tcp://["):
        socket.ipv6 = True
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        raise PublishError(_explain(endpoint, error.errno, error.strerror)) from error
    return socket.get_string(zmq.LAST_ENDPOINT)


def connect_to(socket: zmq.Socket[Any], endpoint: str) -> None:
    """Connect ``socket`` in the background, and again for as long as it lives.

    Raises:
        PublishError: The endpoint is not possible.
    """
    if endpoint.startswith("tcp://["):
        socket.ipv6 = True
    try:
        socket.connect(endpoint)
    except (zmq.ZMQError, UnicodeEncodeError) as error:
        reason = error.strerror if isinstance(error, zmq.ZMQError) else "it is not UTF-8"
        raise PublishError(
            f"endpoint {endpoint!r} is not an address to connect to ({reason}): "
            "use tcp://HOST:PORT, such as tcp://192.0.2.7:5570, or ipc:///PATH"
        ) from error


def keep_alive(socket: zmq.Socket[Any]) -> None:
    """Let the kernel find hosts that went away: within half a minute of silence.

    Not ZMTP heartbeats: with them on either side libzmq 4.3.5 aborts the process of a subscriber
    that stalls on a full queue.
    """
    socket.tcp_keepalive = 1
    socket.tcp_keepalive_idle = 10
    socket.tcp_keepalive_intvl = 5
    socket.tcp_keepalive_cnt = 3


def _clear_stale_socket(path: Path, endpoint: str) -> None:
    # libzmq deletes whatever is at the path before it binds: a running daemon would go deaf
    # without notice, and a plain file would be lost. So look first.
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise PublishError(f"endpoint {endpoint!r}: {error.strerror}") from error
    if not stat.S_ISSOCK(mode):
        raise PublishError(
            f"endpoint {endpoint!r}: {path} exists and is not a socket: "
            "move the file away or use another path"
        )
    with posix_socket.socket(posix_socket.AF_UNIX, posix_socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            # Left by a process that did not end cleanly.
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        except OSError as error:
            raise PublishError(f"endpoint {endpoint!r}: {error.strerror}") from error
        else:
            raise PublishError(_in_use(endpoint))


def _listen(path: Path, endpoint: str, mode: int) -> int:
    """Return a listening socket at ``path``, for libzmq to own.

    libzmq would make the file with whatever mode the process's umask leaves, and a mode that is
    narrowed afterwards is too late. The mode of a socket before it is bound becomes the file's.
    """
    with posix_socket.socket(posix_socket.AF_UNIX, posix_socket.SOCK_STREAM) as listener:
        try:
            os.fchmod(listener.fileno(), mode)
            listener.bind(str(path))
            path.chmod(mode)  # gives back what the umask took
            listener.listen(IPC_BACKLOG)
        except OSError as error:
            raise PublishError(_explain(endpoint, error.errno, error.strerror)) from error
        listener.setblocking(False)
        return listener.detach()


def _in_use(endpoint: str) -> str:
    return (
        f"endpoint {endpoint!r} is in use by another process (another streamcls daemon?): "
        "stop it or choose another endpoint"
    )


def _explain(endpoint: str, number: int | None, reason: str | None) -> str:
    match number:
        case errno.EADDRINUSE:
            return _in_use(endpoint)
        case errno.EACCES:
            return (
                f"endpoint {endpoint!r}: permission denied: use a port above 1023, "
                "or a folder this user may write to"
            )
        case errno.ENOENT if endpoint.startswith("ipc://"):
            return f"endpoint {endpoint!r}: the folder does not exist: create it first"
        case errno.EADDRNOTAVAIL | errno.ENODEV:
            return (
                f"endpoint {endpoint!r}: this machine has no such address: "
                "use 127.0.0.1 or an address that `ip address` lists"
            )
        case _:
            return f"endpoint {endpoint!r} cannot be bound: {reason}"
