"""Choi's CRNN: four 2-D convolutions, then two layers of gated recurrent units over what is left.

Padded in time, so it is windowed. Sizes by number of weights: 97,112 (0.1M) and 3,026,718 (3M) for
50 tags and 96 mels; biases that a batch norm follows are left out. The original pads 1,366 frames
of 21 ms to 1,440, which its pooling makes 15 steps of; here the window is those 1,440 frames.

Reference: Choi et al., "Convolutional Recurrent Neural Networks for Music Classification", ICASSP
2017, arXiv 1609.04243.
"""

from dataclasses import dataclass

from flax import nnx

from streamcls.models.choi_k2c2 import pooled_convolutions
from streamcls.models.classifier import Classifier
from streamcls.models.compose import Chain
from streamcls.models.heads import GruHead
from streamcls.models.layers import MelsToChannels


@dataclass(frozen=True, slots=True)
class ChoiCrnnConfig:
    """Size and shape of the CRNN; the defaults are size 0.1M."""

    channels: tuple[int, ...] = (30, 60, 60, 60)
    pools: tuple[tuple[int, int], ...] = ((2, 2), (3, 3), (4, 4), (4, 4))
    """Frames and mels, after each convolution."""
    recurrent: tuple[int, ...] = (30, 30)
    """Units of each recurrent layer."""
    min_window_frames: int = 1440
    dropout: float = 0.1


def build_choi_crnn(
    config: ChoiCrnnConfig, n_mels: int, n_classes: int, rngs: nnx.Rngs
) -> Classifier:
    """Build the network for ``n_mels`` mel bins (at least 96) and ``n_classes`` classes."""
    layers, mels = pooled_convolutions(
        config.channels, config.pools, n_mels, rngs, dropout=config.dropout
    )
    features = config.channels[-1] * mels
    head = GruHead(features, n_classes, 0.3, rngs=rngs, widths=config.recurrent)
    chain = Chain([*layers, MelsToChannels()])
    return Classifier(chain, head, features, config.min_window_frames)
