"""Layers give what Flax's and TensorFlow's of the same name give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from streamcls.models import Conv, Pool
from streamcls.models.heads import AttentionHead, GruHead, MaxHead, MeanHead, StatisticsHead
from streamcls.models.whole import Resize

X = np.random.default_rng(0).normal(0, 1, (2, 11, 7, 4)).astype(np.float32)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
@pytest.mark.parametrize("kind", ["max", "mean"])
def test_pooling_equals_flax(kind, strides, padding) -> None:
    pool = Pool(
        kind, (3, 2), strides, n_mels=7, channels=4, mel_padding=padding, time_padding=padding
    )
    flax_pool = nnx.max_pool if kind == "max" else nnx.avg_pool
    more = {} if kind == "max" else {"count_include_pad": False}
    expected = flax_pool(jnp.asarray(X), (3, 2), strides, padding.upper(), **more)
    np.testing.assert_allclose(pool(jnp.asarray(X)), expected, atol=1e-6)
    assert pool.n_mels_out == expected.shape[2]


@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
@pytest.mark.parametrize("depthwise", [False, True])
def test_same_padding_equals_flax(depthwise: bool, strides) -> None:
    rngs = nnx.Rngs(0)
    conv = Conv(
        4, 4, kernel=(4, 3), strides=strides, depthwise=depthwise, n_mels=7, time_padding="same",
        norm=None, rngs=rngs,
    )  # fmt: skip
    reference = nnx.Conv(
        4, 4, (4, 3), strides, feature_group_count=4 if depthwise else 1, rngs=rngs
    )
    reference.kernel[...] = conv.kernel[...].reshape(reference.kernel.shape)
    np.testing.assert_allclose(conv(jnp.asarray(X)), reference(jnp.asarray(X)), atol=1e-5)
    assert not conv.time_valid


@pytest.mark.parametrize("channels", [4, 128])
@pytest.mark.parametrize("n_mels", [1, 2, 7])
@pytest.mark.parametrize(
    ("kernel", "strides"), [((3, 3), (1, 1)), ((3, 3), (2, 2)), ((1, 5), (1, 3)), ((4, 7), (2, 1))]
)
def test_depthwise_equals_flax_whatever_is_padded(kernel, strides, n_mels, channels) -> None:
    rngs = nnx.Rngs(0)
    conv = Conv(
        channels, channels, kernel=kernel, strides=strides, depthwise=True, n_mels=n_mels,
        time_padding="same", norm=None, rngs=rngs,
    )  # fmt: skip
    reference = nnx.Conv(
        channels, channels, kernel, strides, feature_group_count=channels, rngs=rngs
    )
    reference.kernel[...] = conv.kernel[...].reshape(reference.kernel.shape)
    x = jnp.asarray(np.resize(X, (2, 11, n_mels, channels)))
    ours, theirs = nnx.jit(lambda one, other, x: (one(x), other(x)))(conv, reference, x)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(("kernel", "strides"), [((3, 3), (1, 2)), ((5, 5), (2, 2))])
def test_gradients_of_one_channel_equal_flax(kernel, strides) -> None:
    rngs = nnx.Rngs(0)
    conv = Conv(
        1, 4, kernel=kernel, strides=strides, n_mels=7, mel_padding="valid", norm=None, rngs=rngs
    )
    reference = nnx.Conv(1, 4, kernel, strides, padding="VALID", rngs=rngs)
    reference.kernel[...] = conv.kernel[...]

    def loss(layer: nnx.Module, x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(layer(x)))

    x = jnp.asarray(X[..., :1])
    ours, theirs = (nnx.grad(loss, argnums=(0, 1))(layer, x) for layer in (conv, reference))
    np.testing.assert_allclose(ours[0].kernel[...], theirs[0].kernel[...], atol=1e-4)
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-5)


def test_resize_equals_tensorflow() -> None:
    # tf.image.resize of np.arange(12).reshape(1, 4, 3, 1) to (3, 2), bilinear, computed once.
    x = jnp.arange(12.0).reshape(1, 4, 3)
    expected = [[0.75, 2.25], [4.75, 6.25], [8.75, 10.25]]
    np.testing.assert_allclose(Resize(3, 2)(x)[0], expected, atol=1e-6)


def test_heads_pool_what_they_say() -> None:
    rngs, vectors = nnx.Rngs(0), jnp.asarray(X[:, :, 0])
    np.testing.assert_allclose(MeanHead(4, 3, 0, rngs).pool(vectors), X[:, :, 0].mean(1), atol=1e-6)
    np.testing.assert_allclose(MaxHead(4, 3, 0, rngs).pool(vectors), X[:, :, 0].max(1))
    both = np.concatenate([X[:, :, 0].mean(1), X[:, :, 0].std(1)], axis=1)
    np.testing.assert_allclose(StatisticsHead(4, 3, 0, rngs).pool(vectors), both, atol=1e-4)
    attention = AttentionHead(4, 3, 0, rngs, n_heads=2)
    scores = np.exp(np.asarray(attention.score(vectors)))
    weights = np.repeat(scores / scores.sum(axis=1, keepdims=True), 2, axis=2)
    expected = (weights * X[:, :, 0]).sum(axis=1)
    np.testing.assert_allclose(attention.pool(vectors), expected, atol=1e-5)
    gru = GruHead(4, 3, 0, rngs, widths=(5, 6))
    lower, upper = jnp.zeros((2, 5)), jnp.zeros((2, 6))
    for t in range(vectors.shape[1]):
        lower, _ = gru.cells[0](lower, vectors[:, t])
        upper, _ = gru.cells[1](upper, lower)
    np.testing.assert_allclose(gru.pool(vectors), upper, atol=1e-5)
