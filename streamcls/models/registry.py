"""Architectures by name. A checkpoint names one and carries its settings.

Adding a family: write its file, then one line in `ARCHITECTURES`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from flax import nnx

from streamcls.errors import ModelError
from streamcls.models.bc_resnet import BC_RESNET_SAME, BcResNetConfig, build_bc_resnet
from streamcls.models.choi_crnn import ChoiCrnnConfig, build_choi_crnn
from streamcls.models.choi_k2c2 import ChoiK2c2Config, build_choi_k2c2
from streamcls.models.classifier import Classifier
from streamcls.models.cnn_tc_resnet import CnnTcResNetConfig, build_cnn_tc_resnet
from streamcls.models.ds_cnn import DS_CNN_L, DS_CNN_M, DS_CNN_S, build_ds_cnn
from streamcls.models.mobilenet_v1 import MobileNetV1Config, build_mobilenet_v1
from streamcls.models.sb_cnn import SbCnnConfig, build_sb_cnn
from streamcls.models.simple_audio import SimpleAudioConfig, build_simple_audio
from streamcls.models.smales_cnn import SmalesCnnConfig, build_smales_cnn
from streamcls.models.tc_resnet import TcResNetConfig, build_tc_resnet


@dataclass(frozen=True, slots=True)
class Architecture:
    """A family member: its settings type, its defaults, and how to build it."""

    defaults: Any
    builder: Callable[[Any, int, int, nnx.Rngs], Classifier]


_TC_RESNET_14 = TcResNetConfig(
    channels=(16, 24, 24, 32, 32, 48, 48), strides_frames=(2, 1, 2, 1, 1, 1), kernel_frames=3
)

ARCHITECTURES: Mapping[str, Architecture] = {
    **{
        f"bc_resnet_{width}": Architecture(BcResNetConfig(width=float(width)), build_bc_resnet)
        for width in (1, 2, 3, 8)
    },
    **{
        f"bc_resnet_{width}_same": Architecture(
            replace(BC_RESNET_SAME, width=float(width)), build_bc_resnet
        )
        for width in (1, 2, 3, 8)
    },
    "choi_crnn_100k": Architecture(ChoiCrnnConfig(), build_choi_crnn),
    "choi_crnn_3m": Architecture(
        ChoiCrnnConfig(channels=(169, 339, 339, 339), recurrent=(169, 169)), build_choi_crnn
    ),
    "choi_k2c2_100k": Architecture(ChoiK2c2Config(), build_choi_k2c2),
    "choi_k2c2_3m": Architecture(
        ChoiK2c2Config(channels=(118, 236, 236, 355, 473)), build_choi_k2c2
    ),
    "cnn_tc_resnet_1": Architecture(CnnTcResNetConfig(), build_cnn_tc_resnet),
    "cnn_tc_resnet_2": Architecture(CnnTcResNetConfig(width=1.5), build_cnn_tc_resnet),
    "mobilenet_v1": Architecture(MobileNetV1Config(), build_mobilenet_v1),
    **{
        f"ds_cnn_{size}": Architecture(config, build_ds_cnn)
        for size, config in (("s", DS_CNN_S), ("m", DS_CNN_M), ("l", DS_CNN_L))
    },
    **{
        f"ds_cnn_{size}_same": Architecture(replace(config, time_padding="same"), build_ds_cnn)
        for size, config in (("s", DS_CNN_S), ("m", DS_CNN_M), ("l", DS_CNN_L))
    },
    "sb_cnn": Architecture(SbCnnConfig(), build_sb_cnn),
    "simple_audio": Architecture(SimpleAudioConfig(), build_simple_audio),
    "smales_cnn": Architecture(SmalesCnnConfig(), build_smales_cnn),
    "tc_resnet_8": Architecture(TcResNetConfig(), build_tc_resnet),
    "tc_resnet_14": Architecture(_TC_RESNET_14, build_tc_resnet),
    "tc_resnet_8_same": Architecture(
        TcResNetConfig(strides_frames=(2, 2, 2), kernel_frames=9, time_padding="same"),
        build_tc_resnet,
    ),
    "tc_resnet_14_same": Architecture(
        replace(
            _TC_RESNET_14,
            strides_frames=(2, 1, 2, 1, 2, 1),
            kernel_frames=9,
            time_padding="same",
        ),
        build_tc_resnet,
    ),
}
"""A name that ends in ``_same`` is a published network with its padding in time: windowed. The name
without it is the same network made VALID in time."""


def resolve_settings(architecture: str, overrides: Mapping[str, Any] | None = None) -> Any:
    """Return the architecture's settings dataclass with ``overrides`` applied.

    Raises:
        ModelError: Unknown architecture, unknown setting, or a value of the wrong type.
    """
    if architecture not in ARCHITECTURES:
        raise ModelError(
            f"unknown architecture {architecture!r}; known are {', '.join(sorted(ARCHITECTURES))}"
        )
    defaults = ARCHITECTURES[architecture].defaults
    merged = msgspec.to_builtins(defaults)
    unknown = sorted(set(overrides or {}) - set(merged))
    if unknown:
        raise ModelError(f"{architecture}: unknown settings {unknown}; known are {sorted(merged)}")
    try:
        return msgspec.convert({**merged, **(overrides or {})}, type(defaults))
    except msgspec.ValidationError as error:
        raise ModelError(f"{architecture}: {error}") from None


def build_model(
    architecture: str,
    overrides: Mapping[str, Any] | None,
    n_mels: int,
    n_classes: int,
    rngs: nnx.Rngs,
) -> Classifier:
    """Build a classifier with fresh weights.

    Args:
        architecture: A key of `ARCHITECTURES`.
        overrides: Settings that differ from the architecture's defaults.
        n_mels: Mel bins of the front end.
        n_classes: Number of labels.
        rngs: Source of the initial weights and of dropout.

    Raises:
        ModelError: As `resolve_settings`; or the settings do not fit together.
    """
    settings = resolve_settings(architecture, overrides)
    return ARCHITECTURES[architecture].builder(settings, n_mels, n_classes, rngs)
