"""The clips of a training as device arrays, and how often each is drawn.

Between `train.data` and `train.augment`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from train.data import Clips
from train.errors import DataError


class Bank(NamedTuple):
    """The clips, as arrays on the device (see `train.data.Clips`)."""

    audio: jax.Array
    start: jax.Array
    length: jax.Array
    active: jax.Array
    label: jax.Array
    targets: jax.Array
    word: jax.Array


def to_bank(
    clips: Clips, place: Callable[[NDArray[Any]], jax.Array] = lambda array: jnp.array(array)
) -> Bank:
    """Put the clips on the device.

    Args:
        clips: What to put there.
        place: Puts one array there. It has to copy: the device may otherwise alias NumPy's memory.

    Raises:
        DataError: If they are more than 32-bit indices can address.
    """
    if len(clips.audio) >= 2**31:
        hours = len(clips.audio) / clips.sample_rate_hz / 3600
        raise DataError(f"{hours:.0f} h of clips exceed 2**31 samples; use fewer or a lower rate")
    return Bank(
        audio=place(clips.audio),
        start=place(clips.start.astype(np.int32)),
        length=place(clips.length.astype(np.int32)),
        active=place(clips.active.astype(np.int32)),
        label=place(clips.label.astype(np.int32)),
        targets=place(clips.targets),
        word=place(clips.word.astype(np.int32)),
    )


def draw_weights(clips: Clips, class_weight: dict[str, float]) -> jax.Array:
    """Return the cumulative probability of drawing each clip, ``[clips]``.

    Classes are drawn by ``class_weight`` (default 1); within a class clips by source weight. A clip
    with several labels is drawn for each of them.
    """
    own = np.array([s.weight for s in clips.sources])[clips.source]
    per_class = np.array([class_weight.get(name, 1.0) for name in clips.labels])
    share = clips.targets * own[:, None]
    probability = (share / share.sum(axis=0) * per_class).sum(axis=1)
    return jnp.array(np.cumsum(probability) / probability.sum(), jnp.float32)
