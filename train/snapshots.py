"""The states of one training on disk, from which it is resumed after whatever ended it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from numpy.typing import NDArray

from train.errors import RunError
from train.state import TrainState

_N_KEPT = 2
"""The newest may be damaged (a full disk, a power cut): then the one before serves."""


class Snapshots:
    """The training states of one run on disk (Orbax), written while the training goes on.

    A state is stored as the bytes of all its leaves in one array, their types and shapes beside it:
    the structure belongs to the recipe, which the run folder records. (Of many damaged arrays Orbax
    reports one and leaves the others to complain on standard error.)

    Of several processes the first writes; all of them have to call.
    """

    def __init__(self, folder: Path):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=_N_KEPT, enable_async_checkpointing=True, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(folder.resolve(), options=options)

    def save(self, state: TrainState) -> None:
        """Copy the state and return; it is written in the background, the oldest removed."""
        # True copies: the next step overwrites the state in place.
        leaves = [np.array(leaf) for leaf in jax.tree.leaves(state)]
        packed = np.concatenate([leaf.reshape(-1).view(np.uint8) for leaf in leaves])
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                layout=ocp.args.JsonSave(_describe(leaves)),
                state=ocp.args.StandardSave([packed]),
            ),
        )

    def restore(self, like: TrainState, report: Callable[[str], None]) -> TrainState | None:
        """Return the newest state that can be read, as host arrays; None before the first save.

        Args:
            like: A state of the recipe.
            report: Told of damaged ones, which are removed.

        Raises:
            RunError: If it does not fit the recipe's model, or none can be read.
        """
        leaves, structure = jax.tree.flatten(like)
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                found: Any = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        layout=ocp.args.JsonRestore(), state=ocp.args.StandardRestore()
                    ),
                )
            except (ValueError, KeyError, OSError) as error:
                reason = str(error).partition("\n")[0][:100]
                report(f"the snapshot of step {step} is damaged ({reason}); trying the one before")
                continue
            if found["layout"] != _describe(leaves):
                raise RunError(
                    f"{self._manager.directory}: the saved training is of another model than the "
                    f"recipe's; choose another --out"
                )
            for damaged in steps[: steps.index(step)]:
                self._manager.delete(damaged)
            return jax.tree.unflatten(structure, _unpack(found["state"][0], leaves))
        if steps:
            raise RunError(
                f"{self._manager.directory}: no snapshot can be read; remove the folder to start "
                f"again from the first step"
            )
        return None

    def close(self) -> None:
        """Finish writing.

        Raises:
            RunError: If the last snapshot could not be written.
        """
        try:
            self._manager.wait_until_finished()
        except (ValueError, OSError) as error:
            raise RunError(f"{self._manager.directory}: cannot be written: {error}") from error
        finally:
            self._manager.close()


def _describe(leaves: Sequence[Any]) -> dict[str, Any]:
    return {"leaves": [[str(leaf.dtype), list(leaf.shape)] for leaf in leaves]}


def _unpack(packed: NDArray[np.uint8], like: Sequence[Any]) -> list[NDArray[Any]]:
    ends = np.cumsum([leaf.nbytes for leaf in like])
    parts = np.split(packed, ends[:-1])
    return [
        part.view(leaf.dtype).reshape(leaf.shape) for part, leaf in zip(parts, like, strict=True)
    ]
