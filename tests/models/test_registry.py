"""Architectures by name: settings are checked, geometry is refused when it cannot work."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from streamcls.errors import ModelError
from streamcls.models import (
    ARCHITECTURES,
    Chain,
    Conv,
    Residual,
    build_model,
    resolve_settings,
)

PARAMETERS = {
    "bc_resnet_1": 9_516,
    "bc_resnet_2": 27_772,
    "cnn_tc_resnet_1": 119_596,
    "cnn_tc_resnet_2": 267_092,
    "mobilenet_v1": 3_207_756,
    "tc_resnet_8": 38_892,
    "tc_resnet_14": 49_548,
}


def test_every_architecture_has_its_parameter_count() -> None:
    assert set(PARAMETERS) == set(ARCHITECTURES)
    for name, expected in PARAMETERS.items():
        model = nnx.eval_shape(lambda name=name: build_model(name, None, 40, 12, nnx.Rngs(0)))
        leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
        assert sum(leaf.size for leaf in leaves) == expected, name


def test_settings_override_and_are_typed() -> None:
    assert resolve_settings("bc_resnet_1", {"width": 1.5}).width == 1.5
    with pytest.raises(ModelError, match=r"unknown settings \['widht'\]; known are .*'width'"):
        resolve_settings("bc_resnet_1", {"widht": 1.5})
    with pytest.raises(ModelError, match="bc_resnet_1: Expected `float`, got `str`"):
        resolve_settings("bc_resnet_1", {"width": "big"})
    with pytest.raises(ModelError, match=r"unknown architecture 'resnet'; known are bc_resnet_1"):
        resolve_settings("resnet")


def test_window_shorter_than_the_receptive_field_is_refused() -> None:
    with pytest.raises(ModelError, match="window of 20 frames is shorter .* of 77 frames"):
        build_model("bc_resnet_1", {"min_window_frames": 20}, 40, 12, nnx.Rngs(0))


def test_window_of_another_length_is_refused() -> None:
    model = build_model("tc_resnet_8", None, 40, 12, nnx.Rngs(0))
    with pytest.raises(ModelError, match="got 98 frames, a window of this model is 99 frames"):
        model(jnp.zeros((1, 98, 40)))


def test_residual_of_different_strides_is_refused() -> None:
    rngs = nnx.Rngs(0)
    strided = Conv(4, 4, kernel=(3, 1), strides=(2, 1), n_mels=1, rngs=rngs)
    with pytest.raises(ModelError, match="strides of 1 and 2 frames; they must be equal"):
        Residual(strided, Chain([]))
