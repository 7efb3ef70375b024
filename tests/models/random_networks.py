"""Random time-valid networks: chains, residuals and branches of every layer, under every head."""

import jax
from flax import nnx
from hypothesis import strategies as st

from streamcls.models import Branches, Chain, Classifier, Conv, Pool, Residual
from streamcls.models.heads import HEADS
from streamcls.models.layers import Delay, Layer, MelMean, MelNorm
from tests.models.networks import fill

N_MELS = 5  # as many as sub-spectral norm has bands
N_CLASSES = 3
CHANNELS = 4


class _Builder:
    """Draws layers; ``keep`` is for those inside a path, which leave the mels as they are."""

    def __init__(self, draw):
        self.draw = draw
        self.rngs = nnx.Rngs(0)

    def pick(self, *choices):
        return self.draw(st.sampled_from(choices))

    def conv(self, n_mels: int, stride: int, *, keep: bool) -> Conv:
        return Conv(
            CHANNELS,
            CHANNELS,
            kernel=(self.pick(1, 2, 3, 4), self.pick(1, 3)),
            strides=(stride, 1 if keep else self.pick(1, 2)),
            dilation_frames=self.pick(1, 2, 3),
            depthwise=self.pick(False, True),
            n_mels=n_mels,
            norm=self.pick("batch", "subspectral", None),
            activation=self.pick(None, jax.nn.relu),
            rngs=self.rngs,
        )

    def pool(self, n_mels: int, stride: int, *, keep: bool) -> Pool:
        return Pool(
            self.pick("max", "mean"),
            (self.pick(1, 2, 3, 4), self.pick(*range(1, n_mels + 1))),
            (stride, 1 if keep else self.pick(1, 2)),
            n_mels=n_mels,
            channels=CHANNELS,
            mel_padding="same" if keep else self.pick("same", "valid"),
        )

    def path(self, n_mels: int, stride: int, depth: int = 1) -> Chain:
        """Return one or two layers, the first of them strided."""
        layers: list[Layer] = []
        for step in [stride, 1][: self.pick(1, 2)]:
            match self.pick("conv", "pool", "residual", "delay"):
                case "residual" if depth:
                    layers.append(self.residual(n_mels, step, depth - 1))
                case "pool":
                    layers.append(self.pool(n_mels, step, keep=True))
                case "delay" if step == 1:
                    layers.append(Delay(self.pick(1, 2, 3), n_mels, CHANNELS))
                case _:
                    layers.append(self.conv(n_mels, step, keep=True))
        return Chain(layers)

    def residual(self, n_mels: int, stride: int, depth: int = 1) -> Residual:
        identity = stride == 1 and self.pick(False, True)
        shortcut = Chain([]) if identity else self.path(n_mels, stride, depth)
        return Residual(self.path(n_mels, stride, depth), shortcut, jax.nn.relu)

    def classifier(self) -> Classifier:
        layers: list[Layer] = [
            MelNorm(N_MELS, rngs=self.rngs),
            Conv(1, CHANNELS, n_mels=N_MELS, rngs=self.rngs),
        ]
        n_mels = N_MELS
        for _ in range(self.pick(1, 2, 3)):
            stride = self.pick(1, 2)
            match self.pick("conv", "pool", "residual", "branches"):
                case "conv":
                    layers.append(conv := self.conv(n_mels, stride, keep=False))
                    n_mels = conv.n_mels_out
                case "pool":
                    layers.append(pool := self.pool(n_mels, stride, keep=False))
                    n_mels = pool.n_mels_out
                case "residual":
                    layers.append(self.residual(n_mels, stride))
                case _:
                    layers.append(Branches([self.path(n_mels, stride) for _ in range(2)]))
                    layers.append(Conv(2 * CHANNELS, CHANNELS, n_mels=n_mels, rngs=self.rngs))
        trunk = Chain([*layers, MelMean()])
        head = HEADS[self.pick(*HEADS)](CHANNELS, N_CLASSES, 0.1, self.rngs)
        more_frames = self.pick(0, 1, 2, 3) * trunk.geometry.stride_frames
        return Classifier(trunk, head, CHANNELS, trunk.geometry.receptive_frames + more_frames)


@st.composite
def classifiers(draw) -> Classifier:
    """Draw a classifier of ``N_MELS`` mels and ``N_CLASSES`` classes, folded for inference."""
    model = nnx.eval_shape(lambda: _Builder(draw).classifier())
    fill(model, draw(st.integers(0, 2**32 - 1)))
    model.fold()
    return model
