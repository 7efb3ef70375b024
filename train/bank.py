"""The clips of a training as device arrays, and how often each is drawn.

Between `train.data` and `train.step`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from train.augment import Bank
from train.data import Clips
from train.errors import DataError


def to_bank(clips: Clips) -> Bank:
    """Put the clips on the device.

    Raises:
        DataError: If they are more than 32-bit indices can address.
    """
    if len(clips.audio) >= 2**31:
        hours = len(clips.audio) / clips.sample_rate_hz / 3600
        raise DataError(f"{hours:.0f} h of clips exceed 2**31 samples; use fewer or a lower rate")
    # jnp.array copies: the device may otherwise alias NumPy's memory.
    return Bank(
        audio=jnp.array(clips.audio),
        start=jnp.array(clips.start, jnp.int32),
        length=jnp.array(clips.length, jnp.int32),
        active=jnp.array(clips.active, jnp.int32),
        label=jnp.array(clips.label, jnp.int32),
        targets=jnp.array(clips.targets),
        word=jnp.array(clips.word, jnp.int32),
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
