"""Layers that see a window as a whole; a network with one of them is windowed."""

import jax

from streamcls.models.layers import Layer


class Whole(Layer):
    """A layer whose outputs depend on where the window begins and ends."""

    @property
    def time_valid(self) -> bool:
        """Never."""
        return False


class Resize(Whole):
    """Resample frames and mels to a fixed size, bilinear as ``tf.image.resize``.

    Args:
        frames: Frames of the output.
        n_mels: Mel bins of the output.
    """

    def __init__(self, frames: int, n_mels: int):
        self.frames = frames
        self.n_mels = n_mels

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map ``[batch, any frames, any mels, ...]`` to ``[batch, frames, n_mels, ...]``."""
        shape = (x.shape[0], self.frames, self.n_mels, *x.shape[3:])
        return jax.image.resize(x, shape, "linear", antialias=False)


class Flatten(Whole):
    """Make one vector of a window, for dense layers over all of it."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map ``[batch, frames, mels, channels]`` to ``[batch, 1, 1, all]``."""
        return x.reshape(x.shape[0], 1, 1, -1)
