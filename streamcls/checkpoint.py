"""One file per model: tensors and a header that says everything needed to serve them.

``NAME.safetensors`` holds the arrays by their path in the network plus one metadata entry,
``streamcls``, a JSON header (`Header`). Loading validates header, architecture, tensor names,
shapes, types and finiteness, and executes nothing from the file. Writing is atomic: temporary file,
fsync, rename.
"""

import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import msgspec
import numpy as np
from flax import nnx
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from streamcls.errors import CheckpointError, ModelError
from streamcls.features import FrontEnd, front_end_from_dict
from streamcls.models import Classifier, build_model
from streamcls.zoo import ZOO_DIRECTORY

SCHEMA = "streamcls-checkpoint/1"
_METADATA_KEY = "streamcls"
_MAX_FILE_BYTES = 2 << 30
_SUFFIX = ".safetensors"


class WindowGeometry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """R, S, n and W of the stored network; checked against the layers at load time."""

    receptive_frames: int
    stride_frames: int
    n_steps: int
    window_frames: int


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


@dataclass(frozen=True)
class Checkpoint:
    """A validated checkpoint: header, front end and the network with its weights (not folded)."""

    path: Path
    header: Header
    front_end: FrontEnd
    model: Classifier


def describe_window(model: Classifier) -> WindowGeometry:
    """Return the geometry of a network in the form the header stores."""
    return WindowGeometry(
        receptive_frames=model.geometry.receptive_frames,
        stride_frames=model.geometry.stride_frames,
        n_steps=model.n_steps,
        window_frames=model.window_frames,
    )


def list_shipped() -> list[str]:
    """Return the names of the checkpoints that come with streamcls, sorted."""
    return sorted(path.stem for path in ZOO_DIRECTORY.glob(f"*{_SUFFIX}"))


def find_checkpoint(name_or_path: str) -> Path:
    """Resolve a shipped model's name or a path to an existing file.

    Raises:
        CheckpointError: Neither a shipped name nor an existing file.
    """
    looks_like_path = os.sep in name_or_path or name_or_path.endswith(_SUFFIX)
    path = Path(name_or_path).expanduser()
    if not looks_like_path:
        path = ZOO_DIRECTORY / f"{name_or_path}{_SUFFIX}"
    if path.is_file():
        return path
    shipped = ", ".join(list_shipped()) or "none"
    what = f"no such file: {path}" if looks_like_path else f"unknown model {name_or_path!r}"
    raise CheckpointError(
        f"{what}; shipped models: {shipped}; or give the path of a {_SUFFIX} file"
    )


def read_header(path: Path) -> Header:
    """Read and validate the header alone (cheap: no tensor is touched).

    Raises:
        CheckpointError: Unreadable, damaged, or of another schema.
    """
    header, _ = _open(path, with_tensors=False)
    return header


def load_checkpoint(path: Path) -> Checkpoint:
    """Load and validate a checkpoint.

    Args:
        path: A file, as from `find_checkpoint`.

    Returns:
        The checkpoint; its model is in evaluation mode and holds NumPy arrays.

    Raises:
        CheckpointError: Unreadable, damaged, of another schema, or its tensors do not fit the
            architecture it names.
    """
    header, tensors = _open(path, with_tensors=True)
    try:
        front_end = front_end_from_dict(header.front_end)
        model = nnx.eval_shape(
            lambda: build_model(
                header.architecture,
                header.settings,
                front_end.n_mels,
                len(header.labels),
                nnx.Rngs(0),
            )
        )
    except (ModelError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    if header.window != describe_window(model):
        raise CheckpointError(
            f"{path}: header says {header.window}, the layers of {header.architecture} give "
            f"{describe_window(model)}; the file was made by another version, export it again"
        )
    _assign(path, model, tensors)
    model.eval()
    return Checkpoint(path, header, front_end, model)


def save_checkpoint(path: Path, model: Classifier, header: Header) -> None:
    """Write a checkpoint atomically (temporary file in the same folder, fsync, rename).

    Raises:
        CheckpointError: The header contradicts the model, or the folder is not writable.
    """
    problems = _header_problems(header)
    if header.window != describe_window(model):
        problems.append(f"window is {header.window}, the model has {describe_window(model)}")
    if problems:
        raise CheckpointError(f"{path}: {'; '.join(problems)}")
    tensors = {name: np.asarray(value) for name, value in _flat_weights(model).items()}
    data = save(tensors, metadata={_METADATA_KEY: msgspec.json.encode(header).decode()})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary = Path(file.name)
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}") from None


def _open(path: Path, with_tensors: bool) -> tuple[Header, dict[str, NDArray[Any]]]:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    if size > _MAX_FILE_BYTES:
        raise CheckpointError(f"{path} has {size} bytes, the limit is {_MAX_FILE_BYTES}")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names} if with_tensors else {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a readable checkpoint ({error}); it may be truncated: copy it again"
        ) from None
    if _METADATA_KEY not in metadata:
        raise CheckpointError(
            f"{path} is a safetensors file without a streamcls header; "
            f"make one with 'python -m train export'"
        )
    return _decode_header(path, metadata[_METADATA_KEY]), tensors


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
    problems = _header_problems(header)
    if problems:
        raise CheckpointError(f"{path}: {'; '.join(problems)}")
    return header


def _header_problems(header: Header) -> list[str]:
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
    if not (math.isfinite(header.temperature) and header.temperature > 0):
        problems.append(f"temperature is {header.temperature}, must be a positive number")
    if bad := {name: t for name, t in header.thresholds.items() if not 0 <= t <= 1}:
        problems.append(f"thresholds {bad} are outside 0..1")
    return problems


def _variables(model: Classifier) -> dict[str, nnx.Variable]:
    """Return the model's parameters and statistics by dotted path."""
    state = nnx.state(model, (nnx.Param, nnx.BatchStat))
    return {".".join(map(str, path)): variable for path, variable in nnx.to_flat_state(state)}


def _flat_weights(model: Classifier) -> Mapping[str, jax.Array]:
    return {name: variable[...] for name, variable in _variables(model).items()}


def _assign(path: Path, model: Classifier, tensors: dict[str, NDArray[Any]]) -> None:
    """Put ``tensors`` into the abstract ``model`` after checking that they fit exactly."""
    expected = _variables(model)
    missing, extra = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or extra:
        raise CheckpointError(
            f"{path} does not fit its architecture: missing {missing[:3]} ({len(missing)} in all), "
            f"unexpected {extra[:3]} ({len(extra)} in all); export it again"
        )
    for name, variable in expected.items():
        tensor = tensors[name]
        if tensor.shape != variable.shape or tensor.dtype != np.float32:
            raise CheckpointError(
                f"{path}: tensor {name} is {tensor.dtype}{list(tensor.shape)}, the architecture "
                f"needs float32{list(variable.shape)}"
            )
        if not np.isfinite(tensor).all():
            raise CheckpointError(f"{path}: tensor {name} holds NaN or infinity; train it again")
    flat = nnx.to_flat_state(nnx.state(model))
    filled = []
    for variable_path, variable in flat:
        name = ".".join(map(str, variable_path))
        if name in tensors:
            value = tensors[name]
        elif isinstance(variable, nnx.RngKey):
            value = jax.random.key(0)
        else:
            value = np.zeros(variable.shape, variable.dtype)
        filled.append((variable_path, variable.replace(value)))
    nnx.update(model, nnx.from_flat_state(filled))
