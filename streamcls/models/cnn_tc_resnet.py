"""TC-ResNet behind a 2-D convolutional stem.

A purely temporal network ties every weight to absolute mel bins, so another vocal tract looks like
another word. A few 2-D convolutions in front, strided in frequency, tolerate such shifts at the
price of some dense, well-filled matrix products; the rest stays temporal and cheap.

References: Thienpondt et al., "Integrating Frequency Translational Invariance in TDNNs", arXiv
2104.02370 (the stem); Choi et al., arXiv 1904.03814 (TC-ResNet).
"""

from dataclasses import dataclass

import jax
from flax import nnx

from streamcls.models.classifier import Classifier
from streamcls.models.compose import Chain
from streamcls.models.conv import Conv
from streamcls.models.heads import HEADS, HeadKind
from streamcls.models.layers import Dropout, Layer, MelNorm, MelsToChannels
from streamcls.models.tc_resnet import residual_block


@dataclass(frozen=True, slots=True)
class CnnTcResNetConfig:
    """Size and shape of a TC-ResNet with a 2-D stem."""

    width: float = 1.0
    """Multiplier of all channels."""
    stem_channels: tuple[int, ...] = (16, 32, 32)
    """One 2-D convolution each, every one halving the mel axis."""
    stem_strides_frames: tuple[int, ...] = (1, 2, 1)
    channels: tuple[int, ...] = (64, 64, 80)
    """One entry per residual block."""
    strides_frames: tuple[int, ...] = (2, 1, 1)
    kernel_frames: int = 3
    head: HeadKind = "mean"
    """How the last trunk outputs are pooled: ``heads.HEADS``."""
    min_window_frames: int = 97
    dropout: float = 0.2


def build_cnn_tc_resnet(
    config: CnnTcResNetConfig, n_mels: int, n_classes: int, rngs: nnx.Rngs
) -> Classifier:
    """Build the network for ``n_mels`` mel bins and ``n_classes`` classes."""

    def scale(channels: int) -> int:
        return max(4, round(channels * config.width))

    layers: list[Layer] = [MelNorm(n_mels, rngs=rngs)]
    channels, mels = 1, n_mels
    stem = zip(config.stem_channels, config.stem_strides_frames, strict=True)
    for width, stride_frames in stem:
        conv = Conv(
            channels,
            scale(width),
            kernel=(3, 3),
            strides=(stride_frames, 2),
            n_mels=mels,
            activation=jax.nn.relu,
            rngs=rngs,
        )
        layers.append(conv)
        channels, mels = scale(width), conv.n_mels_out
    layers.append(MelsToChannels())
    channels *= mels
    first = scale(config.channels[0])
    layers.append(Conv(channels, first, n_mels=1, activation=jax.nn.relu, rngs=rngs))
    channels = first
    for width, stride_frames in zip(config.channels, config.strides_frames, strict=True):
        layers.append(
            residual_block(channels, scale(width), stride_frames, config.kernel_frames, rngs)
        )
        channels = scale(width)
    layers.append(Dropout(config.dropout, rngs=rngs))
    head = HEADS[config.head](channels, n_classes, config.dropout, rngs)
    return Classifier(Chain(layers), head, channels, config.min_window_frames)
