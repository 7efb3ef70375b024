"""What is drawn once per training and serves all its windows: noise, rooms, noise recordings."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from train.augment.channel import make_rooms
from train.augment.colour import coloured_noise
from train.augment.settings import Augment

_N_COLOURS = 12
_COLOUR_WINDOWS = 30
"""Length of the noise of one colour, in windows."""


class Palette(NamedTuple):
    """What is mixed under and around the words; drawn once per training, see `make_palette`."""

    colours: jax.Array
    """``[colours, samples]`` noise of unit power, from white to brown."""
    rooms: jax.Array
    """``[rooms, bins]`` complex spectra of reverberation without the direct sound, unit energy."""
    noise_clips: jax.Array
    """``[m]`` int, numbers of noise recordings in the bank; may be empty."""


def make_palette(
    key: jax.Array,
    noise_clips: jax.Array,
    window_samples: int,
    sample_rate_hz: int,
    settings: Augment,
) -> Palette:
    """Draw the noise and the rooms of a training; drawing them anew each step costs too much."""
    k_noise, k_room, k_time = jax.random.split(key, 3)
    exponents = jnp.linspace(0.0, 2.2, _N_COLOURS)
    colours = coloured_noise(k_noise, exponents, _COLOUR_WINDOWS * window_samples)
    rooms = make_rooms(k_room, k_time, window_samples, sample_rate_hz, settings)
    return Palette(colours, rooms, noise_clips)
