"""Kernels that slide over time and mels: their memory, their padding, their taps.

Base of convolutions (`conv`) and pooling (`pooling`). A kernel of ``k`` frames with dilation ``d``
and stride ``s`` remembers its last ``d*(k-1) - (s-1)`` input frames between two steps, so that the
outputs of window and step end on the same frames.
"""

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from streamcls.errors import ModelError
from streamcls.models.geometry import Geometry
from streamcls.models.layers import Layer, State

Padding = Literal["same", "valid"]


class Met(NamedTuple):
    """The inputs along one axis that meet one place of a kernel.

    Attributes:
        place: Index into the kernel.
        inputs: Without padding, at least one.
        missing: How many outputs before and after theirs meet padding instead.
    """

    place: int
    inputs: slice
    missing: tuple[int, int]

    @property
    def n_inputs(self) -> int:
        """How many there are."""
        return len(range(self.inputs.start, self.inputs.stop, self.inputs.step))


class Sliding(Layer):
    """A layer whose every output looks at a patch of ``kernel`` frames and mels.

    Args:
        kernel: ``(frames, mels)``.
        strides: ``(frames, mels)``.
        dilation_frames: Spacing of the kernel in time.
        n_mels: Mel bins of the input.
        in_channels: Channels of the input.
        mel_padding: ``same`` or ``valid``.
        time_padding: As TensorFlow pads; ``same`` makes a network windowed.

    Attributes:
        n_mels_out: Mel bins of the output.

    Raises:
        ModelError: If the kernel does not fit the mels.
    """

    def __init__(
        self,
        kernel: tuple[int, int],
        strides: tuple[int, int],
        dilation_frames: int,
        n_mels: int,
        in_channels: int,
        mel_padding: Padding,
        time_padding: Padding,
    ):
        self.kernel_size = kernel
        self.strides = strides
        self.dilation_frames = dilation_frames
        self.n_mels = n_mels
        self.in_channels = in_channels
        self.time_padding: Padding = time_padding
        self.mel_pad = _pad(mel_padding, n_mels, kernel[1], strides[1])
        self.n_mels_out = 1 + (n_mels + sum(self.mel_pad) - kernel[1]) // strides[1]
        if self.n_mels_out < 1:
            raise ModelError(
                f"a kernel over {kernel[1]} mels does not fit the {n_mels} that are left; give the "
                f"network a front end with more mels"
            )

    @property
    def time_valid(self) -> bool:
        """Not padded in time."""
        return self.time_padding == "valid" or self.kernel_size[0] == 1

    @property
    def geometry(self) -> Geometry:
        """Receptive field and stride in frames of this layer's input."""
        return Geometry(1 + (self.kernel_size[0] - 1) * self.dilation_frames, self.strides[0])

    @property
    def history_frames(self) -> int:
        """Frames remembered between steps; negative when a stride skips leading frames."""
        return self.geometry.receptive_frames - self.geometry.stride_frames

    def initial_state(self, batch: int) -> State:
        """Return zeros ``[batch, history, n_mels, in_channels]``; nothing without a history."""
        if self.history_frames <= 0:
            return ()
        return jnp.zeros((batch, self.history_frames, self.n_mels, self.in_channels), jnp.float32)

    def step(self, x: jax.Array, state: State) -> tuple[jax.Array, State]:
        """Evaluate the next frames, a multiple of the stride."""
        if self.history_frames < 0:
            return self(x[:, -self.history_frames :]), state
        if self.history_frames == 0:
            return self(x), state
        # Written once: else XLA computes the layer before anew for what is remembered of it.
        joined = jax.lax.optimization_barrier(jnp.concatenate([state, x], axis=1))
        return self(joined), joined[:, joined.shape[1] - self.history_frames :]

    def padding_of(self, n_frames: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return what is added before and after the frames and the mels of a window."""
        geometry = self.geometry
        reach, stride = geometry.receptive_frames, geometry.stride_frames
        return _pad(self.time_padding, n_frames, reach, stride), self.mel_pad

    def taps(self, x: jax.Array) -> Iterator[tuple[int, int, jax.Array]]:
        """Give, for every place in the kernel, the inputs that meet it.

        Args:
            x: ``[..., frames, n_mels, channels]`` with the padding of `padding_of`.

        Yields:
            ``(frame, mel, inputs [..., frames_out, n_mels_out, channels])``.
        """
        for frame in self.meet_frames(x.shape[-3], (0, 0)):
            for mel, inputs in enumerate(self.mel_taps(x[..., frame.inputs, :, :])):
                yield frame.place, mel, inputs

    def mel_taps(self, x: jax.Array) -> Iterator[jax.Array]:
        """Give, for every place of the kernel along the mels, the inputs that meet it.

        Args:
            x: ``[..., n_mels, channels]``, padded.

        Yields:
            ``[..., n_mels_out, channels]``.
        """
        for j in range(self.kernel_size[1]):
            last = j + (self.n_mels_out - 1) * self.strides[1] + 1
            yield x[..., j : last : self.strides[1], :]

    def meet_frames(self, n_frames: int, padding: tuple[int, int]) -> list[Met]:
        """Return which frames meet each place of the kernel along time, without the padding.

        Args:
            n_frames: Frames of the input.
            padding: What would be added before and after them.
        """
        places = range(0, self.geometry.receptive_frames, self.dilation_frames)
        return _meet(places, n_frames, padding, self.strides[0])

    def meet_mels(self, n_mels: int, padding: tuple[int, int]) -> list[Met]:
        """Return which mels meet each place of the kernel along the mels, without the padding."""
        return _meet(range(self.kernel_size[1]), n_mels, padding, self.strides[1])

    def share_met(self, n_frames: int) -> float:
        """Return which share of the kernel's places an input meets, in the mean over a window."""
        frame_pad, mel_pad = self.padding_of(n_frames)
        frames, mels = self.meet_frames(n_frames, frame_pad), self.meet_mels(self.n_mels, mel_pad)
        met = sum(one.n_inputs for one in frames) * sum(one.n_inputs for one in mels)
        return met / (n_frames * self.n_mels * math.prod(self.kernel_size))


def _meet(places: range, n_inputs: int, padding: tuple[int, int], stride: int) -> list[Met]:
    """Return what meets each place of a kernel; places that only padding meets are left out."""
    before, after = padding
    n_outputs = (n_inputs + before + after - 1 - places[-1]) // stride + 1
    met = []
    for index, place in enumerate(places):
        first = max(0, -((place - before) // stride))
        last = min(n_outputs - 1, (n_inputs - 1 + before - place) // stride)
        if first <= last:
            start, stop = (output * stride + place - before for output in (first, last))
            met.append(Met(index, slice(start, stop + 1, stride), (first, n_outputs - 1 - last)))
    return met


def _pad(padding: Padding, length: int, reach: int, stride: int) -> tuple[int, int]:
    """Return what is added before and after an axis, as TensorFlow counts it."""
    if padding == "valid":
        return 0, 0
    total = max(0, (-(-length // stride) - 1) * stride + reach - length)
    return total // 2, total - total // 2
