"""Matrix products in sizes that XLA's CPU backend multiplies where they lie.

XLA hands a product to Eigen, which first copies both matrices into its own order; for few rows that
takes longer than to multiply. Small products XLA multiplies itself, without a copy and as fast as
large ones: up to `MOST_INPUTS` inputs and either 32 rows and 128 outputs or 128 rows and 32 outputs
(``CanEmitTiledLlvmIrGemm`` in ``xla/service/cpu/dot_op_emitter.cc``; where one thread computes, so
with ``compiler_options(share_products=False)``). So a product of few rows is done in parts, as a
batch of small products that are added up. Other devices get the same for few rows, where they wait
for their memory anyway.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

MOST_INPUTS = 128
_MOST_PARTS = 8
_MOST_BLOCKS = 8
_UNROLLED_ROWS, _UNROLLED_INPUTS, _UNROLLED_OPERATIONS = 21, 17, 170
_FEWEST_OUTPUTS = 32


def most_rows(n_outputs: int) -> int:
    """Return how many rows a product of so many outputs may have to count as small."""
    return 128 if n_outputs <= 32 else 32 if n_outputs <= 128 else 0


def is_unrolled(rows: int, inputs: int, outputs: int) -> bool:
    """Tell whether LLVM does not come to its end with a product that XLA multiplies itself.

    XLA goes by blocks of 11 rows and 9 inputs and 16, 8 or 4 outputs. Where there is but one whole
    block each way and a rest, all becomes one piece of code, and from some 540 operations in a
    piece LLVM 22 takes memory without end for vectors of 512 bits. Found with 20 rows, 16 inputs
    and 20 outputs, which `bc_resnet_1` has; in 900 products of other sizes it came to its end.
    """
    return any(
        rows <= _UNROLLED_ROWS
        and inputs <= _UNROLLED_INPUTS
        and rows * inputs > _UNROLLED_OPERATIONS
        and outputs % 16
        for rows, outputs in ((rows, outputs), (outputs, rows))
    )


def multiply(x: jax.Array, weights: jax.Array) -> jax.Array:
    """Return ``x @ weights``, where the rows are few in parts that XLA multiplies at once.

    Args:
        x: ``[..., inputs]``; the rows are all axes but the last.
        weights: ``[inputs, outputs]``.
    """
    return multiply_sets(x[None], weights[None])[0]


def multiply_sets(x: jax.Array, weights: jax.Array) -> jax.Array:
    """Return ``x[i] @ weights[i]`` for all i, where the rows are few in parts as `multiply` does.

    Args:
        x: ``[sets, ..., inputs]``; the rows of a set are all axes between.
        weights: ``[sets, inputs, outputs]``.
    """
    n_rows, (n_sets, n_inputs, n_outputs) = math.prod(x.shape[1:-1]), weights.shape
    if is_unrolled(n_rows, n_inputs, n_outputs):
        more = max(_FEWEST_OUTPUTS, -(-n_outputs // 16) * 16) - n_outputs
        padded = jnp.pad(weights, ((0, 0), (0, 0), (0, more)))
        return multiply_sets(x, padded)[..., :n_outputs]
    fewest = -(-n_inputs // MOST_INPUTS)
    divisors = (n for n in range(fewest, _MOST_PARTS + 1) if n_inputs % n == 0)
    n_parts = next(divisors, 1) if n_rows <= most_rows(n_outputs) else 1
    if n_parts == 1:
        products = jnp.matmul(x.reshape(n_sets, n_rows, n_inputs), weights)
    else:
        parts = x.reshape(n_sets, n_rows, n_parts, -1)
        weights = weights.reshape(n_sets, n_parts, -1, n_outputs)
        products = jnp.einsum("srpi,spio->spro", parts, weights).sum(axis=1)
    return products.reshape(*x.shape[:-1], n_outputs)


def multiply_blocks(x: jax.Array, weights: NDArray[np.float32]) -> jax.Array:
    """Return ``x @ weights`` in full precision, block by block where the rows are too many at once.

    Each block needs weights of its own, so they have to be constant and are best few.

    Args:
        x: ``[..., inputs]``; the rows are all axes but the last.
        weights: ``[inputs, outputs]``, known when compiling.
    """
    n_rows, (n_inputs, n_outputs) = math.prod(x.shape[:-1]), weights.shape
    few = most_rows(n_outputs) if n_inputs <= MOST_INPUTS else 0
    n_blocks = n_rows // few if few and n_rows % few == 0 else 1
    if not 1 < n_blocks <= _MOST_BLOCKS:
        return jnp.matmul(x, weights, precision=jax.lax.Precision.HIGHEST)
    blocks = x.reshape(n_blocks, few, n_inputs)
    of_each = np.repeat(weights[None], n_blocks, axis=0)
    products = jnp.matmul(blocks, of_each, precision=jax.lax.Precision.HIGHEST)
    return products.reshape(*x.shape[:-1], n_outputs)
