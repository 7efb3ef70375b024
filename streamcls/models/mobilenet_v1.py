"""MobileNetV1 over a window of log-mel frames: the network of YAMNet.

A dense convolution, then depthwise and pointwise convolutions in turn, each followed by ReLU6, all
padded with zeros in time and frequency as TensorFlow does it. So it is not time-valid: the whole
window is evaluated for every prediction. Batch normalisation is already in the weights.

References:
    Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
    Applications", arXiv 1704.04861.
    https://github.com/tensorflow/models/tree/master/research/audioset/yamnet
"""

from dataclasses import dataclass

import jax
from flax import nnx

from streamcls.models.classifier import Classifier
from streamcls.models.compose import Chain
from streamcls.models.conv import Conv
from streamcls.models.heads import MeanHead
from streamcls.models.layers import Layer, MelMean


@dataclass(frozen=True, slots=True)
class MobileNetV1Config:
    """Size and shape of a MobileNetV1; the defaults are YAMNet's."""

    window_frames: int = 96
    stem_channels: int = 32
    channels: tuple[int, ...] = (64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)
    """Output of each pair of depthwise and pointwise convolution."""
    strides: tuple[int, ...] = (1, 2, 1, 2, 1, 2, *[1] * 5, 2, 1)
    """Of each depthwise convolution, in time and in frequency."""


class OneChannel(Layer):
    """Add the channel axis."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map ``[batch, frames, n_mels]`` to ``[batch, frames, n_mels, 1]``."""
        return x[..., None]


def build_mobilenet_v1(
    config: MobileNetV1Config, n_mels: int, n_classes: int, rngs: nnx.Rngs
) -> Classifier:
    """Build the network for ``n_mels`` mel bins and ``n_classes`` classes."""

    def conv(
        channels_in: int, channels: int, size: int, stride: int, mels: int, depthwise: bool = False
    ) -> Conv:
        return Conv(
            channels_in,
            channels,
            kernel=(size, size),
            strides=(stride, stride),
            depthwise=depthwise,
            n_mels=mels,
            time_padding="same",
            norm=None,
            activation=jax.nn.relu6,
            rngs=rngs,
        )

    layers: list[Conv] = [conv(1, config.stem_channels, 3, 2, n_mels)]
    before = config.stem_channels
    for channels, stride in zip(config.channels, config.strides, strict=True):
        layers.append(conv(before, before, 3, stride, layers[-1].n_mels_out, depthwise=True))
        layers.append(conv(before, channels, 1, 1, layers[-1].n_mels_out))
        before = channels
    head = MeanHead(before, n_classes, dropout=0.0, rngs=rngs)
    return Classifier(Chain([OneChannel(), *layers, MelMean()]), head, before, config.window_frames)
