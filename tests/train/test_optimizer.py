"""Which weights Muon trains, and what its updates are."""

from dataclasses import replace

import jax
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

from train.optimizer import find_kernels, make_optimizer
from train.recipes import Recipe
from train.state import start_state, take_apart


def flatten(tree: object) -> dict[str, object]:
    leaves = jax.tree_util.tree_leaves_with_path(
        tree, is_leaf=lambda x: x is None or isinstance(x, MuonDimensionNumbers)
    )
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def test_kernels_are_matrices_and_depthwise_ones_are_not(recipe: Recipe) -> None:
    _, params, _ = take_apart(replace(recipe, architecture="ds_cnn_s", model={}))
    shapes = {name: np.shape(leaf) for name, leaf in flatten(params).items()}  # pyright: ignore
    kernels = {name for name, found in flatten(find_kernels(params)).items() if found is not None}
    depthwise = {name for name, shape in shapes.items() if len(shape) == 4 and shape[2] == 1}
    # The first convolution sees one channel too: the mels are its second axis.
    assert depthwise
    assert kernels == {name for name, shape in shapes.items() if len(shape) == 4} - depthwise
    assert all("norm" not in name and "head" not in name for name in kernels)


def first_updates(recipe: Recipe) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """Return the updates for random gradients, and which of them are Muon's."""
    network, params, stats = take_apart(recipe)
    both = start_state(recipe, network, params, stats, 3).params
    leaves, structure = jax.tree.flatten(both)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    gradients = jax.tree.unflatten(
        structure, [jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    )
    optimizer = make_optimizer(recipe)
    updates, _ = optimizer.update(gradients, optimizer.init(both), both)
    return flatten(updates), flatten(find_kernels(both))  # pyright: ignore[reportReturnType]


def test_updates_of_kernels_are_orthogonal(recipe: Recipe) -> None:
    plain = replace(recipe, warmup_fraction=0.0, kernel_decay=0.0, optimizer="muon")
    updates, kernels = first_updates(plain)
    trained = [name for name, found in kernels.items() if found is not None]
    assert len(trained) > 5
    for name in trained:
        matrix = np.asarray(updates[name]).reshape(-1, updates[name].shape[-1])
        rows, columns = matrix.shape
        rate = plain.kernel_rate * max(1.0, columns / rows) ** 0.5
        values = np.linalg.svd(matrix, compute_uv=False) / rate
        # Five Newton-Schulz steps leave singular values of 0.7 to 1.2.
        assert values.min() > 0.5, name
        assert values.max() < 1.3, name


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_frozen_trunk_is_not_updated(optimizer: str, recipe: Recipe) -> None:
    frozen = replace(recipe, warmup_fraction=0.0, trunk_rate=0.0, optimizer=optimizer)
    updates, _ = first_updates(frozen)
    for name, update in updates.items():
        assert (float(optax.tree.norm(update)) == 0) == ("['trunk']" in name), name
