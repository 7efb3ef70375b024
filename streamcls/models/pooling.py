"""Maximum and mean over patches of frames and mels."""

from functools import reduce
from typing import Literal

import jax
import jax.numpy as jnp

from streamcls.models.sliding import Padding, Sliding


class Pool(Sliding):
    """Maximum or mean of each patch; padding counts in neither.

    Built from shifted slices like depthwise convolutions, which fuse with what surrounds them.

    Args:
        kind: ``max`` or ``mean``.
        window: ``(frames, mels)``.
        strides: ``(frames, mels)``; the window if None.
        n_mels: Mel bins of the input; ``n_mels_out`` tells those of the output.
        channels: Channels of input and output.
        mel_padding: ``same`` or ``valid``.
        time_padding: As TensorFlow pads; ``same`` makes a network windowed.
    """

    def __init__(
        self,
        kind: Literal["max", "mean"],
        window: tuple[int, int],
        strides: tuple[int, int] | None = None,
        *,
        n_mels: int,
        channels: int,
        mel_padding: Padding = "valid",
        time_padding: Padding = "valid",
    ):
        super().__init__(window, strides or window, 1, n_mels, channels, mel_padding, time_padding)
        self.kind = kind

    def __call__(self, x: jax.Array) -> jax.Array:
        """Evaluate ``[batch, frames, n_mels, channels]``."""
        padding = self.padding_of(x.shape[1])
        padded = any(map(any, padding))
        real = jnp.ones_like(x[:1, ..., :1])
        if padded:
            outside = -jnp.inf if self.kind == "max" else 0.0
            x = jnp.pad(x, ((0, 0), *padding, (0, 0)), constant_values=outside)
        patches = [inputs for _, _, inputs in self.taps(x)]
        if self.kind == "max":
            return reduce(jnp.maximum, patches)
        total = reduce(jnp.add, patches)
        if not padded:
            return total / len(patches)
        real = jnp.pad(real, ((0, 0), *padding, (0, 0)))
        return total / sum(inputs for _, _, inputs in self.taps(real))
