"""Flags that several commands share, and what is made of them."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from train.errors import RecipeError

if TYPE_CHECKING:
    from streamcls.header import Header
    from train.data import Clips
    from train.runs import Plan, Workspace

_DEFAULT_DATA = "../shared/data"


def place_flags() -> argparse.ArgumentParser:
    """Return the flags that say where data and results lie."""
    places = argparse.ArgumentParser(add_help=False)
    places.add_argument(
        "--data",
        type=Path,
        help=f"folder of the data sets (default: $STREAMCLS_DATA or {_DEFAULT_DATA}); without a "
        f"recipe, the one folder of clips to train on",
    )
    places.add_argument(
        "--work", type=Path, default=Path("runs"), help="folder for caches and runs (default: runs)"
    )
    return places


def settings_flags() -> argparse.ArgumentParser:
    """Return the flags that say what is trained, and how."""
    settings = argparse.ArgumentParser(add_help=False)
    settings.add_argument(
        "recipe",
        nargs="?",
        help="name of a recipe ('recipes' lists them); none: made for the folder --data",
    )
    settings.add_argument("--layout", help="how that folder is laid out (default: recognised)")
    settings.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting"
    )
    settings.add_argument("--out", type=Path, help="folder for the results")
    settings.add_argument(
        "--from", dest="origin", metavar="MODEL",
        help="begin from the weights of this model (name or file), with its network and front end",
    )  # fmt: skip
    settings.add_argument("--freeze", action="store_true", help="with --from: train the head only")
    settings.add_argument("--no-synth", action="store_true", help="train without synthetic voices")
    return settings


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def parse_overrides(pairs: Sequence[str]) -> dict[str, str]:
    """Return setting -> text of every ``--set``."""
    overrides = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise RecipeError(f"--set {pair}: must be key=value, such as epochs=3")
        overrides[key] = value
    return overrides


def make_plan(args: argparse.Namespace, fold: int | None = None) -> "Plan":
    """Return what is asked for: a recipe by name, or the folder of ``--data`` without one."""
    from streamcls.header import digest_checkpoint, find_checkpoint, is_path
    from train.runs import Plan

    if args.freeze and args.origin is None:
        raise RecipeError("--freeze keeps the trunk of the model that --from names; name one")
    origin = args.origin
    if origin is not None and is_path(origin):
        origin = str(Path(origin).expanduser().resolve())
    if args.recipe is None and args.data is None:
        raise RecipeError(
            "name a recipe ('python -m train recipes' lists them), or a folder of clips with --data"
        )
    return Plan(
        args.recipe,
        parse_overrides(args.set),
        fold=fold,
        synthetic=not args.no_synth,
        folder=str(args.data.resolve()) if args.recipe is None else None,
        layout=args.layout,
        origin=origin,
        origin_sha256=None if origin is None else digest_checkpoint(find_checkpoint(origin)),
        freeze=args.freeze,
    )


def make_workspace(args: argparse.Namespace) -> "Workspace":
    """Return where data sets lie and caches go."""
    from train.runs import Workspace

    data = args.data or Path(os.environ.get("STREAMCLS_DATA", _DEFAULT_DATA))
    return Workspace(data, args.work)


def find_model(name: str) -> Path:
    """Return the checkpoint of a run's folder, or of a shipped name or path."""
    from streamcls.header import find_checkpoint
    from train.export import MODEL_FILE

    run = Path(name)
    return run / MODEL_FILE if run.is_dir() else find_checkpoint(name)


def load_named_clips(args: argparse.Namespace, path: Path, header: "Header") -> "Clips":
    """Load the folder of ``--clips`` with the labels and the rate of the model at ``path``."""
    from train.data import Source, load_clips

    if args.clips is None:
        raise RecipeError(
            f"{path} does not say what it held out; name a folder of clips with --clips, or "
            f"evaluate the run's folder"
        )
    source = Source(args.clips.name, str(args.clips.resolve()))
    rate_hz = header.front_end["sample_rate_hz"]
    return load_clips([source], header.labels, rate_hz, Path(), args.work, header.task)
