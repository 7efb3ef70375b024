"""The windowed executor: features incrementally, then the whole network once per hop.

For networks that are not VALID in time (SAME padding, resizing, dense layers over the clip). It
can run any network, which is how the tests hold the two executors against each other.
"""

import jax
import jax.numpy as jnp

from streamcls.engine.executor import Executor
from streamcls.models import Classifier
from streamcls.models.layers import State


class WindowedExecutor(Executor):
    """Remembers the last window of front-end frames of each stream, oldest first."""

    _shares_products = True

    def _initial_memory(self, model: Classifier, rows: int) -> State:
        return jnp.zeros((rows, model.window_frames, self._front_end.n_mels), jnp.float32)

    def _advance(self, model: Classifier, mel: jax.Array, memory: State) -> tuple[jax.Array, State]:
        # Shifting copies some 25 kB a stream, which is nothing beside the network.
        frames = jnp.concatenate([memory, mel], axis=1)[:, -model.window_frames :]
        return model(frames), frames
