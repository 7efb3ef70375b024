"""Products in parts and in blocks are the product, and small where they are meant to be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamcls.engine.compilation import list_products
from streamcls.products import (
    MOST_INPUTS,
    is_unrolled,
    multiply,
    multiply_blocks,
    multiply_sets,
)


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def list_sizes(function, *arguments) -> list[tuple[int, int, int]]:
    """Return rows, inputs and outputs of each product; those of a batch are all of one size."""
    return list(list_products(jax.make_jaxpr(function)(*arguments).jaxpr))


@pytest.mark.parametrize("n_outputs", [12, 64, 128, 200])
@pytest.mark.parametrize("n_inputs", [5, 128, 160, 192, 257, 2000])
@pytest.mark.parametrize("shape", [(1,), (2, 3), (32,), (4, 8, 4), (300,)])
def test_a_product_in_parts_is_the_product(shape, n_inputs: int, n_outputs: int) -> None:
    x, weights = draw(*shape, n_inputs), draw(n_inputs, n_outputs)
    np.testing.assert_allclose(
        multiply(jnp.asarray(x), jnp.asarray(weights)), x @ weights, atol=1e-3
    )


def test_few_rows_are_multiplied_in_small_parts() -> None:
    for rows, outputs in ((2, 64), (32, 128), (128, 32)):
        (size,) = list_sizes(multiply, draw(rows, 192), draw(192, outputs))
        assert size == (rows, 96, outputs)
    for rows, outputs in ((33, 128), (129, 32), (2, 129)):
        (size,) = list_sizes(multiply, draw(rows, 192), draw(192, outputs))
        assert size == (rows, 192, outputs)


@pytest.mark.parametrize("n_inputs", [16, 64, 192])
def test_sets_are_multiplied_each_with_its_weights(n_inputs: int) -> None:
    x, weights = draw(3, 2, 5, n_inputs), draw(3, n_inputs, 24)
    expected = np.einsum("srci,sio->srco", x, weights)
    np.testing.assert_allclose(
        multiply_sets(jnp.asarray(x), jnp.asarray(weights)), expected, atol=1e-3
    )


@pytest.mark.parametrize(("rows", "outputs"), [(20, 20), (16, 24), (11, 36), (24, 16), (40, 12)])
def test_no_product_is_of_a_size_that_exhausts_the_compiler(rows: int, outputs: int) -> None:
    assert is_unrolled(rows, 16, outputs)
    x, weights = draw(rows, 16), draw(16, outputs)
    np.testing.assert_allclose(
        multiply(jnp.asarray(x), jnp.asarray(weights)), x @ weights, atol=1e-4
    )
    (size,) = list_sizes(multiply, x, weights)
    assert not is_unrolled(*size)


@pytest.mark.parametrize(("rows", "n_blocks"), [(128, 1), (256, 2), (1024, 8), (1152, 1), (200, 1)])
def test_blocks_are_the_product(rows: int, n_blocks: int) -> None:
    x, weights = draw(rows // 8, 8, MOST_INPUTS), draw(MOST_INPUTS, 16)
    np.testing.assert_allclose(multiply_blocks(jnp.asarray(x), weights), x @ weights, atol=1e-4)
    (size,) = list_sizes(lambda x: multiply_blocks(x, weights), x)
    assert n_blocks == 1 or size == (rows // n_blocks, MOST_INPUTS, 16)
