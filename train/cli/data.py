"""``python -m train data``: look into a folder of clips."""

import argparse
from pathlib import Path
from typing import Any

from train.cli.flags import say
from train.errors import DataError


def add_parser(commands: Any) -> None:
    """Add ``data`` to the commands."""
    data = commands.add_parser("data", help="look into a folder of clips")
    deeds = data.add_subparsers(required=True, metavar="COMMAND")
    folder = argparse.ArgumentParser(add_help=False)
    folder.add_argument("folder", type=Path, metavar="DIR", help="folder of the data set")
    folder.add_argument("--layout", help="how it is laid out (default: recognised)")
    check = deeds.add_parser(
        "check", parents=[folder], help="say what is wrong with it; status 1 if something is"
    )
    check.add_argument("--json", action="store_true", help="print everything as JSON")
    check.set_defaults(run=_data_check)
    manifest = deeds.add_parser(
        "manifest", parents=[folder], help="write its clips as manifest.csv, to edit"
    )
    manifest.add_argument("--out", type=Path, help="file to write (default: DIR/manifest.csv)")
    manifest.set_defaults(run=_data_manifest)


def _data_check(args: argparse.Namespace) -> int:
    import msgspec

    from train.data.check import check_folder, format_result

    result = check_folder(args.folder, args.layout)
    if args.json:
        say(msgspec.json.format(msgspec.json.encode(result), indent=1).decode())
    else:
        say(format_result(result))
    return 1 if result.problems else 0


def _data_manifest(args: argparse.Namespace) -> None:
    from train.data import write_manifest
    from train.data.layouts import read_folder

    listing = read_folder(args.folder, args.layout)
    out = args.folder / "manifest.csv" if args.out is None else args.out
    if out.exists():
        raise DataError(f"{out} exists; name another file with --out, or remove it")
    write_manifest(listing.rows, out)
    for note in listing.notes:
        say(f"note: {note}")
    say(f"wrote {len(listing.rows)} clips in layout {listing.layout} to {out}")
