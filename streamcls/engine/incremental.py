"""The incremental executor: every layer computes only the outputs that a hop completes.

For networks whose trunk is VALID in time; equal to the windowed executor, several times cheaper.
"""

import jax

from streamcls.engine.executor import Executor
from streamcls.models import Classifier
from streamcls.models.layers import State


class IncrementalExecutor(Executor):
    """Remembers of each stream what the network's layers remember."""

    _shares_products = False

    def _prepare(self, model: Classifier) -> None:
        super()._prepare(model)
        model.prepare(self.hop_samples // self._front_end.hop_samples)

    def _initial_memory(self, model: Classifier, rows: int) -> State:
        return model.initial_state(rows)

    def _advance(self, model: Classifier, mel: jax.Array, memory: State) -> tuple[jax.Array, State]:
        return model.step(mel, memory)
