"""What a training carries from step to step, and how it begins.

Made from a recipe before `train.loop` starts; `train.step` changes it, `train.snapshots` keeps it.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from streamcls.features import FrontEnd
from streamcls.models import Classifier, build_model
from train.optimizer import make_optimizer
from train.recipes import Recipe


class WordHead(NamedTuple):
    """A second dense layer on the pooled trunk outputs, for training only.

    It names every word that is said, also those the model calls unknown: the trunk then learns
    from all speakers how words differ, which a few digit speakers alone do not teach.
    """

    kernel: jax.Array
    bias: jax.Array

    def __call__(self, pooled: jax.Array) -> jax.Array:
        """Map ``[batch, features]`` to logits ``[batch, words]``."""
        return pooled @ self.kernel + self.bias


class TrainState(NamedTuple):
    """Everything that a training carries from step to step, as plain arrays."""

    step: jax.Array
    loss_sum: jax.Array
    """Of the epoch so far."""
    params: Any
    """(model weights, `WordHead`)."""
    stats: Any
    """Running statistics of the batch norms."""
    optimizer: Any
    average: Any
    """Exponential moving average of (params, stats): the weights that are used."""
    best: Any
    """The average at the best validation so far."""
    best_accuracy: jax.Array


@dataclass(frozen=True)
class Network:
    """A model taken apart for plain ``jit``: structure and rest (dropout keys) are static."""

    graph: Any
    rest: Any
    window_samples: int
    features: int
    """Width of a trunk output."""
    front_end: FrontEnd

    def join(self, params: Any, stats: Any) -> Classifier:
        """Put the model together from weights and statistics."""
        # A copy: the variables of ``rest`` are set anew inside a trace.
        return nnx.merge(self.graph, params, stats, self.rest, copy=True)


def take_apart(recipe: Recipe) -> tuple[Network, Any, Any]:
    """Build the recipe's model; return (network, initial params, initial stats)."""
    model = build_model(
        recipe.architecture,
        recipe.model,
        recipe.front_end.n_mels,
        len(recipe.labels),
        nnx.Rngs(recipe.seed),
    )
    graph, params, stats, rest = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    window_samples = recipe.front_end.samples_for(model.window_frames)
    network = Network(graph, rest, window_samples, model.features, recipe.front_end)
    return network, params, stats


def start_state(
    recipe: Recipe, network: Network, params: Any, stats: Any, n_words: int
) -> TrainState:
    """Return the state before the first step."""

    def copy(tree: Any) -> Any:
        return jax.tree.map(jnp.array, tree)

    kernel = jax.random.normal(jax.random.key(recipe.seed), (network.features, n_words))
    word_head = WordHead(kernel * network.features**-0.5, jnp.zeros((n_words,)))
    both = (copy(params), word_head)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        loss_sum=jnp.zeros(()),
        params=both,
        stats=copy(stats),
        optimizer=make_optimizer(recipe).init(both),
        average=(copy(params), copy(stats)),
        best=(copy(params), copy(stats)),
        best_accuracy=jnp.full((), -1.0),
    )
