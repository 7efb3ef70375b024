"""From what a person writes (``device:USB Audio``, ``file:dog.wav``) to a source.

A new kind of source is one more entry in `SCHEMES`.
"""

from collections.abc import Callable
from pathlib import Path

from streamcls.capture.device import DeviceSource
from streamcls.capture.file import FileSource
from streamcls.capture.network import NetworkSource
from streamcls.capture.pipe import PipeSource
from streamcls.capture.remote import RemoteSource
from streamcls.capture.source import Source, SourceOptions
from streamcls.capture.url import NETWORK_SCHEMES, hide_credentials
from streamcls.errors import SourceError


def _make_device(name: str, options: SourceOptions) -> Source:
    return DeviceSource(name, options.sample_rate_hz, options.channels, options.sample_format)


def _make_file(path: str, options: SourceOptions) -> Source:
    if not path:
        raise SourceError("file: needs a path, for example file:recording.wav")
    try:
        return FileSource(Path(path).expanduser(), options.pace)
    except RuntimeError:
        raise SourceError(f"file:{path}: there is no such home; give the whole path") from None


def _make_pipe(rest: str, options: SourceOptions) -> Source:
    if rest:
        raise SourceError(
            f"pipe:{rest} is not possible: pipe: takes nothing after the colon and reads standard "
            "input; declare sample_rate_hz, channels and sample_format as options"
        )
    if options.sample_rate_hz is None:
        raise SourceError("pipe: carries no rate; declare sample_rate_hz (--rate), e.g. 16000")
    return PipeSource(
        options.sample_rate_hz,
        options.channels or 1,
        options.sample_format or "s16le",
    )


def _make_remote(name: str, options: SourceOptions) -> Source:
    if not name:
        raise SourceError("remote: needs the name that its sender gives, for example remote:porch")
    return RemoteSource(name)


def _make_network(scheme: str) -> Callable[[str, SourceOptions], Source]:
    def make(rest: str, options: SourceOptions) -> Source:
        if not rest.startswith("//") or len(rest) == 2:
            raise SourceError(f"{scheme}: needs an address: write {scheme}://HOST[:PORT]/PATH")
        return NetworkSource(f"{scheme}:{rest}")

    return make


SCHEMES: dict[str, tuple[str, Callable[[str, SourceOptions], Source]]] = {
    "device": ("device[:NAME]", _make_device),
    "file": ("file:PATH", _make_file),
    "pipe": ("pipe:", _make_pipe),
    "remote": ("remote:NAME", _make_remote),
    **{name: (f"{name}://HOST/PATH", _make_network(name)) for name in NETWORK_SCHEMES},
}
"""Scheme -> how it is written, how it is made from what follows the colon."""


def parse_source(spec: str, options: SourceOptions | None = None) -> Source:
    """Return the source that `spec` names, not opened yet.

    Args:
        spec: ``SCHEME`` or ``SCHEME:REST``.
        options: How to read it.

    Raises:
        SourceError: Unknown scheme, a rest that the scheme does not take, or not UTF-8.
    """
    try:
        spec.encode()
    except UnicodeEncodeError:  # a file's name may be any bytes; what is published may not
        raise SourceError(f"source {spec!a} is not UTF-8 text; rename the file") from None
    scheme, _, rest = spec.partition(":")
    if scheme not in SCHEMES:
        legal = ", ".join(form for form, _ in SCHEMES.values())
        hint = f"; did you mean file:{spec}?" if _is_file(spec) else ""
        raise SourceError(
            f"{hide_credentials(spec)!r} is not a source; choose one of {legal}{hint}"
        )
    return SCHEMES[scheme][1](rest, options or SourceOptions())


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except OSError:  # too long for a name
        return False
