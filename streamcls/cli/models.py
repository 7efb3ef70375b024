"""`streamcls models list|show|import|pull`: which models there are, and how to get more."""

import argparse
import json
import sys
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from streamcls.cli.manual import Page, add_command
from streamcls.errors import CheckpointError
from streamcls.units import frames_to_samples, samples_to_ms

if TYPE_CHECKING:
    from streamcls.header import Header

_PAGE = Page(
    description="Look at models, fetch one that is published elsewhere, or import its file.",
    epilog="""\
examples:
  streamcls models list
  streamcls models show commands
  streamcls models show ./mine.safetensors --json | jq .metrics
  streamcls models pull yamnet              521 everyday sounds; then: run --model yamnet
  streamcls models import yamnet.tflite     the same from a file, without a network

Pulled and imported models are kept in $STATE_DIRECTORY/models (set by systemd for a service),
else in $XDG_DATA_HOME/streamcls/models or ~/.local/share/streamcls/models.""",
)
_LIST = Page(
    description="List the models that come with streamcls, and those pulled or imported.", epilog=""
)
_SHOW = Page(
    description="""\
Print what a checkpoint says about itself: labels, how much audio a prediction hears (the
window), which hops are legal, what it was trained on and how it scored.""",
    epilog="",
)
_IMPORT = Page(
    description="""\
Make a checkpoint from a TensorFlow Lite file. YAMNet can be imported, as Google publishes it
for the Coral boards: log-mel frames in, 521 scores out, int8 or float weights.""",
    epilog="",
)
_PULL = Page(
    description="""\
Fetch a model from where its makers publish it, check its size and SHA-256, and import it.
A proxy is taken from HTTPS_PROXY. What has been fetched before is not fetched again.""",
    epilog="",
)


def add_parser(commands: Any) -> None:
    """Add ``models`` to the commands."""
    parser = add_command(commands, "models", "list, describe, import or pull models", _PAGE)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = add_command(actions, "list", "list the models", _LIST)
    listing.add_argument("--json", action="store_true", help="one JSON array instead of a table")
    listing.set_defaults(command=_list)
    show = add_command(actions, "show", "describe one model", _SHOW)
    show.add_argument("name", metavar="NAME|PATH", help="a model's name, or a .safetensors file")
    show.add_argument("--json", action="store_true", help="one JSON object instead of text")
    show.set_defaults(command=_show)
    importing = add_command(actions, "import", "make a model from a TensorFlow Lite file", _IMPORT)
    importing.add_argument("file", metavar="FILE.tflite", type=Path)
    importing.add_argument(
        "--out",
        metavar="NAME|PATH",
        default="yamnet",
        help="name in the model folder, or path of a .safetensors file (default: yamnet)",
    )
    importing.set_defaults(command=_import)
    pull = add_command(actions, "pull", "fetch a model that is published elsewhere", _PULL)
    pull.add_argument("name", metavar="NAME", help="yamnet")
    pull.add_argument("--from", dest="base_url", metavar="URL", help="folder of a mirror")
    pull.set_defaults(command=_pull)


def _list(arguments: argparse.Namespace) -> int:
    from streamcls.header import (
        PULLABLE,
        find_checkpoint,
        list_installed,
        list_shipped,
        read_header,
    )

    headers, damaged = {}, 0
    for name in [*list_shipped(), *list_installed()]:
        try:
            headers[name] = read_header(find_checkpoint(name))
        except CheckpointError as error:
            # One damaged file must not hide the others.
            print(f"streamcls: error: {error}", file=sys.stderr)
            damaged += 1
    if arguments.json:
        keys = ("description", "labels", "licence")
        models = [
            {"name": name} | {key: getattr(header, key) for key in keys}
            for name, header in headers.items()
        ]
        print(json.dumps(models, indent=2))
    else:
        for name, header in headers.items():
            print(f"{name:<16} {len(header.labels):>4} classes   {header.description}")
        for name in sorted(set(PULLABLE) - set(list_installed())):
            print(f"{name:<16}    not here yet: streamcls models pull {name}")
    return CheckpointError.exit_code if damaged else 0


def _import(arguments: argparse.Namespace) -> int:
    _convert(arguments.file, arguments.out)
    return 0


