"""Normalisation during training, and the scale and shift that it becomes for inference."""

from typing import Literal

import jax
import numpy as np
from flax import nnx
from numpy.typing import NDArray

NormKind = Literal["batch", "subspectral"] | None

_MOMENTUM = 0.95
_BANDS = 5


def batch_norm_affine(norm: nnx.BatchNorm) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ``scale, shift`` that a batch norm applies with its running statistics.

    In NumPy and float64: op by op on the device every shape would be compiled at start-up.
    """
    mean, variance = np.asarray(norm.mean[...], np.float64), np.asarray(norm.var[...], np.float64)
    gamma = 1.0 if norm.scale is None else np.asarray(norm.scale[...], np.float64)
    beta = 0.0 if norm.bias is None else np.asarray(norm.bias[...], np.float64)
    scale = gamma / np.sqrt(variance + norm.epsilon)
    return scale, beta - mean * scale


class Affine(nnx.Module):
    """What a normalisation with fixed statistics is: ``x * scale + shift``."""

    def __init__(self, scale: NDArray[np.float64], shift: NDArray[np.float64]):
        self.scale = nnx.Param(scale.astype(np.float32))
        self.shift = nnx.Param(shift.astype(np.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Scale and shift; the weights are broadcast over the leading axes."""
        return x * self.scale[...] + self.shift[...]


class SubSpectralNorm(nnx.Module):
    """Batch norm with its own statistics for each of ``n_bands`` groups of neighbouring mels.

    Reference: Chang et al., "SubSpectral Normalization for neural audio data processing",
    ICASSP 2021.
    """

    def __init__(self, channels: int, n_bands: int, rngs: nnx.Rngs):
        self.n_bands = n_bands
        self.norm = nnx.BatchNorm(channels * n_bands, momentum=_MOMENTUM, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise ``[batch, frames, mels, channels]``, ``mels`` a multiple of ``n_bands``."""
        batch, frames, mels, channels = x.shape
        bands = x.reshape(batch, frames, self.n_bands, mels // self.n_bands, channels)
        bands = bands.swapaxes(2, 3).reshape(batch, frames, -1, self.n_bands * channels)
        bands = self.norm(bands).reshape(batch, frames, -1, self.n_bands, channels)
        return bands.swapaxes(2, 3).reshape(x.shape)

    def to_affine(self, n_mels: int) -> Affine:
        """Return the same function of ``[..., n_mels, channels]`` with fixed statistics."""
        scale, shift = (
            np.repeat(values.reshape(self.n_bands, -1), n_mels // self.n_bands, axis=0)
            for values in batch_norm_affine(self.norm)
        )
        return Affine(scale, shift)


def build_norm(
    kind: NormKind, channels: int, n_mels: int, rngs: nnx.Rngs
) -> nnx.BatchNorm | SubSpectralNorm | None:
    """Return a fresh normalisation of ``[batch, frames, n_mels, channels]``.

    A sub-spectral one has five bands, or one where the mels cannot be divided by five.
    """
    if kind == "subspectral":
        return SubSpectralNorm(channels, _BANDS if n_mels % _BANDS == 0 else 1, rngs=rngs)
    return nnx.BatchNorm(channels, momentum=_MOMENTUM, rngs=rngs) if kind == "batch" else None
