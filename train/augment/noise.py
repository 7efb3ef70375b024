"""Noise: what is heard beside, behind and instead of a clip."""

import jax
import jax.numpy as jnp

from train.augment.colour import TINY, mean_power
from train.augment.palette import Palette
from train.augment.placement import loop_windows
from train.augment.settings import Augment
from train.bank import Bank

_N_TALKERS = 3


def random_colours(key: jax.Array, colours: jax.Array, n: int, samples: int) -> jax.Array:
    """Cut ``n`` stretches of noise of random colour, ``[n, samples]``."""
    k_which, k_from = jax.random.split(key)
    which = jax.random.randint(k_which, (n, 1), 0, colours.shape[0])
    first = jax.random.randint(k_from, (n, 1), 0, colours.shape[1] - samples)
    return colours[which, first + jnp.arange(samples)[None]]


def add_at_snr(
    signal: jax.Array, noise: jax.Array, snr_db: jax.Array, mask: jax.Array
) -> jax.Array:
    """Add noise so that signal power (mean over ``mask``) to noise power is ``snr_db``.

    Args:
        signal: ``[batch, samples]``.
        noise: ``[batch, samples]``, any level; all zeros adds nothing.
        snr_db: ``[batch]``.
        mask: ``[batch, samples]``, where the signal is.
    """
    wanted = mean_power(signal, mask) * 10.0 ** (-snr_db[:, None] / 10.0)
    return signal + noise * jnp.sqrt(wanted / (mean_power(noise) + TINY))


def add_background(
    key: jax.Array, audio: jax.Array, mask: jax.Array, colours: jax.Array, settings: Augment
) -> jax.Array:
    """Add faint noise of random colour and level to some examples, where ``mask`` is 1."""
    n, samples = audio.shape
    k_noise, k_level, k_on = jax.random.split(key, 3)
    noise = random_colours(k_noise, colours, n, samples) * mask
    noise *= jax.random.bernoulli(k_on, settings.background_probability, (n, 1))
    level_db = jax.random.uniform(
        k_level, (n, 1), minval=settings.background_min_db, maxval=settings.background_max_db
    )
    return audio + noise * jnp.sqrt(mean_power(audio, mask) * 10.0 ** (level_db / 10.0))


def random_noise(
    key: jax.Array, bank: Bank, palette: Palette, n: int, samples: int, settings: Augment
) -> jax.Array:
    """Return unit-power noise: coloured, babble of three clips, or a noise recording.

    Args:
        key: PRNG key.
        bank: All clips.
        palette: Noise to draw from.
        n: Batch size.
        samples: Length.
        settings: Shares of the kinds.
    """
    k_colour, k_talk, k_kind, k_clip, k_at = jax.random.split(key, 5)
    noise = random_colours(k_colour, palette.colours, n, samples)
    kind = jax.random.uniform(k_kind, (n, 1))
    talkers = jax.random.randint(k_talk, (_N_TALKERS * n,), 0, bank.length.shape[0])
    babble = loop_windows(k_at, bank, talkers, samples).reshape(_N_TALKERS, n, samples)
    babble *= jax.lax.rsqrt(jnp.mean(jnp.square(babble), axis=2, keepdims=True) + 1e-8)
    noise = jnp.where(kind < settings.babble_probability, babble.sum(axis=0), noise)
    if palette.noise_clips.shape[0]:
        k_pick, k_from = jax.random.split(k_clip)
        pick = jax.random.randint(k_pick, (n,), 0, palette.noise_clips.shape[0])
        recorded = loop_windows(k_from, bank, palette.noise_clips[pick], samples)
        noise = jnp.where(kind > 1.0 - settings.noise_clip_probability, recorded, noise)
    return noise * jax.lax.rsqrt(mean_power(noise) + TINY)


def add_clicks(
    key: jax.Array, audio: jax.Array, sample_rate_hz: int, settings: Augment
) -> jax.Array:
    """Add one decaying burst of noise, 5 to 35 dB below the peak, to some examples."""
    n, samples = audio.shape
    k_on, k_at, k_length, k_level, k_noise = jax.random.split(key, 5)
    longest = round(settings.click_max_s * sample_rate_hz)
    decay_samples = jax.random.uniform(k_length, (n, 1), minval=2.0, maxval=longest / 3)
    burst = jnp.exp(-jnp.arange(longest) / decay_samples)
    burst *= jax.random.normal(k_noise, (n, longest))
    level_db = jax.random.uniform(k_level, (n, 1), minval=-35.0, maxval=-5.0)
    peak = jnp.max(jnp.abs(audio), axis=1, keepdims=True) * 10.0 ** (level_db / 20.0)
    burst *= peak * jax.random.bernoulli(k_on, settings.click_probability, (n, 1))
    first = jax.random.randint(k_at, (n, 1), 0, samples - longest)
    return audio.at[jnp.arange(n)[:, None], first + jnp.arange(longest)[None]].add(burst)
