"""Accuracy on clips that pass through a stream, which hears each of them more than once.

Beside `train.evaluate`, which shows a model one centred window. A live stream hears a short word in
several windows, at the front as well as at the end, and the daemon smooths over them; so here the
class is the argmax of the mean probability over all windows that hold the clip's active span.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from streamcls.checkpoint import Checkpoint
from streamcls.features import log_mel
from train.batches import map_batches
from train.data import Clips

_BATCH = 64


def place_in_stream(
    clips: Clips, window_samples: int, step_samples: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Lay every clip into two windows of silence, its active span in the middle.

    Args:
        clips: The clips; what lies outside the two windows is lost.
        window_samples: Length of a window.
        step_samples: From one window to the next.

    Returns:
        (audio ``[clips, 2 * window_samples]`` float32 in [-1, 1], which windows hold the active
        span ``[clips, windows]``; if none can, the one in the middle).
    """
    samples = 2 * window_samples
    audio = np.zeros((len(clips), samples), np.float32)
    first = np.arange(0, samples - window_samples + 1, step_samples)
    holds = np.zeros((len(clips), len(first)), np.bool_)
    for row, held, start, length, (begin, end) in zip(
        audio, holds, clips.start, clips.length, clips.active, strict=True
    ):
        shift = (samples - int(begin + end)) // 2
        skipped, kept = max(0, -shift), min(int(length), samples - shift)
        row[shift + skipped : shift + kept] = clips.audio[start + skipped : start + kept] / 32768
        held[:] = (first <= shift + begin) & (first + window_samples >= shift + end)
        if not held.any():
            held[len(first) // 2] = True
    return audio, holds


class Passing:
    """A checkpoint as a function from such audio to one probability per class and clip."""

    def __init__(self, checkpoint: Checkpoint):
        graph, state = nnx.split(checkpoint.model)
        front_end = checkpoint.front_end
        temperature = checkpoint.header.temperature
        n_steps = checkpoint.model.n_steps
        self.window_samples = front_end.samples_for(checkpoint.model.window_frames)
        self.step_samples = checkpoint.model.geometry.stride_frames * front_end.hop_samples

        @jax.jit
        def run(state: Any, audio: jax.Array, holds: jax.Array) -> jax.Array:
            model = nnx.merge(graph, state)
            # The trunk hears all of it once, as in a stream; the head hears every window.
            vectors = model.trunk(log_mel(audio, front_end))[:, :, 0]
            logits = jnp.stack(
                [model.head(vectors[:, i : i + n_steps]) for i in range(holds.shape[1])], axis=1
            )
            each = jax.nn.softmax(logits / temperature) * holds[..., None]
            return each.sum(axis=1) / holds.sum(axis=1, keepdims=True)

        self._run = run
        self._state = state

    def __call__(self, audio: NDArray[np.float32], holds: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Map ``[n, samples]`` and ``[n, windows]`` to probabilities ``[n, classes]``."""
        return map_batches(partial(self._run, self._state), _BATCH, audio, holds)
