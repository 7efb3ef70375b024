"""Beginning from another model: its file decides architecture, settings and front end.

Used by `train.fewshot`, and by `train.runs` for ``fit --from``. What comes out names the file that
it came from in its header (``training.from``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from streamcls.checkpoint import Checkpoint, find_checkpoint, load_checkpoint
from streamcls.header import digest_checkpoint
from train.errors import RecipeError
from train.recipes import Recipe

_TRUNK_RATE = 0.1


@dataclass(frozen=True)
class Origin:
    """The model that another one begins from."""

    checkpoint: Checkpoint
    sha256: str
    """Of its file."""

    @property
    def name(self) -> str:
        """What it calls itself."""
        return self.checkpoint.header.name

    def lineage(self) -> dict[str, Any]:
        """Return what the header of a model that came from it says about it."""
        header = self.checkpoint.header
        return {
            "name": header.name,
            "sha256": self.sha256,
            "licence": header.licence,
            "training": header.training,
        }


def read_origin(name_or_path: str) -> Origin:
    """Read a checkpoint by name or path.

    Raises:
        CheckpointError: If there is none, or it is damaged.
    """
    path = find_checkpoint(name_or_path)
    return Origin(load_checkpoint(path), digest_checkpoint(path))


def adopt(
    recipe: Recipe, origin: Origin, overrides: Mapping[str, str], freeze: bool = False
) -> Recipe:
    """Return the recipe with the architecture, the settings and the front end of the origin.

    Args:
        recipe: What to train.
        origin: What to begin from.
        overrides: What was asked for besides, as in ``--set``; already applied.
        freeze: Leave the trunk as it is; otherwise it learns at a tenth of the head's rate.

    Raises:
        RecipeError: If ``overrides`` contradict the origin or ``freeze``.
    """
    for key, value in overrides.items():
        if key.split(".")[0] in ("architecture", "model", "front_end"):
            raise RecipeError(
                f"--set {key}={value}: --from {origin.name} decides the network and its front end; "
                f"leave it out, or train without --from"
            )
    if freeze and "trunk_rate" in overrides:
        raise RecipeError(f"--set trunk_rate={overrides['trunk_rate']}: --freeze makes it 0")
    rate = recipe.trunk_rate if "trunk_rate" in overrides else _TRUNK_RATE
    header = origin.checkpoint.header
    return replace(
        recipe,
        architecture=header.architecture,
        model=header.settings,
        front_end=origin.checkpoint.front_end,
        trunk_rate=0.0 if freeze else rate,
        licence=f"{recipe.licence}; began from {origin.name}: {header.licence}",
    )


def take_over(origin: Origin, labels: Sequence[str], fresh: Any) -> tuple[Any, Any]:
    """Return (params, stats) to begin a training with.

    All of the origin's, but for the rows of the last layer: those of labels that the origin has
    too are its own, the others are drawn anew.

    Args:
        origin: Of the architecture that ``fresh`` was built by.
        labels: Of the new model.
        fresh: Random weights of the new model.
    """
    _, params, stats, _ = nnx.split(origin.checkpoint.model, nnx.Param, nnx.BatchStat, ...)
    old, new = dict(nnx.to_flat_state(params)), dict(nnx.to_flat_state(fresh))
    theirs = origin.checkpoint.header.labels
    shared = [(i, theirs.index(label)) for i, label in enumerate(labels) if label in theirs]
    for path, variable in new.items():
        if path[:2] != ("head", "dense"):
            new[path] = old[path]
            continue
        value = np.array(variable[...])
        for mine, other in shared:
            value[..., mine] = old[path][...][..., other]
        new[path] = variable.replace(jnp.array(value))
    return nnx.from_flat_state(list(new.items())), stats
