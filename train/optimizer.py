"""How gradients become updates: Muon for the kernels of convolutions, AdamW for everything else.

Between `train.recipes` and `train.step`. Muon (K. Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon) replaces the momentum of a matrix by the nearest
orthogonal one, so that rare directions are learnt as fast as common ones.
"""

from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

from train.recipes import Recipe


def make_schedule(recipe: Recipe, peak: float) -> optax.Schedule:
    """Return a rate as a function of the step: warm-up to ``peak``, then cosine decay."""
    warmup_steps = min(round(recipe.warmup_fraction * recipe.n_steps), recipe.n_steps - 1)
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup_steps, recipe.n_steps, peak * 1e-3)


def make_optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """Return the recipe's optimiser, its gradients clipped; the trunk at its own rate."""
    rate = make_schedule(recipe, recipe.learning_rate)
    if recipe.optimizer == "muon":
        inner = muon(
            make_schedule(recipe, recipe.kernel_rate),
            weight_decay=recipe.kernel_decay,
            adam_learning_rate=rate,
            adam_weight_decay=recipe.weight_decay,
            muon_weight_dimension_numbers=find_kernels,
        )
    else:
        inner = optax.adamw(rate, weight_decay=recipe.weight_decay)
    return optax.chain(
        optax.clip_by_global_norm(recipe.clip_norm),
        inner,
        optax.masked(optax.scale(recipe.trunk_rate), _mark_trunk),
    )


def find_kernels(params: Any) -> Any:
    """Return for every weight how it is read as a matrix, or None for what is none.

    A kernel ``[time, mels, in, out]`` maps all that it sees to ``out``. A depthwise one (``in`` is
    1) is a filter per channel, not a matrix.
    """

    def read(leaf: jax.Array) -> MuonDimensionNumbers | None:
        if leaf.ndim == 4 and leaf.shape[2] > 1:
            return MuonDimensionNumbers((0, 1, 2), 3)
        return None

    return jax.tree.map(read, params)


def _mark_trunk(params: Any) -> Any:
    """Return for every weight of `TrainState.params` whether it belongs to the trunk."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "['trunk']" in jax.tree_util.keystr(path), params
    )
