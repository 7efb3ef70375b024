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

# As published where a paper or its code says so; see the modules for what is counted.
PARAMETERS = {
    "bc_resnet_1": 9_516,
    "bc_resnet_1_same": 9_516,
    "bc_resnet_2": 27_772,
    "bc_resnet_2_same": 27_772,
    "bc_resnet_3": 54_860,
    "bc_resnet_3_same": 54_860,
    "bc_resnet_8": 322_780,
    "bc_resnet_8_same": 322_780,
    "choi_crnn_100k": 97_112,
    "choi_crnn_3m": 3_026_718,
    "choi_k2c2_100k": 96_767,
    "choi_k2c2_3m": 3_044_941,
    "cnn_tc_resnet_1": 119_596,
    "cnn_tc_resnet_2": 267_092,
    "ds_cnn_l": 413_736,
    "ds_cnn_l_same": 413_736,
    "ds_cnn_m": 136_580,
    "ds_cnn_m_same": 136_580,
    "ds_cnn_s": 23_180,
    "ds_cnn_s_same": 23_180,
    "mobilenet_v1": 3_729_481,
    "sb_cnn": 241_434,
    "simple_audio": 1_625_608,
    "smales_cnn": 44_602,
    "tc_resnet_14": 49_548,
    "tc_resnet_14_same": 135_948,
    "tc_resnet_8": 38_892,
    "tc_resnet_8_same": 65_260,
}
PUBLISHED_WITH = {
    "choi": (96, 50),
    "mobilenet": (64, 521),
    "sb_cnn": (128, 10),
    "simple_audio": (129, 8),
    "smales": (128, 10),
}
"""Mels and classes by the start of a name; 40 and 12 otherwise."""


def build_abstract(name: str, settings: dict | None = None, n_mels: int = 40, n_classes: int = 12):
    """Return (model, logits of two windows) in shapes alone: nothing is computed."""

    def build():
        model = build_model(name, settings, n_mels, n_classes, nnx.Rngs(0))
        model.eval()
        return model, model(jnp.zeros((2, model.window_frames, n_mels)))

    return nnx.eval_shape(build)


def test_every_architecture_has_its_parameter_count_and_gives_logits() -> None:
    assert set(PARAMETERS) == set(ARCHITECTURES)
    for name, expected in PARAMETERS.items():
        found = [sizes for start, sizes in PUBLISHED_WITH.items() if name.startswith(start)]
        n_mels, n_classes = found[0] if found else (40, 12)
        model, logits = build_abstract(name, n_mels=n_mels, n_classes=n_classes)
        leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
        assert sum(leaf.size for leaf in leaves) == expected, name
        assert logits.shape == (2, n_classes), name
        windowed = name.endswith("_same") or name.startswith(("choi", "mobilenet", "simple"))
        assert model.time_valid is not windowed, name


def test_settings_override_and_are_typed() -> None:
    assert resolve_settings("bc_resnet_1", {"width": 1.5}).width == 1.5
    with pytest.raises(ModelError, match=r"unknown settings \['widht'\]; known are .*'width'"):
        resolve_settings("bc_resnet_1", {"widht": 1.5})
    with pytest.raises(ModelError, match="bc_resnet_1: Expected `float`, got `str`"):
        resolve_settings("bc_resnet_1", {"width": "big"})
    with pytest.raises(ModelError, match=r"unknown architecture 'resnet'; known are bc_resnet_1"):
        resolve_settings("resnet")


def test_too_few_mels_are_refused() -> None:
    with pytest.raises(ModelError, match="kernel over 5 mels does not fit the 3 that are left"):
        build_abstract("sb_cnn", n_mels=24)


def test_window_shorter_than_the_receptive_field_is_refused() -> None:
    with pytest.raises(ModelError, match="window of 20 frames is shorter .* of 77 frames"):
        build_abstract("bc_resnet_1", {"min_window_frames": 20})


def test_window_of_another_length_is_refused() -> None:
    model = nnx.eval_shape(lambda: build_model("tc_resnet_8", None, 40, 12, nnx.Rngs(0)))
    with pytest.raises(ModelError, match="got 98 frames, a window of this model is 99 frames"):
        model(jnp.zeros((1, 98, 40)))


def test_residual_of_different_strides_is_refused() -> None:
    rngs = nnx.Rngs(0)
    strided = Conv(4, 4, kernel=(3, 1), strides=(2, 1), n_mels=1, rngs=rngs)
    with pytest.raises(ModelError, match="strides of 1 and 2 frames; they must be equal"):
        Residual(strided, Chain([]))