def _pull(arguments: argparse.Namespace) -> int:
    from streamcls.header import PULLABLE, model_directory
    from streamcls.importers.download import download, has_content
    from streamcls.importers.published import YAMNET_URL, published_yamnet

    if arguments.name not in PULLABLE:
        raise CheckpointError(
            f"model {arguments.name!r} cannot be pulled; there are: {', '.join(PULLABLE)}"
        )
    remote = published_yamnet(arguments.base_url or YAMNET_URL)
    local = model_directory() / PurePosixPath(remote.url).name
    if has_content(local, remote):
        print(f"{local} is here and whole")
    else:
        print(f"fetching {remote.url}", file=sys.stderr)
        with _Progress(remote.size_bytes) as progress:
            download(remote, local, progress.show, progress.say_retry)
    _convert(local, arguments.name)
    return 0


def _convert(file: Path, name_or_path: str) -> None:
    """Import ``file`` and say where the model is."""
    from streamcls.header import SUFFIX, is_path, list_shipped, model_directory

    if is_path(name_or_path):
        target = Path(name_or_path).expanduser()
        if target.suffix != SUFFIX:
            raise CheckpointError(f"--out {name_or_path}: a path must end in {SUFFIX}")
        runs_as = str(target)
    else:
        target = model_directory() / f"{name_or_path}{SUFFIX}"
        runs_as = name_or_path
        if name_or_path in list_shipped() or name_or_path.startswith(".") or not name_or_path:
            raise CheckpointError(
                f"--out {name_or_path}: that is the name of a shipped model or no name; "
                f"choose another"
            )

    from streamcls.importers.yamnet import import_yamnet

    header = import_yamnet(file, target.stem, target)
    print(f"{header.name}: {len(header.labels)} classes in {target}")
    print(f"run it with: streamcls run --model {runs_as}")


class _Progress:
    """One line on standard error that is written over; on a terminal only."""

    def __init__(self, size_bytes: int):
        self._size_bytes = size_bytes
        self._is_terminal = sys.stderr.isatty()

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._is_terminal:
            print(file=sys.stderr)

    def show(self, received_bytes: int) -> None:
        if self._is_terminal:
            percent = 100 * received_bytes // self._size_bytes
            text = f"\r{percent:3} % of {self._size_bytes / 1e6:.1f} MB"
            print(text, end="", file=sys.stderr, flush=True)

    def say_retry(self, reason: str, pause_s: float) -> None:
        print(f"{reason}; again in {pause_s:g} s", file=sys.stderr)


def _show(arguments: argparse.Namespace) -> int:
    from streamcls.header import find_checkpoint, read_header

    path = find_checkpoint(arguments.name)
    facts = _describe(path, read_header(path))
    if arguments.json:
        print(json.dumps(facts, indent=2))
        return 0
    for name, value in facts.items():
        print(f"{name:<18} {_text(value, indent=19)}")
    return 0


def _describe(path: Path, header: "Header") -> dict[str, Any]:
    """Return what to show, in reading order; the header's own words plus its times in ms."""
    import msgspec

    facts: dict[str, Any] = msgspec.to_builtins(header)
    window = header.window
    rate_hz, hop_samples, frame_samples = (
        header.front_end[key] for key in ("sample_rate_hz", "hop_samples", "frame_samples")
    )

    def to_ms(frames: int) -> float:
        return samples_to_ms(frames_to_samples(frames, hop_samples, frame_samples), rate_hz)

    stride_ms = samples_to_ms(window.stride_frames * hop_samples, rate_hz)
    facts["window"] |= {
        "receptive_ms": to_ms(window.receptive_frames),
        "window_ms": to_ms(window.window_frames),
    }
    facts["executor"] = "incremental" if window.time_valid else "windowed"
    facts["hop_multiple_of_ms"] = stride_ms
    facts["path"] = str(path)
    facts["size_bytes"] = path.stat().st_size
    return facts


def _text(value: object, indent: int) -> str:
    """Return a value for people; the entries of a table of tables below each other."""
    match value:
        case dict() if any(isinstance(below, dict) for below in value.values()):
            lines = (f"{key}: {_text(below, indent + 2)}" for key, below in value.items())
            return f"\n{' ' * indent}".join(lines)
        case dict():
            return "  ".join(f"{key}={_text(below, indent)}" for key, below in value.items()) or "-"
        case list():
            separator = "; " if any(" " in str(one) for one in value) else " "
            return separator.join(map(str, value)) or "-"
        case float():
            return f"{value:g}"
        case _:
            return str(value)
