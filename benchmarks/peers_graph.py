"""Our networks walked once for all peers: what to build from which layer.

A file format says how its operators are written (`peers_onnx`, `peers_tflite`); the order of the
layers, the crops that line up residual paths and the folded weights are the same for all.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import jax
import numpy as np

from streamcls.models import Classifier
from streamcls.models.compose import Chain, Residual
from streamcls.models.conv import Conv
from streamcls.models.layers import Dropout, Layer, MelMean, MelNorm, MelsToChannels
from streamcls.models.mobilenet_v1 import OneChannel
from streamcls.models.norms import Affine

Value = TypeVar("Value")
Activation = Callable[[jax.Array], jax.Array] | None


class Graph(ABC, Generic[Value]):
    """A graph under construction; how it knows its values is its own business."""

    _frame_size = 0  # numbers in a frame of the newest image

    def add_classifier(self, model: Classifier, mel: Value) -> Value:
        """Add a folded classifier with a mean over time as its head; return its logits."""
        dense = model.head.dense
        assert dense.bias is not None
        pooled = self.mean_all(self.add_layer(model.trunk, mel))
        return self.dense(pooled, np.asarray(dense.kernel[...]), np.asarray(dense.bias[...]))

    def add_layer(self, layer: Layer, value: Value) -> Value:
        """Add a layer of the trunk; return its output."""
        match layer:
            case Chain():
                for one in layer.layers:
                    value = self.add_layer(one, value)
                return value
            case Residual():
                reach = layer.geometry.receptive_frames
                outputs = []
                for path in layer.paths:
                    crop = reach - path.geometry.receptive_frames if layer.time_valid else 0
                    cropped = self.crop(value, crop) if crop else value
                    outputs.append(self.add_layer(path, cropped))
                return self.sum(outputs, layer.activation)
            case Conv():
                assert layer.bias is not None, "fold the model first"
                assert layer.dilation_frames == 1
                kernel, bias = np.asarray(layer.kernel[...]), np.asarray(layer.bias[...])
                self._frame_size = layer.n_mels_out * len(bias)
                return self.convolve(layer, value, kernel, bias)
            case MelNorm():
                norm = layer.norm
                assert isinstance(norm, Affine), "fold the model first"
                scale, shift = np.asarray(norm.scale[...]), np.asarray(norm.shift[...])
                self._frame_size = len(scale)
                return self.add_channel(self.scale(value, scale, shift))
            case OneChannel():
                return self.add_channel(value)
            case MelsToChannels():
                return self.mels_to_channels(value, self._frame_size)
            case MelMean():
                return self.mean_mels(value)
            case Dropout():
                return value
        raise TypeError(f"no peer has {type(layer).__name__} yet")

    @abstractmethod
    def crop(self, value: Value, n_frames: int) -> Value:
        """Drop the oldest frames."""

    @abstractmethod
    def sum(self, values: Sequence[Value], activation: Activation) -> Value:
        """Add two values and activate."""

    @abstractmethod
    def convolve(self, layer: Conv, value: Value, kernel: np.ndarray, bias: np.ndarray) -> Value:
        """Convolve as a layer does, with its kernel, bias and activation."""

    @abstractmethod
    def scale(self, value: Value, scale: np.ndarray, shift: np.ndarray) -> Value:
        """Scale and shift each mel of ``[batch, frames, mels]``."""

    @abstractmethod
    def add_channel(self, value: Value) -> Value:
        """Make an image of one channel of ``[batch, frames, mels]``."""

    @abstractmethod
    def mels_to_channels(self, value: Value, width: int) -> Value:
        """Make all numbers of a frame, so many, its channels, those of a mel side by side."""

    @abstractmethod
    def mean_mels(self, value: Value) -> Value:
        """Return the mean over the mels, an image one mel wide."""

    @abstractmethod
    def mean_all(self, value: Value) -> Value:
        """Return the mean over frames and mels, ``[batch, channels]``."""

    @abstractmethod
    def dense(self, value: Value, kernel: np.ndarray, bias: np.ndarray) -> Value:
        """Multiply ``[batch, channels]`` by a kernel ``[channels, classes]`` and add the bias."""
