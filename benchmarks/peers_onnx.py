"""Our networks as ONNX graphs, so that ONNX Runtime runs the same weights.

Frames are rows and mels columns of an image ``[batch, channels, frames, mels]``, as ONNX wants it.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import onnx  # pyright: ignore[reportMissingImports] - group bench
from onnx import (  # pyright: ignore[reportMissingImports]
    TensorProto,
    helper,
    numpy_helper,
)

from benchmarks.peers_graph import Activation, Graph
from streamcls.models import Classifier
from streamcls.models.conv import Conv


def to_onnx(model: Classifier, n_mels: int) -> bytes:
    """Return a folded classifier as an ONNX file: ``mel [n, frames, mels]`` to ``logits``."""
    graph = _OnnxGraph()
    logits = graph.add_classifier(model, "mel")
    shapes = {
        "mel": ["n", model.window_frames, n_mels],
        logits: ["n", model.head.dense.out_features],
    }
    entry, exit_ = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    )
    proto = helper.make_graph(graph.nodes, "streamcls", [entry], [exit_], graph.constants)
    file = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(file)
    return file.SerializeToString()


class _OnnxGraph(Graph[str]):
    """Nodes and constants under construction; values are known by their names."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, array: Any) -> str:
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        name = f"value{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def crop(self, value: str, n_frames: int) -> str:
        limits = ([n_frames], [np.iinfo(np.int64).max], [2])
        return self.add("Slice", [value, *map(self.constant, limits)])

    def sum(self, values: Sequence[str], activation: Activation) -> str:
        return self._activate(activation, self.add("Add", list(values)))

    def convolve(self, layer: Conv, value: str, kernel: np.ndarray, bias: np.ndarray) -> str:
        order = (2, 0, 1) if layer.depthwise else (3, 2, 0, 1)
        kernel = kernel.transpose(order)
        before, after = layer.mel_pad
        padding: dict[str, Any] = {"pads": [0, before, 0, after]}
        if layer.time_padding == "same":
            padding = {"auto_pad": "SAME_UPPER"}
        value = self.add(
            "Conv",
            [
                value,
                self.constant(kernel[:, None] if layer.depthwise else kernel),
                self.constant(bias),
            ],
            strides=list(layer.strides),
            kernel_shape=list(layer.kernel_size),
            **padding,
            group=layer.in_channels if layer.depthwise else 1,
        )
        return self._activate(layer.activation, value)

    def scale(self, value: str, scale: np.ndarray, shift: np.ndarray) -> str:
        scaled = self.add("Mul", [value, self.constant(scale)])
        return self.add("Add", [scaled, self.constant(shift)])

    def add_channel(self, value: str) -> str:
        return self.add("Unsqueeze", [value, self.constant([1])])

    def mels_to_channels(self, value: str, width: int) -> str:
        value = self.add("Transpose", [value], perm=[0, 2, 3, 1])
        value = self.add("Reshape", [value, self.constant([0, 0, 1, width])])
        return self.add("Transpose", [value], perm=[0, 3, 1, 2])

    def mean_mels(self, value: str) -> str:
        return self.add("ReduceMean", [value, self.constant([3])], keepdims=1)

    def mean_all(self, value: str) -> str:
        return self.add("ReduceMean", [value, self.constant([2, 3])], keepdims=0)

    def dense(self, value: str, kernel: np.ndarray, bias: np.ndarray) -> str:
        return self.add("Gemm", [value, self.constant(kernel), self.constant(bias)])

    def _activate(self, activation: Activation, value: str) -> str:
        if activation is None:
            return value
        if activation is jax.nn.relu:
            return self.add("Relu", [value])
        assert activation is jax.nn.relu6, activation
        limits = [self.constant(np.float32(one)) for one in (0, 6)]
        return self.add("Clip", [value, *limits])
