"""SB-CNN: three convolutions and a dense layer over the whole patch, for environmental sound.

Nothing in it is padded, and a dense layer over a patch is a convolution as large as the patch: so
it streams as published, a new output every 16 frames. 241,434 weights for the 10 classes of
UrbanSound8K and 128 mels.

The original's patch is 128 frames of 23 ms; its pooling drops the last 12, so a window is 116
frames here.

Reference: Salamon and Bello, "Deep Convolutional Neural Networks and Data Augmentation for
Environmental Sound Classification", IEEE Signal Processing Letters 2017, arXiv 1608.04363.
"""

from dataclasses import dataclass

import jax
from flax import nnx

from streamcls.models.classifier import Classifier
from streamcls.models.compose import Chain
from streamcls.models.conv import Conv
from streamcls.models.heads import MeanHead
from streamcls.models.layers import Dropout, Layer, Standardise
from streamcls.models.pooling import Pool


@dataclass(frozen=True, slots=True)
class SbCnnConfig:
    """Shape of SB-CNN."""

    channels: tuple[int, int, int] = (24, 48, 48)
    dense: int = 64
    min_window_frames: int = 116
    dropout: float = 0.5


def build_sb_cnn(config: SbCnnConfig, n_mels: int, n_classes: int, rngs: nnx.Rngs) -> Classifier:
    """Build the network for ``n_mels`` mel bins and ``n_classes`` classes."""
    layers: list[Layer] = [Standardise(rngs=rngs)]
    channels, mels = 1, n_mels
    for index, width in enumerate(config.channels):
        conv = Conv(
            channels,
            width,
            kernel=(5, 5),
            n_mels=mels,
            mel_padding="valid",
            norm=None,
            activation=jax.nn.relu,
            rngs=rngs,
        )
        layers.append(conv)
        channels, mels = width, conv.n_mels_out
        if index < 2:
            layers.append(pool := Pool("max", (4, 2), n_mels=mels, channels=channels))
            mels = pool.n_mels_out
    layers += [
        Dropout(config.dropout, rngs=rngs),
        Conv(
            channels,
            config.dense,
            kernel=(2, mels),
            n_mels=mels,
            mel_padding="valid",
            norm=None,
            activation=jax.nn.relu,
            rngs=rngs,
        ),
    ]
    head = MeanHead(config.dense, n_classes, config.dropout, rngs=rngs)
    return Classifier(Chain(layers), head, config.dense, config.min_window_frames)
