"""`streamcls models list|show`: which models there are, and what they say about themselves."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamcls.cli.manual import Page, add_command
from streamcls.units import frames_to_samples, samples_to_ms

if TYPE_CHECKING:
    from streamcls.header import Header

_PAGE = Page(
    description="Look at the shipped models or at any checkpoint file.",
    epilog="""\
examples:
  streamcls models list
  streamcls models show commands
  streamcls models show ./mine.safetensors --json | jq .metrics""",
)
_LIST = Page(description="List the models that come with streamcls.", epilog="")
_SHOW = Page(
    description="""\
Print what a checkpoint says about itself: labels, how much audio a prediction hears (the
window), which hops are legal, what it was trained on and how it scored.""",
    epilog="",
)


def add_parser(commands: Any) -> None:
    """Add ``models`` to the commands."""
    parser = add_command(commands, "models", "list or describe models", _PAGE)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = add_command(actions, "list", "list the shipped models", _LIST)
    listing.add_argument("--json", action="store_true", help="one JSON array instead of a table")
    listing.set_defaults(command=_list)
    show = add_command(actions, "show", "describe one model", _SHOW)
    show.add_argument("name", metavar="NAME|PATH", help="shipped name, or a .safetensors file")
    show.add_argument("--json", action="store_true", help="one JSON object instead of text")
    show.set_defaults(command=_show)


def _list(arguments: argparse.Namespace) -> int:
    from streamcls.header import find_checkpoint, list_shipped, read_header

    headers = [read_header(find_checkpoint(name)) for name in list_shipped()]
    if arguments.json:
        names = ("name", "description", "labels", "licence")
        print(json.dumps([{name: getattr(h, name) for name in names} for h in headers], indent=2))
        return 0
    if not headers:
        print("no models are shipped with this copy; make one with `python -m train`")
    for header in headers:
        print(f"{header.name:<16} {len(header.labels):>4} classes   {header.description}")
    return 0


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
            return " ".join(map(str, value)) or "-"
        case float():
            return f"{value:g}"
        case _:
            return str(value)
