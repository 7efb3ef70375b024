"""Choi's k2c2: five 2-D convolutions pooled down to a single point, for music tagging.

Padded in time and pooled by 1,280 frames in all, so it is windowed. Sizes by number of weights:
96,767 (0.1M) and 3,044,941 (3M) for 50 tags and 96 mels; biases that a batch norm follows are left
out. The original hears 1,366 frames of 21 ms: 29 s at 12 kHz.

Reference: Choi et al., "Convolutional Recurrent Neural Networks for Music Classification", ICASSP
2017, arXiv 1609.04243.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
from flax import nnx

from streamcls.models.classifier import Classifier
from streamcls.models.compose import Chain
from streamcls.models.conv import Conv
from streamcls.models.heads import MeanHead
from streamcls.models.layers import Dropout, Layer, MelMean, MelNorm
from streamcls.models.pooling import Pool


@dataclass(frozen=True, slots=True)
class ChoiK2c2Config:
    """Size and shape of k2c2; the defaults are size 0.1M."""

    channels: tuple[int, ...] = (20, 41, 41, 62, 83)
    pools: tuple[tuple[int, int], ...] = ((4, 2), (4, 2), (4, 2), (5, 3), (4, 4))
    """Frames and mels, after each convolution."""
    min_window_frames: int = 1366
    dropout: float = 0.1


def build_choi_k2c2(
    config: ChoiK2c2Config, n_mels: int, n_classes: int, rngs: nnx.Rngs
) -> Classifier:
    """Build the network for ``n_mels`` mel bins (at least 96) and ``n_classes`` classes."""
    layers, _ = pooled_convolutions(config.channels, config.pools, n_mels, rngs)
    channels = config.channels[-1]
    head = MeanHead(channels, n_classes, config.dropout, rngs=rngs)
    return Classifier(Chain([*layers, MelMean()]), head, channels, config.min_window_frames)


def pooled_convolutions(
    widths: Sequence[int],
    pools: Sequence[tuple[int, int]],
    n_mels: int,
    rngs: nnx.Rngs,
    dropout: float | None = None,
) -> tuple[list[Layer], int]:
    """Return what all of the paper's networks begin with, and how many mels it leaves.

    Args:
        widths: Channels of each 3 x 3 convolution.
        pools: Frames and mels of the maximum after each.
        n_mels: Mel bins of the input.
        rngs: Source of the initial weights and of dropout.
        dropout: After each maximum; None for none.
    """
    layers: list[Layer] = [MelNorm(n_mels, rngs=rngs)]
    channels, mels = 1, n_mels
    for width, window in zip(widths, pools, strict=True):
        conv = Conv(
            channels,
            width,
            kernel=(3, 3),
            n_mels=mels,
            time_padding="same",
            activation=jax.nn.elu,
            rngs=rngs,
        )
        pool = Pool("max", window, n_mels=mels, channels=width)
        layers += [conv, pool]
        if dropout is not None:
            layers.append(Dropout(dropout, rngs=rngs))
        channels, mels = width, pool.n_mels_out
    return layers, mels
