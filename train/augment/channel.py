"""The way from a sound to its samples: a room and a microphone, as spectra."""

import jax
import jax.numpy as jnp

from train.augment.colour import TINY
from train.augment.settings import Augment

_N_ROOMS = 64
_N_EQ_POINTS = 6
"""One per octave, from half the sample rate downwards; constant below."""


def make_rooms(
    k_tail: jax.Array,
    k_time: jax.Array,
    window_samples: int,
    sample_rate_hz: int,
    settings: Augment,
) -> jax.Array:
    """Draw synthetic rooms, as `Palette.rooms` wants them.

    Args:
        k_tail: PRNG key of the reflections.
        k_time: PRNG key of the reverberation times.
        window_samples: Length of the windows that will be reverberated.
        sample_rate_hz: Their rate.
        settings: Has the longest reverberation time.

    Returns:
        ``[rooms, bins]`` complex.
    """
    room_samples = round(settings.reverb_max_s * sample_rate_hz)
    rt60_s = jax.random.uniform(k_time, (_N_ROOMS, 1), minval=0.05, maxval=settings.reverb_max_s)
    t_s = jnp.arange(room_samples, dtype=jnp.float32)[None] / sample_rate_hz
    # 6.9 = ln(10**3): 60 dB of decay in one RT60. The direct sound is not part of the tail.
    tail = jax.random.normal(k_tail, (_N_ROOMS, room_samples)) * jnp.exp(-6.9 * t_s / rt60_s)
    tail = tail.at[:, 0].set(0.0)
    tail *= jax.lax.rsqrt(jnp.sum(jnp.square(tail), axis=1, keepdims=True) + TINY)
    return jnp.fft.rfft(tail, n=filter_fft_samples(window_samples, sample_rate_hz, settings))


def filter_fft_samples(window_samples: int, sample_rate_hz: int, settings: Augment) -> int:
    """Return the FFT length at which a window and its reverberation do not wrap round."""
    needed = window_samples + round(settings.reverb_max_s * sample_rate_hz)
    return 2 * _fast_size(-(-needed // 2))


def _fast_size(samples: int) -> int:
    """Return the smallest product of 2, 3 and 5 that is not below ``samples``."""
    while True:
        rest = samples
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return samples
        samples += 1


def random_microphone(
    key: jax.Array, n: int, n_bins: int, sample_rate_hz: int, settings: Augment
) -> jax.Array:
    """Return random amplitude responses ``[n, n_bins]``: equaliser, slope and band edges."""
    keys = jax.random.split(key, 8)
    # Gains at points equally spaced on a logarithmic frequency axis, straight lines between.
    gains_db = settings.filter_db * jax.random.uniform(
        keys[0], (n, _N_EQ_POINTS), minval=-1.0, maxval=1.0
    )
    gains_db *= jax.random.bernoulli(keys[1], settings.filter_probability, (n, 1))
    share = jnp.arange(n_bins) / (n_bins - 1)
    octave = jnp.log2(jnp.maximum(share, 2.0**-_N_EQ_POINTS))
    at = jnp.maximum(octave + _N_EQ_POINTS - 1.0, 0.0)
    hat = jnp.maximum(0.0, 1.0 - jnp.abs(at[None] - jnp.arange(_N_EQ_POINTS)[:, None]))
    slope_db = settings.tilt_db * jax.random.uniform(keys[2], (n, 1), minval=-1.0, maxval=1.0)
    slope_db *= jax.random.bernoulli(keys[3], settings.tilt_probability, (n, 1))
    # The slope turns about two octaves below the upper end, where speech is strong.
    response = 10.0 ** ((gains_db @ hat + slope_db * (octave + 2.0)[None]) / 20.0)
    upper = jax.random.uniform(keys[4], (n, 1), minval=settings.low_pass_min, maxval=1.0)
    low_pass = 1.0 / (1.0 + (share[None] / upper) ** 10)
    response *= jnp.where(
        jax.random.bernoulli(keys[5], settings.band_probability, (n, 1)), low_pass, 1.0
    )
    lower_hz = jax.random.uniform(keys[6], (n, 1), minval=40.0, maxval=settings.high_pass_max_hz)
    ratio = share[None] * (sample_rate_hz / 2) / lower_hz
    high_pass = ratio**4 / (1.0 + ratio**4)
    return response * jnp.where(
        jax.random.bernoulli(keys[7], settings.band_probability, (n, 1)), high_pass, 1.0
    )


def filter_and_reverberate(
    key: jax.Array, audio: jax.Array, rooms: jax.Array, sample_rate_hz: int, settings: Augment
) -> jax.Array:
    """Apply a random microphone and, to some examples, a random synthetic room.

    Args:
        key: PRNG key.
        audio: ``[batch, samples]``.
        rooms: ``[rooms, bins]`` complex, see `Palette`.
        sample_rate_hz: Rate of the audio.
        settings: Strengths.
    """
    n, samples = audio.shape
    n_bins = rooms.shape[1]
    n_fft = 2 * (n_bins - 1)
    k_microphone, k_room, k_wet, k_room_on = jax.random.split(key, 4)
    response = random_microphone(k_microphone, n, n_bins, sample_rate_hz, settings)
    wet = jax.random.uniform(k_wet, (n, 1), minval=0.1, maxval=0.9)
    wet *= jax.random.bernoulli(k_room_on, settings.reverb_probability, (n, 1))
    room = rooms[jax.random.randint(k_room, (n,), 0, rooms.shape[0])]
    spectrum = jnp.fft.rfft(audio, n=n_fft) * response * (1.0 + wet * room)
    return jnp.fft.irfft(spectrum, n=n_fft)[:, :samples]
