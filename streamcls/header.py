"""What a checkpoint says about itself, readable without JAX.

The header is the metadata entry ``streamcls`` of a ``.safetensors`` file: JSON, bounded, validated
here. `checkpoint` adds the tensors.
"""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
from safetensors import SafetensorError, safe_open

from streamcls.errors import CheckpointError
from streamcls.zoo import ZOO_DIRECTORY

SCHEMA = "streamcls-checkpoint/1"
METADATA_KEY = "streamcls"
SUFFIX = ".safetensors"
_MAX_FILE_BYTES = 2 << 30
PULLABLE = ("yamnet",)
"""Models that are published elsewhere; see `streamcls.importers`."""


class WindowGeometry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """R, S, n and W of the stored network; checked against the layers at load time."""

    receptive_frames: int
    stride_frames: int
    n_steps: int
    window_frames: int
    time_valid: bool = True
    """The network can be stepped; if not, the whole window is evaluated for every prediction."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a checkpoint says about itself."""

    schema: str = SCHEMA
    name: str
    description: str
    architecture: str
    settings: dict[str, Any]
    """Overrides of the architecture's default settings."""
    front_end: dict[str, Any]
    labels: list[str]
    unknown_labels: list[str] = []
    """Labels that mean "nothing I know": background, silence, other words."""
    task: Literal["single-label", "multi-label"] = "single-label"
    window: WindowGeometry
    temperature: float = 1.0
    """Logits are divided by it before the softmax or sigmoid."""
    thresholds: dict[str, float] = {}
    """Per label: the probability from which a detection counts."""
    licence: str
    training: dict[str, Any] = {}
    """Data, groups held out, recipe, command, date."""
    metrics: dict[str, Any] = {}
    """Measured scores with the names of the sets they were measured on."""
    creator: str


def model_directory() -> Path:
    """Return where models are kept that were pulled or imported: systemd's folder or the user's.

    Raises:
        CheckpointError: This user has no home.
    """
    # systemd sets STATE_DIRECTORY; with several directories they are separated by colons.
    service = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if service:
        return Path(service) / "models"
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return _expand(base) / "streamcls" / "models"


def list_shipped() -> list[str]:
    """Return the names of the checkpoints that come with streamcls, sorted."""
    return sorted(path.stem for path in ZOO_DIRECTORY.glob(f"*{SUFFIX}"))


def list_installed() -> list[str]:
    """Return the names of the checkpoints in the model folder, sorted."""
    shipped = set(list_shipped())
    try:
        folder = model_directory()
    except CheckpointError:
        return []
    names = (path.stem for path in folder.glob(f"*{SUFFIX}"))
    return sorted(name for name in names if name not in shipped and not name.startswith("."))


def find_checkpoint(name_or_path: str) -> Path:
    """Resolve a model's name or a path to an existing file.

    A name is looked for among the shipped models, then in the model folder.

    Raises:
        CheckpointError: Neither the name of a model nor a file that is there and can be looked at.
    """
    for path in _candidates(name_or_path):
        try:
            if path.is_file():
                return path
        except OSError as error:  # a name that is too long, a folder that may not be searched
            raise CheckpointError(f"model {name_or_path[:80]!r}: {error.strerror}") from None
    names = ", ".join([*list_shipped(), *list_installed()]) or "none"
    if is_path(name_or_path):
        what = f"no such file: {_expand(name_or_path)}"
    elif name_or_path in PULLABLE:
        raise CheckpointError(
            f"model {name_or_path!r} is not here yet; fetch it with: "
            f"streamcls models pull {name_or_path}"
        )
    else:
        what = f"unknown model {name_or_path!r}"
    raise CheckpointError(f"{what}; models: {names}; or give the path of a {SUFFIX} file")


def _candidates(name_or_path: str) -> Iterator[Path]:
    if is_path(name_or_path):
        yield _expand(name_or_path)
        return
    yield ZOO_DIRECTORY / f"{name_or_path}{SUFFIX}"
    with contextlib.suppress(CheckpointError):  # who has no home has no models there
        yield model_directory() / f"{name_or_path}{SUFFIX}"


def _expand(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise CheckpointError(
            f"{path[:80]}: there is no such home; name a folder, or set XDG_DATA_HOME"
        ) from None


def is_path(name_or_path: str) -> bool:
    """Tell a path from the name of a model."""
    return os.sep in name_or_path or name_or_path.endswith(SUFFIX)


def read_header(path: Path) -> Header:
    """Read and validate the header alone (cheap: no tensor is touched).

    Raises:
        CheckpointError: Unreadable, damaged, or of another schema.
    """
    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    if size_bytes > _MAX_FILE_BYTES:
        raise CheckpointError(f"{path} has {size_bytes} bytes, the limit is {_MAX_FILE_BYTES}")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise unreadable(path, error) from None
    if METADATA_KEY not in metadata:
        raise CheckpointError(
            f"{path} is a safetensors file without a streamcls header; "
            f"make one with 'python -m train export'"
        )
    return _decode_header(path, metadata[METADATA_KEY])


def digest_checkpoint(path: Path) -> str:
    """Return the SHA-256 of a checkpoint's file, in hexadecimal digits.

    Raises:
        CheckpointError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None


def unreadable(path: Path, error: Exception) -> CheckpointError:
    """Return the error for a file that is no safetensors file or was cut off."""
    return CheckpointError(
        f"{path} is not a readable checkpoint ({error}); it may be truncated: copy it again"
    )


def _decode_header(path: Path, text: str) -> Header:
    try:
        schema = json.loads(text).get("schema")
        if schema != SCHEMA:
            raise CheckpointError(
                f"{path} has schema {schema!r}, this version reads {SCHEMA!r}; export the model "
                f"again with this version or install the one that wrote it"
            )
        header = msgspec.json.decode(text, type=Header)
    except (ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged header ({error})") from None
    problems = find_header_problems(header)
    if problems:
        raise CheckpointError(f"{path}: {'; '.join(problems)}")
    return header


def find_header_problems(header: Header) -> list[str]:
    """Return what contradicts itself in a header, one text each."""
    problems = []
    labels = set(header.labels)
    if len(header.labels) < 2 or len(labels) != len(header.labels):
        problems.append(f"labels must be at least two different names, got {header.labels}")
    if any(not label or len(label) > 128 for label in header.labels):
        problems.append("a label must have 1 to 128 characters")
    for field, names in (
        ("unknown_labels", header.unknown_labels),
        ("thresholds", header.thresholds),
    ):
        if strangers := sorted(set(names) - labels):
            problems.append(f"{field} names {strangers}, which are no labels of the model")
    for key in ("sample_rate_hz", "hop_samples", "frame_samples"):
        value = header.front_end.get(key)
        if not isinstance(value, int) or value <= 0:
            problems.append(f"front_end.{key} is {value!r}, must be a positive number")
    if not (math.isfinite(header.temperature) and header.temperature > 0):
        problems.append(f"temperature is {header.temperature}, must be a positive number")
    if bad := {name: t for name, t in header.thresholds.items() if not 0 <= t <= 1}:
        problems.append(f"thresholds {bad} are outside 0..1")
    return problems
