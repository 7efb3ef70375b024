"""The devices of a training, in one process or in many: who holds what, and who writes.

One axis, ``data``: every device holds all weights and all clips and works on its share of the
batch. `train.step` says what is shared out; XLA adds the sums over devices.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from train.errors import RunError

T = TypeVar("T")

AXIS = "data"
SHARED_OUT = PartitionSpec(AXIS)
"""The first axis, examples, is divided among the devices."""
EVERYWHERE = PartitionSpec()

AUTO = "auto"


def join_processes(coordinator: str, processes: int | None, process: int | None) -> None:
    """Become one of several processes that train together; before anything runs on a device.

    Args:
        coordinator: ``HOST:PORT`` of process 0, or ``auto`` where the cluster tells (Slurm, Open
            MPI, Kubernetes, TPU pods).
        processes: How many there are; None where the cluster tells.
        process: Which of them this is, from 0; likewise.

    Raises:
        RunError: If the numbers are impossible or the others are not reached.
    """
    if coordinator != AUTO:
        if processes is None or process is None:
            raise RunError(
                f"--coordinator {coordinator} needs --processes N and --process I; only "
                f"'--coordinator {AUTO}' asks the cluster for them"
            )
        if not 0 <= process < processes:
            raise RunError(f"--process {process}: must be 0 to {processes - 1}")
    try:
        jax.distributed.initialize(None if coordinator == AUTO else coordinator, processes, process)
    except (RuntimeError, ValueError) as error:
        raise RunError(f"cannot join the training at {coordinator}: {error}") from error


def leads() -> bool:
    """Return whether this process is the one that writes files and reports."""
    return jax.process_index() == 0


def leader_first(act: Callable[[], T]) -> T:
    """Do the same in all processes, in the leader before the others: it fills the caches."""
    if jax.process_count() == 1:
        return act()
    result = act() if leads() else None
    multihost_utils.sync_global_devices("leader_first")
    return act() if result is None else result


def make_mesh(examples: int) -> Mesh:
    """Return all devices of all processes as one row.

    Args:
        examples: Number of examples that is shared out; the same for each device.

    Raises:
        RunError: If it cannot be divided.
    """
    devices = np.array(jax.devices())
    if examples % len(devices):
        raise RunError(
            f"{examples} examples at a time (batch_size / views / accumulate_steps) cannot be "
            f"shared by {len(devices)} devices; set batch_size to a multiple"
        )
    return Mesh(devices, (AXIS,))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Put host or device arrays, the same in every process, onto every device."""
    sharding = NamedSharding(mesh, EVERYWHERE)
    return jax.tree.map(lambda leaf: _place(np.asarray(leaf), sharding), tree)


def share_out(batch: NDArray[Any], mesh: Mesh) -> jax.Array:
    """Divide a batch, the same in every process, among the devices by its first axis."""
    return _place(batch, NamedSharding(mesh, SHARED_OUT))


def _place(array: NDArray[Any], sharding: NamedSharding) -> jax.Array:
    # A copy for each device: a CPU device may alias NumPy's memory, which the next step donates.
    return jax.make_array_from_callback(array.shape, sharding, lambda index: np.array(array[index]))
