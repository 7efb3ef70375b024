"""Smales' CNN over MFCCs: four small convolutions, each followed by pooling, then the mean.

Nothing in it is padded, so it streams as published: a new output every 16 frames, the global mean
over the last nine. 44,602 weights for the 10 classes of UrbanSound8K.

The original hears 40 MFCCs in 174 frames of 23 ms (librosa's defaults at 22,050 Hz); its pooling
drops the last 15 of them, so a window is 159 frames here.

Reference: Mike Smales, "Sound Classification using Deep Learning", 2019,
https://mikesmales.medium.com/sound-classification-using-deep-learning-8bc2aa1990b7.
"""

from dataclasses import dataclass

import jax
from flax import nnx

from streamcls.models.classifier import Classifier
from streamcls.models.compose import Chain
from streamcls.models.conv import Conv
from streamcls.models.heads import MeanHead
from streamcls.models.layers import Cepstrum, Dropout, Layer, MelMean, Standardise
from streamcls.models.pooling import Pool


@dataclass(frozen=True, slots=True)
class SmalesCnnConfig:
    """Shape of Smales' CNN."""

    n_coefficients: int = 40
    """MFCCs taken from the front end's mel bands."""
    channels: tuple[int, ...] = (16, 32, 64, 128)
    min_window_frames: int = 159
    dropout: float = 0.2


def build_smales_cnn(
    config: SmalesCnnConfig, n_mels: int, n_classes: int, rngs: nnx.Rngs
) -> Classifier:
    """Build the network for ``n_mels`` mel bins and ``n_classes`` classes."""
    layers: list[Layer] = [Cepstrum(n_mels, config.n_coefficients), Standardise(rngs=rngs)]
    channels, mels = 1, config.n_coefficients
    for width in config.channels:
        conv = Conv(
            channels,
            width,
            kernel=(2, 2),
            n_mels=mels,
            mel_padding="valid",
            norm=None,
            activation=jax.nn.relu,
            rngs=rngs,
        )
        pool = Pool("max", (2, 2), n_mels=conv.n_mels_out, channels=width)
        layers += [conv, pool, Dropout(config.dropout, rngs=rngs)]
        channels, mels = width, pool.n_mels_out
    layers.append(MelMean())
    head = MeanHead(channels, n_classes, 0.0, rngs=rngs)
    return Classifier(Chain(layers), head, channels, config.min_window_frames)
