"""Clips in windows: where in its window a clip lies, how fast it passes, and what is read of it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from train.augment.settings import Augment
from train.bank import Bank


class Placement(NamedTuple):
    """Where clips lie in their windows, each ``[batch]``."""

    offset: jax.Array
    """Window position of the clip's first sample, in window samples (may be negative)."""
    speed: jax.Array
    """Clip samples per window sample within a grain: pitch."""
    tempo: jax.Array
    """How much faster than that the grains follow each other."""
    first: jax.Array
    """First clip sample that is heard."""
    last: jax.Array
    """First clip sample that is not heard any more."""


def place_at_random(
    key: jax.Array,
    length: jax.Array,
    active: jax.Array,
    window_samples: int,
    cut: jax.Array,
    settings: Augment,
) -> Placement:
    """Draw speed and position so that the active part is inside the window, or cut on purpose.

    Args:
        key: PRNG key.
        length: ``[batch]`` int, clip lengths in samples.
        active: ``[batch, 2]`` int, active span in clip samples.
        window_samples: Length of the window.
        cut: ``[batch]`` bool, which words to show less than half of.
        settings: Strengths.
    """
    keys = jax.random.split(key, 9)
    n = active.shape[0]
    trimmed = settings.trim_max * jax.random.bernoulli(keys[4], settings.trim_probability, (n,))
    head = trimmed * jax.random.uniform(keys[5], (n,))
    tail = trimmed * jax.random.uniform(keys[6], (n,), maxval=0.5)
    whole = (active[:, 1] - active[:, 0]).astype(jnp.float32)
    first = jnp.where(head > 0, active[:, 0] + head * whole, 0.0)
    last = jnp.where(tail > 0, active[:, 1] - tail * whole, length)

    factor = jax.random.uniform(keys[0], (n,), minval=-1.0, maxval=1.0)
    speed = 1.0 + settings.speed_range * factor
    share = jax.random.uniform(keys[7], (n,))
    tempo = settings.tempo_min * (settings.tempo_max / settings.tempo_min) ** share
    changed = jax.random.bernoulli(keys[8], settings.tempo_probability, (n,))
    tempo = jnp.where(changed, tempo, 1.0)
    rate = speed * tempo
    begin = jnp.maximum(active[:, 0], first) / rate
    span = jnp.minimum(active[:, 1], last) / rate - begin
    # A span longer than the window fills it: the range of onsets then turns round by itself.
    onset = (window_samples - span) * jax.random.uniform(keys[1], (n,))
    heard = span * jax.random.uniform(keys[2], (n,), minval=0.1, maxval=0.4)
    heard = jnp.minimum(heard, 0.8 * window_samples)
    at_end = jax.random.bernoulli(keys[3], 0.5, (n,))
    cut_onset = jnp.where(at_end, window_samples - heard, heard - span)
    onset = jnp.where(cut, cut_onset, onset)
    # At whole samples, an unstretched clip is read as it is, without interpolation.
    return Placement(jnp.round(onset - begin), speed, tempo, first, last)


def cut_windows(
    bank: Bank, clip: jax.Array, place: Placement, window_samples: int, grain_samples: int = 0
) -> jax.Array:
    """Read clips through their placement, zero outside the clip.

    Args:
        bank: All clips.
        clip: ``[batch]`` int, clip numbers.
        place: Their placement.
        window_samples: Length of the window.
        grain_samples: Step between the grains that change the tempo; 0 if no tempo is changed.

    Returns:
        ``[batch, window_samples]`` float32 in [-1, 1].
    """
    time = jnp.arange(window_samples, dtype=jnp.float32)[None]
    if not grain_samples:
        return _read(bank, clip, place, clip_position(place, time))
    # Overlap-add without alignment: two neighbouring grains, cross-faded. It sounds rough, but
    # 25 ms spectra hardly tell.
    speed = place.speed[:, None]
    older = jnp.floor(time / grain_samples) * grain_samples
    newer = older + grain_samples
    fade = (time - older) / grain_samples
    before = _read(bank, clip, place, clip_position(place, older) + (time - older) * speed)
    after = _read(bank, clip, place, clip_position(place, newer) + (time - newer) * speed)
    return (1 - fade) * before + fade * after


def clip_position(place: Placement, time: jax.Array) -> jax.Array:
    """Return which clip sample is heard at a window sample, ``[batch, n]`` for ``[.., n]``."""
    rate = (place.speed * place.tempo)[:, None]
    return (time - place.offset[:, None]) * rate


def _read(bank: Bank, clip: jax.Array, place: Placement, position: jax.Array) -> jax.Array:
    """Read clips at fractional positions ``[batch, n]`` (Catmull-Rom), zero outside."""
    whole = jnp.floor(position)
    t = position - whole
    whole = whole.astype(jnp.int32)
    first, last = place.first[:, None], place.last[:, None]
    start = bank.start[clip][:, None]

    def tap(shift: int) -> jax.Array:
        at = whole + shift
        inside = (at >= first) & (at < last)
        value = bank.audio[jnp.where(inside, start + at, 0)].astype(jnp.float32)
        return jnp.where(inside, value, 0.0) * (1.0 / 32768.0)

    before, here, after, beyond = tap(-1), tap(0), tap(1), tap(2)
    return here + 0.5 * t * (
        after
        - before
        + t
        * (2 * before - 5 * here + 4 * after - beyond + t * (3 * (here - after) + beyond - before))
    )


def inside_clip(place: Placement, window_samples: int) -> jax.Array:
    """Return where the window shows the clip, ``[batch, window_samples]`` float32 0 or 1."""
    position = clip_position(place, jnp.arange(window_samples, dtype=jnp.float32)[None])
    inside = (position >= place.first[:, None]) & (position < place.last[:, None])
    return inside.astype(jnp.float32)


def loop_windows(key: jax.Array, bank: Bank, clip: jax.Array, samples: int) -> jax.Array:
    """Read clips from random positions, going round at their ends: ``[batch, samples]``."""
    first = jax.random.randint(key, clip.shape, 0, bank.length[clip])
    at = (first[:, None] + jnp.arange(samples)[None]) % bank.length[clip][:, None]
    return bank.audio[bank.start[clip][:, None] + at].astype(jnp.float32) * (1.0 / 32768.0)
