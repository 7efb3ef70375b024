"""Random time-valid networks: chains, residuals and branches of every layer, under every head."""

import jax
from flax import nnx
from hypothesis import strategies as st

from streamcls.models import Branches, Chain, Classifier, Conv, MeanHead, Pool, Residual
from streamcls.models.heads import AttentionHead, GruHead, MaxHead, StatisticsHead
from streamcls.models.layers import Delay, Layer, MelMean, MelNorm

N_MELS = 5  # as many as sub-spectral norm has bands
N_CLASSES = 3
CHANNELS = 4
_RNGS = nnx.Rngs(1)


def _conv(draw, n_mels: int, stride: int, *, keep: bool = False) -> Conv:
    return Conv(
        CHANNELS,
        CHANNELS,
        kernel=(draw(st.integers(1, 4)), draw(st.sampled_from([1, 3]))),
        strides=(stride, 1 if keep else draw(st.sampled_from([1, 1, 2]))),
        dilation_frames=draw(st.integers(1, 3)),
        depthwise=draw(st.booleans()),
        n_mels=n_mels,
        norm=draw(st.sampled_from(["batch", "subspectral", None])),
        activation=draw(st.sampled_from([None, jax.nn.relu])),
        rngs=_RNGS,
    )


def _pool(draw, n_mels: int, stride: int, *, keep: bool = False) -> Pool:
    return Pool(
        draw(st.sampled_from(["max", "mean"])),
        (draw(st.integers(1, 4)), draw(st.integers(1, min(3, n_mels)))),
        (stride, 1 if keep else draw(st.integers(1, 2))),
        n_mels=n_mels,
        channels=CHANNELS,
        mel_padding="same" if keep else draw(st.sampled_from(["same", "valid"])),
    )


def _path(draw, n_mels: int, stride: int, depth: int) -> Chain:
    """Draw layers that keep the mels, the first of them strided."""
    layers: list[Layer] = []
    for index in range(draw(st.integers(1, 2))):
        step = stride if index == 0 else 1
        kind = draw(st.sampled_from(["conv", "pool", "residual", "delay"]))
        if kind == "residual" and depth:
            layers.append(_residual(draw, n_mels, step, depth - 1))
        elif kind == "pool":
            layers.append(_pool(draw, n_mels, step, keep=True))
        elif kind == "delay" and step == 1:
            layers.append(Delay(draw(st.integers(1, 3)), n_mels, CHANNELS))
        else:
            layers.append(_conv(draw, n_mels, step, keep=True))
    return Chain(layers)


def _residual(draw, n_mels: int, stride: int, depth: int) -> Residual:
    identity = stride == 1 and draw(st.booleans())
    shortcut = Chain([]) if identity else _path(draw, n_mels, stride, depth)
    return Residual(_path(draw, n_mels, stride, depth), shortcut, jax.nn.relu)


@st.composite
def classifiers(draw) -> Classifier:
    """Draw a classifier of ``N_MELS`` mels and ``N_CLASSES`` classes, folded for inference."""
    layers: list[Layer] = [
        MelNorm(N_MELS, rngs=_RNGS),
        Conv(1, CHANNELS, n_mels=N_MELS, rngs=_RNGS),
    ]
    n_mels = N_MELS
    for _ in range(draw(st.integers(1, 3))):
        stride = draw(st.integers(1, 2))
        match draw(st.sampled_from(["conv", "pool", "residual", "branches"])):
            case "conv":
                layers.append(conv := _conv(draw, n_mels, stride))
                n_mels = conv.n_mels_out
            case "pool":
                layers.append(pool := _pool(draw, n_mels, stride))
                n_mels = pool.n_mels_out
            case "residual":
                layers.append(_residual(draw, n_mels, stride, depth=1))
            case _:
                paths = [_path(draw, n_mels, stride, depth=1) for _ in range(2)]
                layers.append(Branches(paths))
                layers.append(Conv(2 * CHANNELS, CHANNELS, n_mels=n_mels, rngs=_RNGS))
    trunk = Chain([*layers, MelMean()])
    kinds = st.sampled_from([MeanHead, MaxHead, StatisticsHead, AttentionHead, GruHead])
    head = draw(kinds)(CHANNELS, N_CLASSES, 0.1, _RNGS)
    more_frames = draw(st.integers(0, 3)) * trunk.geometry.stride_frames
    model = Classifier(trunk, head, CHANNELS, trunk.geometry.receptive_frames + more_frames)
    model.fold()
    return model
