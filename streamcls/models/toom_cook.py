"""Some frames against some taps in fewer products than frames times taps.

Frames and taps are the coefficients of two polynomials; those of the polynomials' product are the
convolution: ``n`` frames and ``r`` taps give ``n + r - 1`` sums. So many coefficients follow from
the values at as many points, and there the product is one product: 6 instead of 12 for 4 frames and
3 taps. The values of the taps are computed once; those of the frames, and the way back to the sums,
are additions with small factors.

References: Toom, "The complexity of a scheme of functional elements realizing the multiplication of
integers", 1963; Lavin and Gray, "Fast algorithms for convolutional neural networks", arXiv
1509.09308 (the transposed algorithm: Winograd's minimal filters); Barabasz et al., "Error analysis
and improving the accuracy of Winograd convolution", arXiv 1803.10986 (the choice of points).
"""

import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from streamcls.products import multiply, multiply_sets

Array = jax.Array | NDArray[np.float64]
Factors = NDArray[np.floating]

_POINTS = (0.0, np.inf, 1.0, -1.0, 0.5, -2.0)
"""With all of them the error is five times that of plain sums; with more it grows fast."""


class FrameFilter(nnx.Module):
    """The taps of a kernel that meet the same frames of a step, every ``stride``-th.

    Args:
        phase: First of these frames.
        taps: Each ``[inputs, outputs]`` with its delay, ascending: it adds ``frame @ tap`` to the
            output so many outputs after the frame. In float64 and NumPy, or traced.
        n_frames: How many of these frames a step brings.

    Attributes:
        phase: As given.
        block: Frames that are taken together; 1 where nothing is saved.
    """

    def __init__(self, phase: int, taps: Sequence[tuple[int, Array]], n_frames: int):
        delays = [delay for delay, _ in taps]
        are_consecutive = delays == list(range(delays[0], delays[0] + len(taps)))
        self.phase = phase
        self.block = choose_block(n_frames, len(taps)) if are_consecutive else 1
        weights = _stack([tap for _, tap in taps])
        if self.block > 1:
            n_sums = self.block + len(taps) - 1
            delays = range(delays[0], delays[0] + n_sums)
            weights = _evaluate(weights, n_sums)
        self._delays = tuple(delays)
        self.weights = nnx.Param(weights.astype(np.float32))

    def __call__(
        self, x: jax.Array, to_patches: Callable[[jax.Array], jax.Array]
    ) -> Iterator[tuple[int, jax.Array]]:
        """Give what the frames add to outputs: ``(output, [batch, n_mels_out, outputs])``.

        Args:
            x: ``[batch, n_frames, n_mels, channels]``, padded.
            to_patches: Makes ``[..., n_mels_out, inputs]`` of ``[..., n_mels, channels]``.
        """
        if self.block > 1:
            yield from self._multiply_values(x, to_patches)
            return
        patches = to_patches(x)
        for delay, tap in zip(self._delays, self.weights[...], strict=True):
            products = jnp.unstack(multiply(patches, tap), axis=1)
            yield from enumerate(products, start=delay)

    def _multiply_values(
        self, x: jax.Array, to_patches: Callable[[jax.Array], jax.Array]
    ) -> Iterator[tuple[int, jax.Array]]:
        batch, n_frames, *spectrum = x.shape
        n_sums, n_blocks = len(self._delays), n_frames // self.block
        # Flat: XLA adds up frames in one piece twice as fast as mel by mel.
        frames = [
            jax.lax.slice_in_dim(x, place, None, self.block, axis=1).reshape(batch, n_blocks, -1)
            for place in range(self.block)
        ]
        values = jnp.stack(list(_weighted_sums(_values_at(n_sums, self.block), frames)))
        patches = to_patches(values.reshape(n_sums, batch, n_blocks, *spectrum))
        products = multiply_sets(patches, self.weights[...])
        to_sums = np.linalg.inv(_values_at(n_sums, n_sums))
        for index, of_block in enumerate(jnp.unstack(products, axis=2)):
            sums = _weighted_sums(to_sums, jnp.unstack(of_block))
            for delay, one in zip(self._delays, sums, strict=True):
                yield index * self.block + delay, one


def choose_block(n_frames: int, n_taps: int) -> int:
    """Return how many frames to take at once: what divides them and takes the fewest products.

    Example:
        >>> choose_block(n_frames=8, n_taps=3), choose_block(n_frames=2, n_taps=5)
        (4, 2)
    """
    most = len(_POINTS) + 1 - n_taps
    fitting = [block for block in range(2, most + 1) if n_frames % block == 0]
    return max(fitting, default=1) if n_taps > 1 else 1


def _values_at(n_points: int, n_coefficients: int) -> Factors:
    """Return ``[n_points, n_coefficients]``: what takes coefficients to values.

    The value at infinity is the highest coefficient.
    """
    powers = np.arange(n_coefficients)
    highest = (powers == n_coefficients - 1).astype(float)
    points = _POINTS[:n_points]
    return np.stack([highest if np.isinf(point) else point**powers for point in points])


def _stack(taps: Sequence[Array]) -> Array:
    """Stack in NumPy what is known: op by op JAX would compile every shape at start-up."""
    known = [tap for tap in taps if isinstance(tap, np.ndarray)]
    return np.stack(known) if known else jnp.stack(taps)


def _evaluate(taps: Array, n_points: int) -> Array:
    """Take ``[taps, inputs, outputs]`` to their values ``[n_points, inputs, outputs]``."""
    values, how = _values_at(n_points, len(taps)), "pt,tio->pio"
    if isinstance(taps, np.ndarray):
        return np.einsum(how, values, taps)
    return jnp.einsum(how, values, taps, precision=jax.lax.Precision.HIGHEST)


def _weighted_sums(factors: Factors, arrays: Sequence[jax.Array]) -> Iterator[jax.Array]:
    """Give the sum of all arrays for each row of ``factors``, without what is multiplied by 0.

    With operations of lax: each of jnp's is a program of its own, which takes time to be traced.
    """
    for row in factors.tolist():
        terms = [
            one if factor == 1 else jax.lax.mul(one, np.float32(factor))
            for factor, one in zip(row, arrays, strict=True)
            if factor
        ]
        yield functools.reduce(jax.lax.add, terms)
