"""Our networks as ONNX graphs, so that ONNX Runtime runs the same weights.

Frames are rows and mels columns of an image ``[batch, channels, frames, mels]``, as ONNX wants it.
"""

from typing import Any

import jax
import numpy as np
import onnx  # pyright: ignore[reportMissingImports] - group bench
from onnx import (  # pyright: ignore[reportMissingImports]
    TensorProto,
    helper,
    numpy_helper,
)

from streamcls.models import Classifier
from streamcls.models.compose import Chain, Residual
from streamcls.models.conv import Conv
from streamcls.models.layers import Dropout, Layer, MelMean, MelNorm, MelsToChannels
from streamcls.models.mobilenet_v1 import OneChannel
from streamcls.models.norms import Affine


def to_onnx(model: Classifier, n_mels: int) -> bytes:
    """Return a folded classifier as an ONNX file: ``mel [n, frames, mels]`` to ``logits``."""
    graph = _Graph()
    value = graph.add_layer(model.trunk, "mel")
    value = graph.add("ReduceMean", [value, graph.constant(np.array([2, 3]))], keepdims=0)
    dense = model.head.dense
    assert dense.bias is not None
    weights = [graph.constant(np.asarray(one[...])) for one in (dense.kernel, dense.bias)]
    graph.nodes.append(helper.make_node("Gemm", [value, *weights], ["logits"]))
    frames = model.window_frames
    proto = helper.make_graph(
        graph.nodes,
        "streamcls",
        [helper.make_tensor_value_info("mel", TensorProto.FLOAT, ["n", frames, n_mels])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", dense.out_features])],
        graph.constants,
    )
    file = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(file)
    return file.SerializeToString()


class _Graph:
    """Nodes and constants under construction; values are known by their names."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, value: np.ndarray) -> str:
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        name = f"value{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def add_layer(self, layer: Layer, value: str) -> str:
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
                    outputs.append(self.add_layer(path, self._crop(value, crop)))
                return self._activate(layer.activation, self.add("Add", outputs))
            case Conv():
                return self._convolve(layer, value)
            case MelNorm():
                norm = layer.norm
                assert isinstance(norm, Affine), "fold the model first"
                scale, shift = (
                    self.constant(np.asarray(one[...])) for one in (norm.scale, norm.shift)
                )
                value = self.add("Add", [self.add("Mul", [value, scale]), shift])
                return self.add("Unsqueeze", [value, self.constant(np.array([1]))])
            case OneChannel():
                return self.add("Unsqueeze", [value, self.constant(np.array([1]))])
            case MelsToChannels():
                return self.add("Transpose", [value], perm=[0, 3, 2, 1])
            case MelMean():
                return self.add("ReduceMean", [value, self.constant(np.array([3]))], keepdims=1)
            case Dropout():
                return value
        raise TypeError(f"no ONNX for {type(layer).__name__}")

    def _crop(self, value: str, n_frames: int) -> str:
        if n_frames == 0:
            return value
        limits = ([n_frames], [np.iinfo(np.int64).max], [2])
        return self.add("Slice", [value, *(self.constant(np.array(one)) for one in limits)])

    def _convolve(self, layer: Conv, value: str) -> str:
        kernel = np.asarray(layer.kernel[...])
        assert layer.bias is not None
        assert layer.dilation_frames == 1
        kernel = (
            kernel.transpose(2, 0, 1)[:, None] if layer.depthwise else kernel.transpose(3, 2, 0, 1)
        )
        same = "SAME_UPPER" if layer.time_padding == "same" else "VALID"
        value = self.add(
            "Conv",
            [value, self.constant(kernel), self.constant(np.asarray(layer.bias[...]))],
            strides=list(layer.strides),
            kernel_shape=list(layer.kernel_size),
            auto_pad=same,
            group=layer.in_channels if layer.depthwise else 1,
        )
        return self._activate(layer.activation, value)

    def _activate(self, activation: Any, value: str) -> str:
        if activation is None:
            return value
        if activation is jax.nn.relu:
            return self.add("Relu", [value])
        assert activation is jax.nn.relu6, activation
        limits = [self.constant(np.array(one, np.float32)) for one in (0, 6)]
        return self.add("Clip", [value, *limits])
