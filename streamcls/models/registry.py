"""Architectures by name. A checkpoint names one and carries its settings.

Adding a family: write its file, then one line in `ARCHITECTURES`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from flax import nnx

from streamcls.errors import ModelError
from streamcls.models.bc_resnet import BcResNetConfig, build_bc_resnet
from streamcls.models.classifier import Classifier
from streamcls.models.cnn_tc_resnet import CnnTcResNetConfig, build_cnn_tc_resnet
from streamcls.models.mobilenet_v1 import MobileNetV1Config, build_mobilenet_v1
from streamcls.models.tc_resnet import TcResNetConfig, build_tc_resnet


@dataclass(frozen=True, slots=True)
class Architecture:
    """A family member: its settings type, its defaults, and how to build it."""

    defaults: Any
    builder: Callable[[Any, int, int, nnx.Rngs], Classifier]


ARCHITECTURES: Mapping[str, Architecture] = {
    "bc_resnet_1": Architecture(BcResNetConfig(width=1.0), build_bc_resnet),
    "bc_resnet_2": Architecture(BcResNetConfig(width=2.0), build_bc_resnet),
    "cnn_tc_resnet_1": Architecture(CnnTcResNetConfig(), build_cnn_tc_resnet),
    "cnn_tc_resnet_2": Architecture(CnnTcResNetConfig(width=1.5), build_cnn_tc_resnet),
    "mobilenet_v1": Architecture(MobileNetV1Config(), build_mobilenet_v1),
    "tc_resnet_8": Architecture(TcResNetConfig(), build_tc_resnet),
    "tc_resnet_14": Architecture(
        TcResNetConfig(
            channels=(16, 24, 24, 32, 32, 48, 48),
            strides_frames=(2, 1, 2, 1, 1, 1),
            kernel_frames=3,
        ),
        build_tc_resnet,
    ),
}


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
