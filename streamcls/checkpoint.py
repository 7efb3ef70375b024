"""One file per model: tensors and a header that says everything needed to serve them.

``NAME.safetensors`` holds the arrays by their path in the network plus one metadata entry,
``streamcls``, a JSON header (`Header`). Loading validates header, architecture, tensor names,
shapes, types and finiteness, and executes nothing from the file. Writing is atomic: temporary file,
fsync, rename.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import msgspec
import numpy as np
from flax import nnx
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from streamcls.atomic import write_whole
from streamcls.errors import CheckpointError, ModelError
from streamcls.features import FrontEnd, front_end_from_dict
from streamcls.header import (
    METADATA_KEY,
    Header,
    WindowGeometry,
    find_checkpoint,
    find_header_problems,
    list_shipped,
    read_header,
    unreadable,
)
from streamcls.models import Classifier, build_model

__all__ = [
    "Checkpoint",
    "Header",
    "WindowGeometry",
    "describe_window",
    "find_checkpoint",
    "list_shipped",
    "load_checkpoint",
    "read_header",
    "save_checkpoint",
]

_LARGEST_WEIGHT = 1e12
"""No training comes near it; a flipped bit of an exponent makes some 1e37 of most weights."""


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
        time_valid=model.time_valid,
    )


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
    header = read_header(path)
    tensors = _read_tensors(path)
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
    """Write a checkpoint atomically.

    Raises:
        CheckpointError: The header contradicts the model, or the folder is not writable.
    """
    problems = find_header_problems(header)
    if header.window != describe_window(model):
        problems.append(f"window is {header.window}, the model has {describe_window(model)}")
    if problems:
        raise CheckpointError(f"{path}: {'; '.join(problems)}")
    tensors = {name: np.asarray(value) for name, value in _flat_weights(model).items()}
    data = save(tensors, metadata={METADATA_KEY: msgspec.json.encode(header).decode()})
    try:
        write_whole(path, data)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}") from None


def _read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise unreadable(path, error) from None
    except AttributeError as error:  # what safetensors makes of an 8-bit float
        raise CheckpointError(
            f"{path} holds a tensor of a type that NumPy has not ({error}); export it as float32"
        ) from None


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
        largest = float(np.abs(tensor).max(initial=0))  # NaN where one is
        if not np.isfinite(largest):
            raise CheckpointError(f"{path}: tensor {name} holds NaN or infinity; train it again")
        if largest > _LARGEST_WEIGHT:
            raise CheckpointError(
                f"{path}: tensor {name} holds {largest:.3g}, the limit is {_LARGEST_WEIGHT:g}: the "
                f"file is damaged; fetch or export it again"
            )
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
