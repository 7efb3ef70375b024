"""BC-ResNet made VALID in time: broadcasted residual learning for keyword spotting.

A frequency-depthwise convolution keeps the 2-D map; its mel average goes through a dilated temporal
depthwise convolution and is broadcast back onto the map. Cheap, and tolerant to shifts in pitch and
formants because most of it is convolutional in frequency.

Differences from the paper: no zero padding in time, a stride of two frames in the stem, and smaller
dilations, so that the receptive field fits inside a one-second window. With the settings of
`BC_RESNET_SAME` it is padded, dilated and strided as in the paper, and windowed; the number of
weights is the same.

Reference: Kim et al., "Broadcasted Residual Learning for Efficient Keyword Spotting", Interspeech
2021, arXiv 2106.04140.
"""

from dataclasses import dataclass

import jax
from flax import nnx

from streamcls.models.classifier import Classifier
from streamcls.models.compose import Chain, Residual
from streamcls.models.conv import Conv
from streamcls.models.heads import HEADS, HeadKind
from streamcls.models.layers import Dropout, Layer, MelMean, MelNorm
from streamcls.models.sliding import Padding


@dataclass(frozen=True, slots=True)
class BcResNetConfig:
    """Size and shape of a BC-ResNet."""

    width: float = 1.0
    """Multiplier of the channels (the tau of the paper)."""
    dilations_frames: tuple[int, int, int, int] = (1, 1, 1, 2)
    """Temporal dilation of each stage."""
    blocks: tuple[int, int, int, int] = (2, 2, 4, 4)
    stem_stride_frames: int = 2
    time_padding: Padding = "valid"
    head: HeadKind = "mean"
    """How the last trunk outputs are pooled: ``heads.HEADS``."""
    min_window_frames: int = 97
    dropout: float = 0.1


BC_RESNET_SAME = BcResNetConfig(
    dilations_frames=(1, 2, 4, 8), stem_stride_frames=1, time_padding="same"
)


def _block(
    channels_in: int,
    channels: int,
    n_mels: int,
    mel_stride: int,
    dilation_frames: int,
    time_padding: Padding,
    dropout: float,
    rngs: nnx.Rngs,
) -> tuple[Layer, int]:
    """Build one broadcasted residual block; return it and the mel bins of its output."""
    transition = channels_in != channels or mel_stride != 1
    frequency: list[Layer] = []
    if transition:
        frequency.append(
            Conv(channels_in, channels, n_mels=n_mels, activation=jax.nn.relu, rngs=rngs)
        )
    depthwise = Conv(
        channels,
        channels,
        kernel=(1, 3),
        strides=(1, mel_stride),
        depthwise=True,
        n_mels=n_mels,
        norm="subspectral",
        rngs=rngs,
    )
    frequency.append(depthwise)
    temporal = Chain(
        [
            MelMean(),
            Conv(
                channels,
                channels,
                kernel=(3, 1),
                dilation_frames=dilation_frames,
                depthwise=True,
                n_mels=1,
                time_padding=time_padding,
                activation=jax.nn.silu,
                rngs=rngs,
            ),
            Conv(channels, channels, n_mels=1, norm=None, rngs=rngs),
            Dropout(dropout, rngs=rngs),
        ]
    )
    if transition:
        broadcast = Residual(temporal, Chain([]), activation=jax.nn.relu)
        return Chain([*frequency, broadcast]), depthwise.n_mels_out
    main = Chain([*frequency, Residual(temporal, Chain([]))])
    return Residual(main, Chain([]), activation=jax.nn.relu), depthwise.n_mels_out


def build_bc_resnet(
    config: BcResNetConfig, n_mels: int, n_classes: int, rngs: nnx.Rngs
) -> Classifier:
    """Build the network for ``n_mels`` mel bins and ``n_classes`` classes."""
    stem, *stages, last = (max(4, round(base * config.width)) for base in (16, 8, 12, 16, 20, 32))
    conv = Conv(
        1,
        stem,
        kernel=(5, 5),
        strides=(config.stem_stride_frames, 2),
        n_mels=n_mels,
        time_padding=config.time_padding,
        activation=jax.nn.relu,
        rngs=rngs,
    )
    layers: list[Layer] = [MelNorm(n_mels, rngs=rngs), conv]
    channels, mels = stem, conv.n_mels_out
    for stage, width in enumerate(stages):
        for index in range(config.blocks[stage]):
            mel_stride = 2 if index == 0 and stage in (1, 2) else 1
            block, mels = _block(
                channels,
                width,
                mels,
                mel_stride,
                config.dilations_frames[stage],
                config.time_padding,
                config.dropout,
                rngs,
            )
            layers.append(block)
            channels = width
    layers += [
        Conv(
            channels,
            channels,
            kernel=(5, 5),
            depthwise=True,
            n_mels=mels,
            mel_padding="valid",
            time_padding=config.time_padding,
            norm=None,
            rngs=rngs,
        ),
        MelMean(),
        Conv(channels, last, n_mels=1, activation=jax.nn.relu, rngs=rngs),
    ]
    head = HEADS[config.head](last, n_classes, config.dropout, rngs)
    return Classifier(Chain(layers), head, last, config.min_window_frames)
