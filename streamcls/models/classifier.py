"""A classifier: trunk once per frame, head over the last ``n`` trunk outputs.

The window of a prediction is ``W = R + (n - 1) * S`` frames, where R and S follow from the trunk.
Evaluating the window at once and stepping through a stream give the same logits.

A trunk with a layer that is not time-valid has no such step: its answer belongs to one window of
exactly W frames. Seen from a stream that is R = W, S = 1 and n = 1.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from streamcls.errors import ModelError
from streamcls.models.geometry import Geometry
from streamcls.models.heads import Head
from streamcls.models.layers import Layer, State


class Classifier(nnx.Module):
    """Front-end frames to logits, by window or by step.

    Args:
        trunk: Layers that map ``[batch, frames, n_mels]`` to ``[batch, steps, 1, features]``.
        head: Maps ``[batch, n, features]`` to logits.
        features: Width of a trunk output.
        min_window_frames: The window is the shortest legal one that covers this; exactly this
            when the trunk is not time-valid.

    Attributes:
        geometry: R and S of the trunk, in front-end frames.
        window_frames: W.
        n_steps: The window is ``R + (n_steps - 1) * S`` frames; for a time-valid trunk the
            number of its outputs that the head sees (n).
    """

    def __init__(self, trunk: Layer, head: Head, features: int, min_window_frames: int):
        geometry = trunk.geometry if trunk.time_valid else Geometry(min_window_frames)
        if min_window_frames < geometry.receptive_frames:
            raise ModelError(
                f"window of {min_window_frames} frames is shorter than the trunk's receptive field "
                f"of {geometry.receptive_frames} frames; use a longer window"
            )
        self.geometry = geometry
        self.trunk = trunk
        self.head = head
        self.features = features
        beyond = min_window_frames - geometry.receptive_frames
        self.n_steps = 1 + -(-beyond // geometry.stride_frames)
        self.window_frames = geometry.inputs(self.n_steps)

    @property
    def time_valid(self) -> bool:
        """The network can be stepped: no layer sees where the window begins or ends."""
        return self.trunk.time_valid

    def __call__(self, mel: jax.Array) -> jax.Array:
        """Evaluate one window.

        Args:
            mel: ``[batch, window_frames, n_mels]`` float32 log-mel frames.

        Returns:
            Logits ``[batch, classes]``.
        """
        if mel.shape[1] != self.window_frames:
            raise ModelError(
                f"got {mel.shape[1]} frames, a window of this model is {self.window_frames} frames"
            )
        with jax.named_scope("trunk"):
            vectors = self.trunk(mel)[:, :, 0]
        with jax.named_scope("head"):
            return self.head(vectors)

    def logits_over_time(self, mel: jax.Array) -> jax.Array:
        """Evaluate every window of a longer signal at the trunk's stride (time-valid only).

        For training and evaluation: the windows share one pass through the trunk.

        Args:
            mel: ``[batch, frames, n_mels]`` with at least ``window_frames`` frames.

        Returns:
            Logits ``[batch, windows, classes]``; window ``i`` starts at frame ``i * S``.
        """
        vectors = self.trunk(mel)[:, :, 0]
        n_windows = vectors.shape[1] - self.n_steps + 1
        if n_windows < 1:
            raise ModelError(
                f"got {mel.shape[1]} frames, a window of this model is {self.window_frames} frames"
            )
        starts = range(n_windows)
        logits = [self.head(vectors[:, start : start + self.n_steps]) for start in starts]
        return jnp.stack(logits, axis=1)

    def initial_state(self, batch: int) -> State:
        """Return the state of ``batch`` streams that begin: trunk state and last trunk outputs."""
        vectors = jnp.zeros((batch, self.n_steps, self.features), jnp.float32)
        return self.trunk.initial_state(batch), vectors

    def step(self, mel: jax.Array, state: State) -> tuple[jax.Array, State]:
        """Advance by a hop of frames (time-valid only).

        Args:
            mel: ``[batch, hop_frames, n_mels]``, ``hop_frames`` a multiple of the stride.
            state: From `initial_state` or the previous step.

        Returns:
            ``(logits [batch, classes], next state)``. The logits are those of the whole window
            once ``window_frames`` frames of the stream have been seen.
        """
        trunk_state, vectors = state
        with jax.named_scope("trunk"):
            new, trunk_state = self.trunk.step(mel, trunk_state)
        with jax.named_scope("head"):
            vectors = jnp.concatenate([vectors, new[:, :, 0]], axis=1)[:, -self.n_steps :]
            return self.head(vectors), (trunk_state, vectors)

    def fold(self) -> None:
        """Fold normalisation into the weights; the model then serves inference only."""
        self.eval()
        self.trunk.fold()

    def prepare(self, hop_frames: int) -> None:
        """Compute once what steps of so many frames need, after `fold`; windows stay possible.

        What a step remembers may change: `initial_state` is to be called after this.
        """
        self.trunk.prepare(hop_frames)
