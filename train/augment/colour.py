"""Noise of a given colour, and the power of sounds."""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

Floats = TypeVar("Floats", jax.Array, NDArray[np.float64])

TINY = 1e-12
"""Added to a power that is divided by."""


def mean_power(audio: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Return the mean square of ``[batch, samples]`` (within a mask), ``[batch, 1]``."""
    if mask is None:
        return jnp.mean(jnp.square(audio), axis=1, keepdims=True)
    n = jnp.maximum(mask.sum(axis=1, keepdims=True), 1)
    return jnp.sum(jnp.square(audio) * mask, axis=1, keepdims=True) / n


def coloured_noise(key: jax.Array, exponent: jax.Array, samples: int) -> jax.Array:
    """Return noise with power proportional to ``1/f**exponent``, unit power.

    Args:
        key: PRNG key.
        exponent: ``[batch]``: 0 white, 1 pink, 2 brown.
        samples: Length.

    Returns:
        ``[batch, samples]`` float32.
    """
    noise = tint(jax.random.normal(key, (exponent.shape[0], samples)), exponent)
    return noise * jax.lax.rsqrt(mean_power(noise) + TINY)


def tint(white: Floats, exponent: Floats) -> Floats:
    """Give white noise a power proportional to ``1/f**exponent``, of any level.

    Args:
        white: ``[batch, samples]``, of JAX or of NumPy.
        exponent: ``[batch]``, of the same.
    """
    xp, samples = white.__array_namespace__(), white.shape[1]
    spectrum = xp.fft.rfft(white)
    # Flat in the lowest 1/200 of the band: an unbounded rise would put all power into rumble.
    bins = xp.maximum(xp.arange(spectrum.shape[1], dtype=white.dtype), samples / 400)
    return xp.fft.irfft(spectrum * bins[None] ** (-exponent[:, None] / 2), n=samples)
