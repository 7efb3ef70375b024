"""DS-CNN: a convolution and four or five depthwise separable ones, for keyword spotting.

The original pads in time (``time_padding = "same"``, windowed). Without the padding it streams, at
the same number of weights: 23,180 (S), 136,580 (M) and 413,736 (L) for 12 classes; biases that a
batch norm follows are left out.

The original hears 10 MFCCs in 49 frames that are 20 ms apart.

Reference: Zhang et al., "Hello Edge: Keyword Spotting on Microcontrollers", 2017, arXiv
1711.07128.
"""

from dataclasses import dataclass

import jax
from flax import nnx

from streamcls.models.classifier import Classifier
from streamcls.models.compose import Chain
from streamcls.models.conv import Conv
from streamcls.models.heads import HEADS, HeadKind
from streamcls.models.layers import Cepstrum, Layer, MelMean, Standardise
from streamcls.models.sliding import Padding


@dataclass(frozen=True, slots=True)
class DsCnnConfig:
    """Size and shape of a DS-CNN; the defaults are size S."""

    n_coefficients: int = 10
    """MFCCs taken from the front end's mel bands."""
    channels: int = 64
    stem_strides: tuple[int, int] = (2, 2)
    """Frames and coefficients."""
    strides: tuple[tuple[int, int], ...] = ((1, 1),) * 4
    """One entry per depthwise separable block."""
    time_padding: Padding = "valid"
    head: HeadKind = "mean"
    """How the last trunk outputs are pooled: ``heads.HEADS``."""
    min_window_frames: int = 49
    dropout: float = 0.0


DS_CNN_S = DsCnnConfig()
DS_CNN_M = DsCnnConfig(channels=172, stem_strides=(2, 1), strides=((2, 2), (1, 1), (1, 1), (1, 1)))
DS_CNN_L = DsCnnConfig(
    channels=276, stem_strides=(2, 1), strides=((2, 2), (1, 1), (1, 1), (1, 1), (1, 1))
)


def build_ds_cnn(config: DsCnnConfig, n_mels: int, n_classes: int, rngs: nnx.Rngs) -> Classifier:
    """Build the network for ``n_mels`` mel bins and ``n_classes`` classes."""
    width = config.channels
    stem = Conv(
        1,
        width,
        kernel=(10, 4),
        strides=config.stem_strides,
        n_mels=config.n_coefficients,
        time_padding=config.time_padding,
        activation=jax.nn.relu,
        rngs=rngs,
    )
    layers: list[Layer] = [Cepstrum(n_mels, config.n_coefficients), Standardise(rngs=rngs), stem]
    mels = stem.n_mels_out
    for strides in config.strides:
        depthwise = Conv(
            width,
            width,
            kernel=(3, 3),
            strides=strides,
            depthwise=True,
            n_mels=mels,
            time_padding=config.time_padding,
            activation=jax.nn.relu,
            rngs=rngs,
        )
        mels = depthwise.n_mels_out
        layers += [depthwise, Conv(width, width, n_mels=mels, activation=jax.nn.relu, rngs=rngs)]
    layers.append(MelMean())
    head = HEADS[config.head](width, n_classes, config.dropout, rngs)
    return Classifier(Chain(layers), head, width, config.min_window_frames)
