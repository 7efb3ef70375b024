"""What a layer is, and the layers that need no kernel.

A network is written once, as layers. Every layer has two faces that compute the same function:

* ``layer(x)`` maps a window ``[batch, frames, mels, channels]`` to all its outputs at once;
* ``layer.step(x, state)`` maps the next ``stride * k`` frames to the ``k`` outputs they complete,
  given the frames it remembers, and returns what to remember next.

The state is an explicit pytree ``[batch, ...]``: who holds it (a slot on the device) is the
engine's business. Layers that see the edges of a window (`whole`, or padding in time) have the
first face only.

Reference: Rybakov et al., "Streaming keyword spotting on mobile devices", arXiv 2005.06720
(external-state streaming).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from streamcls.features import mfcc
from streamcls.models.geometry import Geometry
from streamcls.models.norms import Affine, batch_norm_affine

State = Any
"""Pytree of arrays whose first axis is the batch (one row per stream)."""

_FOLLOWS_INPUT = Geometry()


class Layer(nnx.Module):
    """A layer without memory; subclasses override what differs."""

    @property
    def time_valid(self) -> bool:
        """An output depends on the frames of its receptive field alone, not on the window's edges.

        A layer that is not time-valid has neither a receptive field nor a `step`: a network with
        such a layer is evaluated over whole windows.
        """
        return True

    @property
    def geometry(self) -> Geometry:
        """Receptive field and stride in frames of this layer's input."""
        return _FOLLOWS_INPUT

    def __call__(self, x: jax.Array) -> jax.Array:
        """Evaluate a window: ``[batch, frames, mels, channels]`` to the layer's outputs."""
        raise NotImplementedError

    def initial_state(self, batch: int) -> State:
        """Return the memory of a stream that begins (zeros stand for the frames before it)."""
        del batch
        return ()

    def step(self, x: jax.Array, state: State) -> tuple[jax.Array, State]:
        """Evaluate the next frames: ``(outputs, next state)``."""
        return self(x), state

    def fold(self) -> None:
        """Replace training-time normalisation by equivalent weights (inference only)."""

    def prepare(self, n_frames: int) -> None:
        """Compute once what steps of so many frames need, after `fold`."""


class MelNorm(Layer):
    """Batch norm per mel bin on the raw log-mel frames; adds the channel axis."""

    def __init__(self, n_mels: int, rngs: nnx.Rngs):
        self.norm = nnx.data(nnx.BatchNorm(n_mels, momentum=0.95, rngs=rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map ``[batch, frames, n_mels]`` to ``[batch, frames, n_mels, 1]``."""
        return self.norm(x)[..., None]

    def fold(self) -> None:
        """Make the norm scale and shift."""
        if isinstance(self.norm, nnx.BatchNorm):
            self.norm = nnx.data(Affine(*batch_norm_affine(self.norm)))


class Standardise(Layer):
    """Subtract one mean and divide by one deviation for all mels; adds the channel axis.

    Both are running statistics of the training data, not learned.
    """

    def __init__(self, rngs: nnx.Rngs):
        norm = nnx.BatchNorm(1, momentum=0.99, use_scale=False, use_bias=False, rngs=rngs)
        self.norm = nnx.data(norm)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map ``[batch, frames, n_mels]`` to ``[batch, frames, n_mels, 1]``."""
        return self.norm(x[..., None])

    def fold(self) -> None:
        """Make the norm scale and shift."""
        if isinstance(self.norm, nnx.BatchNorm):
            self.norm = nnx.data(Affine(*batch_norm_affine(self.norm)))


class Cepstrum(Layer):
    """Log-mel frames to their first cepstral coefficients (MFCC), which take the mels' place."""

    def __init__(self, n_mels: int, n_coefficients: int):
        self.n_mels = n_mels
        self.n_coefficients = n_coefficients

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map ``[batch, frames, n_mels]`` to ``[batch, frames, n_coefficients]``."""
        return mfcc(x, self.n_coefficients)


class Delay(Layer):
    """Shift by ``frames``: lines a shortcut up with the centre of a convolution."""

    def __init__(self, frames: int, n_mels: int, channels: int):
        self.frames = frames
        self.n_mels = n_mels
        self.channels = channels

    @property
    def geometry(self) -> Geometry:
        """A delay depends on one frame but has to have seen all up to now."""
        return Geometry(1 + self.frames, 1)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Drop the newest ``frames`` frames."""
        return x[:, : x.shape[1] - self.frames]

    def initial_state(self, batch: int) -> State:
        """Return zeros ``[batch, frames, n_mels, channels]``."""
        return jnp.zeros((batch, self.frames, self.n_mels, self.channels), jnp.float32)

    def step(self, x: jax.Array, state: State) -> tuple[jax.Array, State]:
        """Return the input of ``frames`` frames ago."""
        joined = jnp.concatenate([state, x], axis=1)
        return joined[:, : x.shape[1]], joined[:, x.shape[1] :]


class MelMean(Layer):
    """Mean over the mel axis, which is kept with length one."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map ``[batch, frames, mels, channels]`` to ``[batch, frames, 1, channels]``."""
        mels = jnp.split(x, x.shape[2], axis=2)  # added up vector by vector: XLA goes one by one
        return functools.reduce(jax.lax.add, mels) / len(mels)


class MelsToChannels(Layer):
    """Move the mel axis into the channels: time-only convolutions see the whole spectrum."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map ``[batch, frames, mels, channels]`` to ``[batch, frames, 1, mels * channels]``."""
        return x.reshape(*x.shape[:2], 1, -1)


class Dropout(Layer):
    """Channel dropout: a channel is dropped for the whole window."""

    def __init__(self, rate: float, rngs: nnx.Rngs):
        self.dropout = nnx.Dropout(rate, broadcast_dims=(1, 2), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply dropout in training mode, nothing otherwise."""
        return self.dropout(x)
