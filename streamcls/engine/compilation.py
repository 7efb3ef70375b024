"""How steps are compiled: options of XLA, its cache, and what it cannot compile."""

import functools
import logging
import math
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.extend.core import Jaxpr, jaxprs_in_params

from streamcls.errors import ModelError
from streamcls.products import is_unrolled

ADDRESS_SPACE_MIB = 2048
"""Least address space to compile in: the default model takes 1.6 GiB of it (and 0.3 of memory)."""
_CPU_OPTIONS: dict[str, str | bool] = {
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
    "xla_cpu_experimental_ynn_fusion_type": "",
    "xla_cpu_prefer_vector_width": "512",
}
_UNSHARED: dict[str, str | bool] = {"xla_cpu_multi_thread_eigen": False}

log = logging.getLogger(__name__)


def cache_directory() -> Path:
    """Return where compiled programs are kept: systemd's cache directory or the user's.

    Raises:
        RuntimeError: This user has no home.
    """
    # systemd sets CACHE_DIRECTORY; with several directories they are separated by colons.
    service = os.environ.get("CACHE_DIRECTORY", "").split(":")[0]
    if service:
        return Path(service) / "xla"
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "streamcls" / "xla"


def enable_compilation_cache(directory: Path | None = None) -> Path | None:
    """Make XLA keep every compiled program; return the folder, None when it is not writable.

    By default JAX keeps nothing that compiled in under a second, which is most of what we compile.
    """
    try:
        directory = directory or cache_directory()
        directory.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    if not os.access(directory, os.W_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return directory


@functools.cache
def compiler_options(share_products: bool = True) -> dict[str, str | bool]:
    """Return how XLA is to compile for the device that computes; nothing where it knows better.

    For a CPU: a schedule that one thread runs through, where the default spreads kernels of a
    microsecond over several; small matrix products by XLA's own kernels and Eigen instead of
    YNNPACK; vectors as wide as the processor has them (decision 23).

    Args:
        share_products: Several threads may work on a matrix product or convolution. For one thread
            XLA multiplies small matrices itself, where they lie (`products`); see
            `exhausts_compiler`.
    """
    if jax.device_put(np.float32(0)).device.platform != "cpu":
        return {}
    options = dict(_CPU_OPTIONS) if share_products else _CPU_OPTIONS | _UNSHARED
    if not (refusal := _refusal(options)):
        return options
    # Options come and go with XLA's versions; none of them is needed for right results.
    log.warning("compiling without some options, steps may take longer: %s", refusal)
    return {name: value for name, value in options.items() if not _refusal({name: value})}


def _refusal(options: dict[str, str | bool]) -> str:
    """Return why this XLA does not compile with ``options``; empty if it does."""
    try:
        jax.jit(lambda x: x).lower(np.float32(0)).compile(options)
    except RuntimeError as error:
        return str(error)
    return ""


def exhausts_compiler(program: Jaxpr) -> bool:
    """Tell whether a program must not be compiled with ``share_products=False``.

    `products.multiply` avoids the products that XLA unrolls; others may not.
    """
    return any(is_unrolled(*size) for size in list_products(program))


def list_products(program: Jaxpr) -> Iterator[tuple[int, int, int]]:
    """Give the rows, inputs and outputs of all matrix products, those of a batch once."""
    for equation in program.eqns:
        if equation.primitive.name == "dot_general":
            (summed, _), (in_batch, _) = equation.params["dimension_numbers"]
            operands: list[Any] = [operand.aval for operand in equation.invars]
            left, right = operands
            n_inputs = math.prod(left.shape[axis] for axis in summed)
            shared = n_inputs * math.prod(left.shape[axis] for axis in in_batch)
            yield left.size // shared, n_inputs, right.size // shared
        for inner in jaxprs_in_params(equation.params):
            yield from list_products(inner)


def check_address_space() -> None:
    """Refuse to begin where compiling is bound to fail: XLA and libzmq would abort the process.

    Raises:
        ModelError: The address space is limited to less than `ADDRESS_SPACE_MIB`.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < ADDRESS_SPACE_MIB << 20:
        raise ModelError(
            f"the address space is limited to {limit >> 20} MiB (`ulimit -v`), compiling a model "
            f"needs {ADDRESS_SPACE_MIB} MiB: raise the limit, or limit the memory really used "
            f"(MemoryMax= of the service)"
        )
