"""Effects on log-mel frames: other vocal tracts, hidden bands and hidden time."""

import jax
import jax.numpy as jnp

from train.augment.settings import Augment


def augment_mel(
    key: jax.Array, mel: jax.Array, centres_hz: jax.Array, settings: Augment
) -> jax.Array:
    """Warp and mask log-mel frames ``[batch, frames, n_mels]``."""
    k_warp, k_mask = jax.random.split(key)
    factor = 1.0 + settings.warp_range * jax.random.uniform(
        k_warp, (mel.shape[0],), minval=-1.0, maxval=1.0
    )
    return mask_frames_and_mels(k_mask, warp_mel_axis(mel, centres_hz, factor), settings)


def warp_mel_axis(mel: jax.Array, centres_hz: jax.Array, factor: jax.Array) -> jax.Array:
    """Stretch ``[batch, frames, n_mels]`` in frequency by ``factor`` ``[batch]``.

    References:
        Jaitly & Hinton, "Vocal Tract Length Perturbation (VTLP) improves speech recognition".
    """
    n_mels = centres_hz.shape[0]
    wanted_hz = jnp.clip(centres_hz[None] * factor[:, None], centres_hz[0], centres_hz[-1])
    # Position of each wanted frequency among the centres, as a matrix of hat functions.
    index = jax.vmap(lambda hz: jnp.interp(hz, centres_hz, jnp.arange(n_mels, dtype=mel.dtype)))
    hat = jnp.maximum(
        0.0, 1.0 - jnp.abs(index(wanted_hz)[:, None, :] - jnp.arange(n_mels)[:, None])
    )
    return jnp.einsum("bfm,bmn->bfn", mel, hat)


def mask_frames_and_mels(key: jax.Array, mel: jax.Array, settings: Augment) -> jax.Array:
    """Replace random bands and stretches of time by the example's mean (SpecAugment)."""
    n, frames, n_mels = mel.shape
    mean = mel.mean(axis=(1, 2), keepdims=True)
    hidden = jnp.zeros(mel.shape, bool)
    for i in range(settings.n_masks):
        k_band, k_time = jax.random.split(jax.random.fold_in(key, i))
        hidden |= _random_run(k_band, n, n_mels, settings.mask_mels)[:, None, :]
        hidden |= _random_run(k_time, n, frames, settings.mask_frames)[:, :, None]
    k_on = jax.random.fold_in(key, settings.n_masks)
    hidden &= jax.random.bernoulli(k_on, settings.mask_probability, (n, 1, 1))
    return jnp.where(hidden, mean, mel)


def _random_run(key: jax.Array, n: int, size: int, longest: int) -> jax.Array:
    """Return one random run of up to ``longest`` True per row, ``[n, size]``."""
    k_length, k_first = jax.random.split(key)
    length = jax.random.randint(k_length, (n, 1), 0, longest + 1)
    first = jax.random.randint(k_first, (n, 1), 0, size - length + 1)
    at = jnp.arange(size)[None]
    return (at >= first) & (at < first + length)
