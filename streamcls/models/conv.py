"""Convolution with its normalisation and activation."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from streamcls.models.depthwise import convolve_depthwise
from streamcls.models.layers import State
from streamcls.models.norms import NormKind, SubSpectralNorm, batch_norm_affine, build_norm
from streamcls.models.sliding import Padding, Sliding
from streamcls.models.toom_cook import Array, FrameFilter
from streamcls.products import multiply

_MOST_SHIFTS = 25
"""Taps up to which shifted products of one channel are faster: 5 x 5 is, 10 x 4 is not."""
_FEWEST_WEIGHTS = 64 * 64
"""Of a temporal layer's tap: with fewer, sums cost one stream more than they save many."""


class Conv(Sliding):
    """Convolution (dense or depthwise), normalisation and activation in one layer.

    Written in what XLA's CPU backend does well. Where an output channel has one input channel
    (depthwise, or the first layer): a sum of shifted products, which is fused into one loop (see
    `depthwise`). Where it has several and mels lie side by side: XLA's convolution, which does not
    write out the patches, most of them overlapping (32 windows of `simple_audio` at once take a
    fifth of the time, one takes nine tenths). Else one matrix product over the patches, which
    halves the time of a step of `commands` against XLA's convolution.

    A step remembers frames (the direct form of a filter). Where mels lie side by side and each has
    several inputs, it remembers what they already add to outputs to come (the transposed form,
    Oppenheim and Schafer, "Discrete-Time Signal Processing", 3rd edition, section 6.5): the patches
    then overlap along the mels only, nothing is joined along time, and frames that come together
    need fewer products (`toom_cook`). Once `prepare` knows how many come, wide temporal layers do
    the same.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output (equal to ``in_channels`` when depthwise).
        kernel: ``(frames, mels)``.
        strides: ``(frames, mels)``.
        dilation_frames: Spacing of the kernel in time.
        depthwise: One filter per channel.
        n_mels: Mel bins of the input; ``n_mels_out`` tells those of the output.
        mel_padding: ``same`` or ``valid``.
        time_padding: As TensorFlow pads; ``same`` makes the network windowed.
        norm: ``batch``, ``subspectral`` or ``None`` (a bias instead).
        activation: Applied last; ``None`` for linear.
        rngs: Source of the initial weights.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: tuple[int, int] = (1, 1),
        strides: tuple[int, int] = (1, 1),
        dilation_frames: int = 1,
        depthwise: bool = False,
        n_mels: int,
        mel_padding: Padding = "same",
        time_padding: Padding = "valid",
        norm: NormKind = "batch",
        activation: Callable[[jax.Array], jax.Array] | None = None,
        rngs: nnx.Rngs,
    ):
        if depthwise and in_channels != out_channels:
            raise ValueError(f"depthwise keeps channels: {in_channels} != {out_channels}")
        super().__init__(
            kernel, strides, dilation_frames, n_mels, in_channels, mel_padding, time_padding
        )
        self.out_channels = out_channels
        self.depthwise = depthwise
        self.activation = activation
        shape = (*kernel, out_channels) if depthwise else (*kernel, in_channels, out_channels)
        fan_in = kernel[0] * kernel[1] * (1 if depthwise else in_channels)
        draw = jax.random.normal(rngs.params(), shape, jnp.float32)
        self.kernel = nnx.Param(draw * jnp.sqrt(2.0 / fan_in))
        # nnx fixes at the first assignment whether an attribute holds weights; folding swaps
        # norm for bias, so both are declared as data whichever of them is empty.
        bias = nnx.Param(jnp.zeros((out_channels,), jnp.float32)) if norm is None else None
        self.bias = nnx.data(bias)
        self.filters: list[FrameFilter] = nnx.data([])
        self._prepared_frames = 0
        self.norm = nnx.data(build_norm(norm, out_channels, self.n_mels_out, rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Evaluate ``[batch, frames, n_mels, in_channels]``."""
        if self.depthwise:
            return self._complete(convolve_depthwise(self, self.kernel[...], x))
        frame_pad, mel_pad = self.padding_of(x.shape[1])
        if any(frame_pad) or any(mel_pad):
            x = jnp.pad(x, ((0, 0), frame_pad, mel_pad, (0, 0)))
        return self._complete(self._convolve(x))

    def prepare(self, n_frames: int) -> None:
        """Compute what steps of so many frames multiply with."""
        if not self._can_remember_sums:
            return
        filters = self._build_filters(np.asarray(self.kernel[...], np.float64), n_frames)
        if self.n_mels_out > 1 or any(one.block > 1 for one in filters):
            self._prepared_frames, self.filters = n_frames, nnx.data(filters)

    def initial_state(self, batch: int) -> State:
        """Return zeros: frames, or begun sums ``[batch, sums, n_mels_out, out_channels]``."""
        if not self._remembers_sums:
            return super().initial_state(batch)
        n_sums = -(-self.history_frames // self.strides[0])
        return jnp.zeros((batch, n_sums, self.n_mels_out, self.out_channels), jnp.float32)

    def step(self, x: jax.Array, state: State) -> tuple[jax.Array, State]:
        """Evaluate the next frames, a multiple of the stride."""
        if not self._remembers_sums:
            return super().step(x, state)
        n_frames, stride = x.shape[1], self.strides[0]
        n_out = n_frames // stride
        terms = [[begun] for begun in jnp.unstack(state, axis=1)] + [[] for _ in range(n_out)]
        # What is padded XLA writes out; else it computes the layer before anew for each sum.
        mel_pad = (0, 1) if self.n_mels_out > 1 and not any(self.mel_pad) else self.mel_pad
        x = jnp.pad(x, ((0, 0), (0, 0), mel_pad, (0, 0)))
        is_prepared = n_frames == self._prepared_frames
        filters = self.filters if is_prepared else self._build_filters(self.kernel[...], n_frames)
        for one in filters:
            frames = jax.lax.slice_in_dim(x, one.phase, None, stride, axis=1)
            for output, term in one(frames, self._mel_patches):
                terms[output].append(term)
        # Output by output: XLA would write out what is padded along time to be added.
        sums = [functools.reduce(jax.lax.add, some) for some in terms]
        complete, begun = jnp.stack(sums[:n_out], axis=1), jnp.stack(sums[n_out:], axis=1)
        return self._complete(complete), begun

    def _build_filters(self, kernel: Array, n_frames: int) -> list[FrameFilter]:
        """Return what steps of so many frames multiply with: a filter for each phase of the stride.

        Each place of the kernel meets every stride-th frame, so far behind the output's last.
        """
        stride = self.strides[0]
        kernel = kernel.reshape(self.kernel_size[0], -1, self.out_channels)
        taps: dict[int, list[tuple[int, Array]]] = {}
        for place in reversed(range(self.kernel_size[0])):
            behind = self.history_frames - place * self.dilation_frames
            tap = (-(-behind // stride), kernel[place])
            taps.setdefault(-behind % stride, []).append(tap)
        return [FrameFilter(phase, some, n_frames // stride) for phase, some in taps.items()]

    @property
    def _can_remember_sums(self) -> bool:
        if self.depthwise or self.in_channels == 1 or self.history_frames <= 0:
            return False
        n_weights = self.kernel_size[1] * self.in_channels * self.out_channels
        return self.n_mels_out > 1 or n_weights >= _FEWEST_WEIGHTS

    @property
    def _remembers_sums(self) -> bool:
        return self._can_remember_sums and (self.n_mels_out > 1 or bool(self.filters))

    def _complete(self, y: jax.Array) -> jax.Array:
        if self.bias is not None:
            y = y + self.bias[...]
        if self.norm is not None:
            y = self.norm(y)
        return y if self.activation is None else self.activation(y)

    def _convolve(self, x: jax.Array) -> jax.Array:
        """Convolve what is padded already, in the way that suits the shape."""
        kernel, n_taps = self.kernel[...], math.prod(self.kernel_size)
        if self.in_channels == 1 and n_taps <= _MOST_SHIFTS:
            return self._shifted_from_one(kernel, x)
        if self.n_mels_out > 1 and n_taps > 1:
            return self._planar(kernel, x)
        return self._dense(kernel, x)

    def _planar(self, kernel: jax.Array, x: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            self.strides,
            "VALID",
            rhs_dilation=(self.dilation_frames, 1),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    def _dense(self, kernel: jax.Array, x: jax.Array) -> jax.Array:
        return multiply(self._patches(x), kernel.reshape(-1, kernel.shape[-1]))

    def _patches(self, x: jax.Array) -> jax.Array:
        frames, mels = self.kernel_size
        n_frames_out = self.geometry.outputs(x.shape[1])
        if self.n_mels_out == 1 and self.dilation_frames == 1 and n_frames_out < frames * mels:
            # A step of a temporal layer: each patch lies in one piece, and they are few.
            starts = range(0, n_frames_out * self.strides[0], self.strides[0])
            pieces = [x[:, start : start + frames, :mels] for start in starts]
            return jnp.concatenate([one.reshape(len(x), 1, 1, -1) for one in pieces], axis=1)
        return jnp.concatenate([inputs for _, _, inputs in self.taps(x)], axis=-1)

    def _mel_patches(self, x: jax.Array) -> jax.Array:
        return jnp.concatenate(list(self.mel_taps(x)), axis=-1)

    def _shifted_from_one(self, kernel: jax.Array, x: jax.Array) -> jax.Array:
        """Sum shifted products, but differentiate XLA's convolution: ten times faster."""
        convolve = jax.custom_vjp(self._shifted)
        convolve.defvjp(
            lambda kernel, x: (self._shifted(kernel, x), (kernel, x)),
            lambda inputs, gradient: jax.vjp(self._planar, *inputs)[1](gradient),
        )
        return convolve(kernel, x)

    def _shifted(self, kernel: jax.Array, x: jax.Array) -> jax.Array:
        kernel = kernel.reshape(*self.kernel_size, -1)
        first, *rest = (inputs * kernel[i, j] for i, j, inputs in self.taps(x))
        return sum(rest, start=first)

    def fold(self) -> None:
        """Fold a batch norm into kernel and bias; make a sub-spectral norm scale and shift."""
        if isinstance(self.norm, SubSpectralNorm):
            self.norm = nnx.data(self.norm.to_affine(self.n_mels_out))
        elif isinstance(self.norm, nnx.BatchNorm):
            scale, shift = batch_norm_affine(self.norm)
            folded = np.asarray(self.kernel[...], np.float64) * scale
            self.kernel = nnx.Param(folded.astype(np.float32))
            self.bias = nnx.data(nnx.Param(shift.astype(np.float32)))
            self.norm = nnx.data(None)
