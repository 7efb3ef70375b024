"""Compiled functions over any number of rows, in batches of one size.

Used wherever clips are judged rather than trained on: one shape means one executable.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray


def map_batches(
    function: Callable[..., jax.Array], batch_size: int, *arrays: NDArray[Any]
) -> NDArray[Any]:
    """Call a function that treats each row by itself on rows ``[n, ...]`` of some arrays.

    Args:
        function: Takes ``[batch_size, ...]`` of each array, returns ``[batch_size, ...]``.
        batch_size: Rows per call; the last call is filled with copies of the last row.
        arrays: As many rows each, at least one.

    Returns:
        ``[n, ...]``, what it returned for them.
    """
    n = len(arrays[0])
    fill = -n % batch_size
    padded = [np.pad(a, ((0, fill), *[(0, 0)] * (a.ndim - 1)), mode="edge") for a in arrays]
    parts = [
        np.asarray(function(*(jnp.array(a[i : i + batch_size]) for a in padded)))
        for i in range(0, n, batch_size)
    ]
    return np.concatenate(parts)[:n]
