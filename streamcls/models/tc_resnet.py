"""TC-ResNet made VALID in time: temporal convolutions over whole spectra.

The mel bins are the channels of the first layer, so every layer is a small dense convolution in
time: few, well-filled matrix products, the fastest family here on a CPU.

Differences from the paper: no zero padding in time; shortcuts are cropped to the newest frames;
shorter kernels, so that the receptive field fits inside a one-second window. With
``time_padding = "same"`` and kernels of nine frames it is the paper's network, windowed: 65,260 and
135,948 weights for 12 classes, of which 80 normalise the input. The paper's MFCCs are a rotation
of log-mel frames, which the first convolution learns.

Reference: Choi et al., "Temporal Convolution for Real-time Keyword Spotting on Mobile Devices",
Interspeech 2019, arXiv 1904.03814.
"""

from dataclasses import dataclass

import jax
from flax import nnx

from streamcls.models.classifier import Classifier
from streamcls.models.compose import Chain, Residual
from streamcls.models.conv import Conv
from streamcls.models.heads import HEADS, HeadKind
from streamcls.models.layers import Dropout, Layer, MelNorm, MelsToChannels
from streamcls.models.sliding import Padding


@dataclass(frozen=True, slots=True)
class TcResNetConfig:
    """Size and shape of a TC-ResNet."""

    width: float = 1.0
    """Multiplier of the channels."""
    channels: tuple[int, ...] = (16, 24, 32, 48)
    """Stem, then one entry per residual block."""
    strides_frames: tuple[int, ...] = (2, 2, 1)
    """Stride of each residual block."""
    kernel_frames: int = 5
    """The paper's 9 would look back 139 frames, more than the window."""
    time_padding: Padding = "valid"
    head: HeadKind = "mean"
    """How the last trunk outputs are pooled: ``heads.HEADS``."""
    min_window_frames: int = 97
    dropout: float = 0.2


def residual_block(
    channels_in: int,
    channels: int,
    stride_frames: int,
    kernel_frames: int,
    rngs: nnx.Rngs,
    time_padding: Padding = "valid",
) -> Layer:
    """Build one residual block of two temporal convolutions."""
    main = Chain(
        [
            Conv(
                channels_in,
                channels,
                kernel=(kernel_frames, 1),
                strides=(stride_frames, 1),
                n_mels=1,
                time_padding=time_padding,
                activation=jax.nn.relu,
                rngs=rngs,
            ),
            Conv(
                channels,
                channels,
                kernel=(kernel_frames, 1),
                n_mels=1,
                time_padding=time_padding,
                rngs=rngs,
            ),
        ]
    )
    shortcut: list[Layer] = []
    if channels_in != channels or stride_frames != 1:
        shortcut.append(
            Conv(
                channels_in,
                channels,
                strides=(stride_frames, 1),
                n_mels=1,
                activation=jax.nn.relu,
                rngs=rngs,
            )
        )
    return Residual(main, Chain(shortcut), activation=jax.nn.relu)


def build_tc_resnet(
    config: TcResNetConfig, n_mels: int, n_classes: int, rngs: nnx.Rngs
) -> Classifier:
    """Build the network for ``n_mels`` mel bins and ``n_classes`` classes."""
    stem, *widths = (max(4, round(base * config.width)) for base in config.channels)
    layers: list[Layer] = [
        MelNorm(n_mels, rngs=rngs),
        MelsToChannels(),
        Conv(
            n_mels,
            stem,
            kernel=(3, 1),
            n_mels=1,
            time_padding=config.time_padding,
            activation=jax.nn.relu,
            rngs=rngs,
        ),
    ]
    channels = stem
    for width, stride_frames in zip(widths, config.strides_frames, strict=True):
        layers.append(
            residual_block(
                channels, width, stride_frames, config.kernel_frames, rngs, config.time_padding
            )
        )
        channels = width
    layers.append(Dropout(config.dropout, rngs=rngs))
    head = HEADS[config.head](channels, n_classes, config.dropout, rngs)
    return Classifier(Chain(layers), head, channels, config.min_window_frames)
