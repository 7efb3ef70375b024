"""What a person writes becomes the right source, or a clear refusal."""

from pathlib import Path

import pytest

from streamcls.capture import SourceOptions, parse_source
from streamcls.capture.device import DeviceSource
from streamcls.capture.file import FileSource
from streamcls.capture.network import NetworkSource
from streamcls.capture.pipe import PipeSource
from streamcls.capture.remote import RemoteSource
from streamcls.errors import SourceError


@pytest.mark.parametrize(("spec", "name"), [("device", ""), ("device:", ""), ("device:a:b", "a:b")])
def test_devices(spec: str, name: str) -> None:
    source = parse_source(spec)
    assert isinstance(source, DeviceSource)
    assert (source.name, source.live, source.finite) == (name, True, False)


def test_files(tmp_path: Path) -> None:
    fast = parse_source(f"file:{tmp_path}/a:b.wav", SourceOptions(pace="fast"))
    assert isinstance(fast, FileSource)
    assert (fast.path, fast.live, fast.finite) == (tmp_path / "a:b.wav", False, True)
    assert parse_source("file:a.wav").live


def test_pipes() -> None:
    options = SourceOptions(sample_rate_hz=8000, channels=2, sample_format="f32le")
    source = parse_source("pipe:", options)
    assert isinstance(source, PipeSource)
    assert (source.sample_rate_hz, source.channels, source.sample_format) == (8000, 2, "f32le")
    assert (source.live, source.finite) == (False, True)


def test_other_machines() -> None:
    remote = parse_source("remote:porch")
    assert isinstance(remote, RemoteSource)
    assert (remote.name, remote.live, remote.finite) == ("porch", True, False)
    network = parse_source("rtsp://me:secret@camera:554/live?token=1")
    assert isinstance(network, NetworkSource)
    assert str(network) == "rtsp://camera:554/live?..."


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        (
            "ftp://me:secret@x/?key=1",
            None,
            r"^'ftp://x/\?...' is not a source; choose one of device\[:NAME\], file:PATH",
        ),
        ("", None, "'' is not a source"),
        (__file__, None, f"did you mean file:{__file__}"),
        ("file:", None, "file: needs a path"),
        ("pipe:x", None, "takes nothing after the colon"),
        ("pipe:", None, "declare sample_rate_hz"),
        ("remote:", None, "needs the name that its sender gives"),
        ("http:", None, "write http://HOST"),
        ("rtsp://", None, "write rtsp://HOST"),
        ("file:~nobody-of-that-name/a.wav", None, "no such home"),
        ("file:\udcff.wav", None, "not UTF-8"),
        ("x" * 300, None, "is not a source"),
        ("device", SourceOptions(sample_format="s24le"), "as s24le; choose f32le or s16le"),
    ],
)
def test_nonsense_is_refused(spec: str, options: SourceOptions | None, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        parse_source(spec, options)
