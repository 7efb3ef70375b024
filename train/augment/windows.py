"""Clip numbers become windows of audio with soft labels, through all effects in their order."""

import jax
import jax.numpy as jnp

from train.augment.channel import filter_and_reverberate
from train.augment.noise import add_at_snr, add_background, add_clicks, random_colours, random_noise
from train.augment.palette import Palette
from train.augment.placement import cut_windows, inside_clip, place_at_random
from train.augment.settings import Augment
from train.bank import Bank

_GRAIN_S = 0.02
"""Step between the grains of a changed tempo; each is twice as long."""


def make_windows(
    key: jax.Array,
    bank: Bank,
    clip: jax.Array,
    palette: Palette,
    *,
    window_samples: int,
    sample_rate_hz: int,
    n_classes: int,
    n_words: int,
    unknown: int | None,
    silence: int | None,
    settings: Augment,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Turn clip numbers into augmented windows with soft labels.

    Args:
        key: PRNG key.
        bank: All clips.
        clip: ``[batch]`` int, clip numbers.
        palette: Noise and rooms.
        window_samples: Length of the model's window.
        sample_rate_hz: The model's rate.
        n_classes: Number of classes.
        n_words: Number of different words.
        unknown: Class of cut words; None cuts none.
        silence: Class without a word, if there is one.
        settings: Strengths.

    Returns:
        ``(audio [batch, window_samples] float32 in [-1, 1], labels [batch, n_classes],
        words [batch, n_words])``; cut words have an all-zero row in ``words``.
    """
    n = clip.shape[0]
    keys = jax.random.split(key, 12)
    label = bank.label[clip]
    is_silence = jnp.zeros((n,), bool) if silence is None else label == silence
    cut_probability = 0.0 if unknown is None else settings.cut_probability
    cut = jax.random.bernoulli(keys[0], cut_probability, (n,)) & ~is_silence
    place = place_at_random(
        keys[1], bank.length[clip], bank.active[clip], window_samples, cut, settings
    )
    grain_samples = round(_GRAIN_S * sample_rate_hz) if settings.tempo_probability else 0
    audio = cut_windows(bank, clip, place, window_samples, grain_samples)
    mask = inside_clip(place, window_samples)
    audio = add_background(keys[11], audio, mask, palette.colours, settings)
    audio = add_clicks(keys[10], audio, sample_rate_hz, settings)
    audio = filter_and_reverberate(keys[2], audio, palette.rooms, sample_rate_hz, settings)

    noise = random_noise(keys[3], bank, palette, n, window_samples, settings)
    snr_db = jax.random.uniform(
        keys[4], (n,), minval=settings.snr_min_db, maxval=settings.snr_max_db
    )
    noisy = add_at_snr(audio, noise, snr_db, mask)
    level_dbfs = jax.random.uniform(
        keys[5], (n, 1), minval=settings.silence_min_dbfs, maxval=settings.silence_max_dbfs
    )
    # Babble is speech: where nothing is to be heard, noise is coloured noise only.
    calm = random_colours(keys[6], palette.colours, n, window_samples)
    calm *= 10.0 ** (level_dbfs / 20.0)
    noisy = jnp.where(is_silence[:, None], audio + calm, noisy)
    add = jax.random.bernoulli(keys[7], settings.noise_probability, (n, 1))
    audio = jnp.where(add, noisy, audio)

    labels = bank.targets[clip].astype(jnp.float32)
    if unknown is not None:
        labels = jnp.where(cut[:, None], jax.nn.one_hot(unknown, n_classes), labels)
    words = jax.nn.one_hot(bank.word[clip], n_words) * ~cut[:, None]
    k_share, k_on = jax.random.split(keys[8])
    share = jax.random.uniform(k_share, (n, 1), maxval=settings.mixup_max)
    share *= jax.random.bernoulli(k_on, settings.mixup_probability, (n, 1))
    audio = (1 - share) * audio + share * jnp.roll(audio, 1, axis=0)
    labels = (1 - share) * labels + share * jnp.roll(labels, 1, axis=0)
    words = (1 - share) * words + share * jnp.roll(words, 1, axis=0)

    gain_db = jax.random.uniform(
        keys[9], (n, 1), minval=settings.gain_min_db, maxval=settings.gain_max_db
    )
    return jnp.clip(audio * 10.0 ** (gain_db / 20.0), -1.0, 1.0), labels, words
