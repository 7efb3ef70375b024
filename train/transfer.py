"""Beginning from another model: its file decides architecture, settings and front end.

Used by `train.fewshot`, and by `train.runs` for ``fit --from``. What comes out names the file that
it came from in its header (``training.from``).
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from streamcls.checkpoint import Checkpoint, find_checkpoint, load_checkpoint
from train.errors import RecipeError
from train.recipes import Recipe


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
    return Origin(load_checkpoint(path), _digest(path))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def adopt(recipe: Recipe, origin: Origin, overrides: dict[str, str]) -> Recipe:
    """Return the recipe with the architecture, the settings and the front end of the origin.

    Raises:
        RecipeError: If ``overrides`` ask for others.
    """
    for key, value in overrides.items():
        if key.split(".")[0] in ("architecture", "model", "front_end"):
            raise RecipeError(
                f"--set {key}={value}: --from {origin.name} decides the network and its front end; "
                f"leave it out, or train without --from"
            )
    checkpoint = origin.checkpoint
    return replace(
        recipe,
        architecture=checkpoint.header.architecture,
        model=checkpoint.header.settings,
        front_end=checkpoint.front_end,
        licence=f"{recipe.licence}; began from {origin.name}: {checkpoint.header.licence}",
    )
