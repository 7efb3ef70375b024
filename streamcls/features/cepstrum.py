"""Mel-frequency cepstral coefficients: a cosine transform of log-mel frames, frame by frame."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from streamcls.errors import ModelError


@lru_cache(maxsize=16)
def _cosines(n_mels: int, n_coefficients: int) -> NDArray[np.float32]:
    """Return the first columns of the orthonormal DCT-II, ``[n_mels, n_coefficients]``."""
    centres = (np.arange(n_mels) + 0.5) * np.pi / n_mels
    matrix = np.cos(centres[:, None] * np.arange(n_coefficients)) * np.sqrt(2 / n_mels)
    matrix[:, 0] /= np.sqrt(2)
    return matrix.astype(np.float32)


def mfcc(log_mel: jax.Array, n_coefficients: int) -> jax.Array:
    """Return the first cepstral coefficients of log-mel frames.

    Args:
        log_mel: ``[..., n_mels]`` float32, natural logarithm, as from `log_mel`.
        n_coefficients: At most ``n_mels``.

    Returns:
        ``[..., n_coefficients]`` float32. Librosa's, which start from decibels, are ``10 / ln 10``
        times as large.

    Raises:
        ModelError: More coefficients than mels.

    References:
        ``librosa.feature.mfcc(dct_type=2, norm="ortho")``, which this equals.
    """
    n_mels = log_mel.shape[-1]
    if not 1 <= n_coefficients <= n_mels:
        raise ModelError(
            f"{n_coefficients} cepstral coefficients of {n_mels} mels: must be 1 to {n_mels}"
        )
    cosines = _cosines(n_mels, n_coefficients)
    return jnp.matmul(log_mel, cosines, precision=jax.lax.Precision.HIGHEST)
