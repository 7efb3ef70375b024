"""Fetching one known file: whole, checked and in place, or not there at all.

A proxy is taken from ``https_proxy``, ``http_proxy`` and ``no_proxy``, as everywhere. Runs in the
caller's thread.
"""

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from streamcls.atomic import write_whole
from streamcls.errors import DownloadError

ATTEMPTS = 4
FIRST_PAUSE_S = 1.0
"""Pause after the first failed attempt; each further one is twice as long."""
_TIMEOUT_S = 20.0
_CHUNK_BYTES = 1 << 16
_PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file whose content is known beforehand."""

    url: str
    size_bytes: int
    sha256: str


class _PassingError(Exception):
    """What may be gone at the next attempt; the text says why."""


def download(
    file: RemoteFile,
    target: Path,
    on_progress: Callable[[int], None] = lambda received_bytes: None,
    on_retry: Callable[[str, float], None] = lambda reason, pause_s: None,
    first_pause_s: float = FIRST_PAUSE_S,
) -> None:
    """Bring ``file`` to ``target``, whole and checked.

    A server that is busy, a connection that breaks and an answer that is too short are tried again;
    a wrong content never is.

    Args:
        file: What to fetch.
        target: Where to; its folder is made. A file there is replaced only by a complete one.
        on_progress: Called with the bytes received so far in this attempt.
        on_retry: Called before each pause with what went wrong and how long the pause is.
        first_pause_s: See `FIRST_PAUSE_S`.

    Raises:
        DownloadError: It cannot be fetched, is not the file expected, or cannot be written.
    """
    if not file.url.startswith(("https://", "http://")):
        raise DownloadError(f"{file.url}: must begin with https:// or http://")
    pauses_s = [first_pause_s * 2**n for n in range(ATTEMPTS - 1)]
    while True:
        try:
            content = _fetch(file, on_progress)
            break
        except _PassingError as error:
            if not pauses_s:
                raise DownloadError(
                    f"cannot fetch {file.url} in {ATTEMPTS} attempts: {error}; check the network "
                    f"connection, and HTTPS_PROXY if there is a proxy;"
                    f" or bring the file from elsewhere and use: streamcls models import FILE"
                ) from None
            on_retry(str(error), pauses_s[0])
            time.sleep(pauses_s.pop(0))
    try:
        write_whole(target, content)
    except OSError as error:
        raise DownloadError(f"cannot write {target}: {error.strerror or error}") from None


def has_content(path: Path, file: RemoteFile) -> bool:
    """Tell whether ``path`` holds exactly ``file``."""
    try:
        return (
            path.stat().st_size == file.size_bytes
            and hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256
        )
    except OSError:
        return False


def _fetch(file: RemoteFile, on_progress: Callable[[int], None]) -> bytes:
    """Return the checked content."""
    received = bytearray()
    try:
        # urlopen would keep the proxies that the environment named at its first call.
        opener = urllib.request.build_opener()
        with opener.open(file.url, timeout=_TIMEOUT_S) as answer:
            # One byte more than expected is enough to know that it is another file.
            while chunk := answer.read(min(_CHUNK_BYTES, file.size_bytes + 1 - len(received))):
                received += chunk
                on_progress(len(received))
            # Before Python 3.14 a body cut short ends read(n) without an error.
            cut_short = bool(answer.length)
    except urllib.error.HTTPError as error:
        text = f"the server answers {error.code} {error.reason}"
        if error.code in _PASSING_STATUS:
            raise _PassingError(text) from None
        raise DownloadError(f"cannot fetch {file.url}: {text}") from None
    except ValueError as error:  # brackets or characters that an address cannot have
        raise DownloadError(f"{file.url} is no address: {error}") from None
    except urllib.error.URLError as error:
        raise _PassingError(str(error.reason)) from None
    except (OSError, http.client.HTTPException) as error:
        raise _PassingError(str(error) or type(error).__name__) from None
    if cut_short and len(received) < file.size_bytes:
        raise _PassingError(
            f"the connection ended after {len(received)} of {file.size_bytes} bytes"
        )
    if len(received) != file.size_bytes:
        more = "more than " if len(received) > file.size_bytes else ""
        raise DownloadError(
            f"{file.url} has {more}{min(len(received), file.size_bytes)} bytes, expected are "
            f"{file.size_bytes}: it is another file, nothing was kept; try another mirror"
        )
    sha256 = hashlib.sha256(received).hexdigest()
    if sha256 != file.sha256:
        raise DownloadError(
            f"{file.url} has sha256 {sha256}, expected is {file.sha256}: it is another file or was "
            f"altered on its way, nothing was kept; try another network or mirror"
        )
    return bytes(received)
