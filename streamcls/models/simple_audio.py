"""The CNN of TensorFlow's tutorial "Simple audio recognition: Recognizing keywords".

The spectrogram of a one-second clip is resized to a 32 x 32 picture, so the network is windowed.
The tutorial's picture is of a linear spectrogram; here it is of the front end's log-mel frames.
1,625,608 weights for the tutorial's 8 classes, nearly all in one dense layer.

Reference: https://www.tensorflow.org/tutorials/audio/simple_audio (2022).
"""

from dataclasses import dataclass

import jax
from flax import nnx

from streamcls.models.classifier import Classifier
from streamcls.models.compose import Chain
from streamcls.models.conv import Conv
from streamcls.models.heads import MeanHead
from streamcls.models.layers import Dropout, Standardise
from streamcls.models.pooling import Pool
from streamcls.models.whole import Flatten, Resize


@dataclass(frozen=True, slots=True)
class SimpleAudioConfig:
    """Shape of the tutorial's network."""

    picture: tuple[int, int] = (32, 32)
    """Frames and mels after resizing."""
    channels: tuple[int, int] = (32, 64)
    dense: int = 128
    min_window_frames: int = 98


def build_simple_audio(
    config: SimpleAudioConfig, n_mels: int, n_classes: int, rngs: nnx.Rngs
) -> Classifier:
    """Build the network for ``n_mels`` mel bins and ``n_classes`` classes."""
    del n_mels  # whatever it is, it is resized
    frames, mels = config.picture
    first, second = config.channels
    kernel, relu = (3, 3), jax.nn.relu
    conv_1 = Conv(
        1, first, kernel=kernel, n_mels=mels, mel_padding="valid", norm=None, activation=relu,
        rngs=rngs,
    )  # fmt: skip
    conv_2 = Conv(
        first, second, kernel=kernel, n_mels=conv_1.n_mels_out, mel_padding="valid", norm=None,
        activation=relu, rngs=rngs,
    )  # fmt: skip
    pool = Pool("max", (2, 2), n_mels=conv_2.n_mels_out, channels=second)
    flat = (frames - 4) // 2 * pool.n_mels_out * second
    trunk = Chain(
        [
            Resize(frames, mels),
            Standardise(rngs=rngs),
            conv_1,
            conv_2,
            pool,
            Dropout(0.25, rngs=rngs),
            Flatten(),
            Conv(flat, config.dense, n_mels=1, norm=None, activation=relu, rngs=rngs),
        ]
    )
    head = MeanHead(config.dense, n_classes, 0.5, rngs=rngs)
    return Classifier(trunk, head, config.dense, config.min_window_frames)
