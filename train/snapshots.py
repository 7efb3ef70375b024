"""The states of one training on disk, from which it is resumed after whatever ended it."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from train.errors import RunError
from train.state import TrainState


class Snapshots:
    """The training states of one run on disk (Orbax); the newest complete one is resumed.

    States are stored as a list of leaves: the structure belongs to the recipe, which the run
    folder records beside them.
    """

    def __init__(self, folder: Path):
        options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(folder.resolve(), options=options)

    def save(self, state: TrainState) -> None:
        """Write the state; older ones are removed once it is complete."""
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
        self._manager.save(int(state.step), args=ocp.args.StandardSave(leaves))

    def restore(self, like: TrainState) -> TrainState | None:
        """Return the newest state, or None before the first save.

        Raises:
            RunError: If it does not fit the recipe's model.
        """
        newest = self._manager.latest_step()
        if newest is None:
            return None
        leaves, structure = jax.tree.flatten(like)
        wanted = [np.asarray(leaf) for leaf in leaves]
        try:
            found: Any = self._manager.restore(newest, args=ocp.args.StandardRestore(wanted))
        except (ValueError, KeyError):
            found = []
        # Orbax fills a template of other shapes without a word, so the shapes are compared here.
        if [np.shape(leaf) for leaf in found] != [leaf.shape for leaf in wanted]:
            raise RunError(
                f"{self._manager.directory}: the saved training is of another model than the "
                f"recipe's; choose another --out"
            )
        return jax.tree.unflatten(structure, [jnp.array(leaf) for leaf in found])

    def close(self) -> None:
        """Finish writing."""
        self._manager.close()
