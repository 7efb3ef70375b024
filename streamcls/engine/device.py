"""Which of the machine's devices computes: decided once, before anything is compiled.

All that the executors make (weights, streams' state, compiled steps) follows JAX's default device,
so no other code knows where it runs.
"""

import contextlib
import os
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Literal

import jax
import numpy as np

from streamcls.engine.allocator import keep_steps_memory
from streamcls.errors import ModelError

DeviceKind = Literal["auto", "cpu", "gpu", "tpu"]


def select_device(kind: DeviceKind, threads: int | None = None) -> str:
    """Make the first device of a kind the one that computes; return what it is, for people.

    To be called before JAX computes anything. Calls then return with the result computed: handing
    them to another thread, as JAX does, costs more than a step for one stream.

    Args:
        kind: ``auto`` takes an accelerator where JAX finds one, and the CPU otherwise.
        threads: Of a CPU that compute one step; all if None.

    Raises:
        ModelError: There is no such device, or JAX cannot use it.
    """
    if kind == "cpu":
        jax.config.update("jax_platforms", "cpu")  # does not even touch a GPU's memory
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    may_be_accelerator = kind != "cpu" and entry_points(group="jax_plugins")
    try:
        with _limit_threads(None if may_be_accelerator else threads):
            device = jax.devices(None if kind == "auto" else kind)[0]
    except RuntimeError:
        there = ", ".join(sorted({one.platform for one in jax.devices()} | {"cpu"}))
        remedy = {"gpu": "pip install 'jax[cuda13]'", "tpu": "pip install 'jax[tpu]'"}[kind]
        raise ModelError(
            f"inference.device = {kind!r}: JAX finds no such device here, only: {there}; install "
            f"the driver and JAX's support for it ({remedy}), or set inference.device = 'auto'"
        ) from None
    jax.config.update("jax_default_device", device)
    keep_steps_memory()
    return f"{device.platform} ({device.device_kind})"


@contextlib.contextmanager
def _limit_threads(threads: int | None) -> Iterator[None]:
    """Let XLA start so many threads, unless its variable says otherwise; it looks only once."""
    if threads is None or "PJRT_NPROC" in os.environ:
        yield
        return
    os.environ["PJRT_NPROC"] = str(threads)
    try:
        yield
    finally:
        del os.environ["PJRT_NPROC"]


def list_buckets(max_streams: int) -> list[int]:
    """Return for how many streams steps are compiled on the device that computes.

    On a CPU a step's time grows with its rows and more than 32 of them are hardly cheaper a row
    (``python -m benchmarks.steps``), so sizes double up to there; on one with small caches
    `Executor.tune` gives up the largest. Two streams have none of their own: what they would save
    is nothing beside the tenth of a second that it takes at every start. On an accelerator a step
    costs about the same up to hundreds of rows: few sizes, and large ones.
    """
    on_cpu = jax.device_put(np.float32(0)).device.platform == "cpu"
    sizes = (1, 4, 8, 16, 32) if on_cpu else (1, 8, 64, 512, 2048)
    smaller = (0, *sizes[:-1])
    return [size for size, before in zip(sizes, smaller, strict=True) if before < max_streams]
