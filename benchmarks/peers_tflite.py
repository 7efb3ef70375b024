"""Our networks as float TensorFlow Lite files, so that LiteRT runs the same weights.

The layout is ours, ``[batch, frames, mels, channels]``.
"""

from collections.abc import Sequence
from typing import Any

import flatbuffers
import jax
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from benchmarks.peers_graph import Activation, Graph
from streamcls.models import Classifier
from streamcls.models.conv import Conv

_ACTIVATIONS = {
    None: schema.ActivationFunctionType.NONE,
    jax.nn.relu: schema.ActivationFunctionType.RELU,
    jax.nn.relu6: schema.ActivationFunctionType.RELU6,
}


def to_tflite(model: Classifier, batch: int, n_mels: int) -> bytes:
    """Return a folded classifier as a file: ``mel [batch, frames, n_mels]`` to logits."""
    graph = _LiteGraph(batch)
    mel = graph.add_tensor("mel", (batch, model.window_frames, n_mels))
    logits = graph.add_classifier(model, mel)
    graph.infer_shapes(mel, logits)
    return graph.pack(mel, logits)


class _LiteGraph(Graph[int]):
    """Tensors and operators under construction; values are known by their index."""

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._tensors: list[Any] = []
        self._buffers: list[Any] = [schema.BufferT()]
        self._operators: list[Any] = []
        self._codes: list[int] = []

    def add_tensor(self, name: str, shape: tuple[int, ...] = (), data: Any = None) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = name, list(shape), 0
        tensor.type = schema.TensorType.FLOAT32
        if data is not None:
            if data.dtype == np.int32:
                tensor.type = schema.TensorType.INT32
            buffer: Any = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            tensor.buffer = len(self._buffers)
            self._buffers.append(buffer)
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def constant(self, array: Any) -> int:
        array = np.ascontiguousarray(array)
        return self.add_tensor(f"constant{len(self._tensors)}", array.shape, array)

    def integers(self, *values: int) -> int:
        return self.constant(np.array(values, np.int32))

    def add(self, code: str, inputs: list[int], options: str, **settings: Any) -> int:
        builtin = getattr(schema.BuiltinOperator, code)
        if builtin not in self._codes:
            self._codes.append(builtin)
        operator = schema.OperatorT()
        operator.opcodeIndex = self._codes.index(builtin)
        operator.inputs, operator.outputs = inputs, [self.add_tensor(f"value{len(self._tensors)}")]
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
        operator.builtinOptions = getattr(schema, f"{options}T")()
        for name, value in settings.items():
            assert hasattr(operator.builtinOptions, name), name
            setattr(operator.builtinOptions, name, value)
        self._operators.append(operator)
        return operator.outputs[0]

    def crop(self, value: int, n_frames: int) -> int:
        limits = [self.integers(0, n_frames, 0, 0), self.integers(-1, -1, -1, -1)]
        return self.add("SLICE", [value, *limits], "SliceOptions")

    def sum(self, values: Sequence[int], activation: Activation) -> int:
        fused = _ACTIVATIONS[activation]
        return self.add("ADD", list(values), "AddOptions", fusedActivationFunction=fused)

    def convolve(self, layer: Conv, value: int, kernel: np.ndarray, bias: np.ndarray) -> int:
        same = layer.time_padding == "same"
        if not same and any(layer.mel_pad):
            limits = self.constant(np.array([(0, 0), (0, 0), layer.mel_pad, (0, 0)], np.int32))
            value = self.add("PAD", [value, limits], "PadOptions")
        settings = {
            "padding": schema.Padding.SAME if same else schema.Padding.VALID,
            "strideH": layer.strides[0],
            "strideW": layer.strides[1],
            "fusedActivationFunction": _ACTIVATIONS[layer.activation],
        }
        kernel = kernel[None] if layer.depthwise else kernel.transpose(3, 0, 1, 2)
        inputs = [value, self.constant(kernel), self.constant(bias)]
        if layer.depthwise:
            settings["depthMultiplier"] = 1
            return self.add("DEPTHWISE_CONV_2D", inputs, "DepthwiseConv2DOptions", **settings)
        return self.add("CONV_2D", inputs, "Conv2DOptions", **settings)

    def scale(self, value: int, scale: np.ndarray, shift: np.ndarray) -> int:
        scaled = self.add("MUL", [value, self.constant(scale)], "MulOptions")
        return self.add("ADD", [scaled, self.constant(shift)], "AddOptions")

    def add_channel(self, value: int) -> int:
        return self.add("EXPAND_DIMS", [value, self.integers(3)], "ExpandDimsOptions")

    def mels_to_channels(self, value: int, width: int) -> int:
        shape = self.integers(self._batch, -1, 1, width)
        return self.add("RESHAPE", [value, shape], "ReshapeOptions")

    def mean_mels(self, value: int) -> int:
        return self.add("MEAN", [value, self.integers(2)], "ReducerOptions", keepDims=True)

    def mean_all(self, value: int) -> int:
        return self.add("MEAN", [value, self.integers(1, 2)], "ReducerOptions", keepDims=False)

    def dense(self, value: int, kernel: np.ndarray, bias: np.ndarray) -> int:
        inputs = [value, self.constant(kernel.T), self.constant(bias)]
        return self.add("FULLY_CONNECTED", inputs, "FullyConnectedOptions")

    def infer_shapes(self, entry: int, exit_: int) -> None:
        """Let LiteRT find the shapes of all values: its fast kernels want them in the file."""
        plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        runtime = Interpreter(
            model_content=self.pack(entry, exit_), experimental_op_resolver_type=plain
        )
        runtime.allocate_tensors()
        shapes = {one["index"]: one["shape"].tolist() for one in runtime.get_tensor_details()}
        for operator in self._operators:
            (output,) = operator.outputs
            self._tensors[output].shape = shapes[output]

    def pack(self, entry: int, exit_: int) -> bytes:
        subgraph = schema.SubGraphT()
        subgraph.tensors, subgraph.operators = self._tensors, self._operators
        subgraph.inputs, subgraph.outputs = [entry], [exit_]
        model = schema.ModelT()
        model.version, model.subgraphs, model.buffers = 3, [subgraph], self._buffers
        model.operatorCodes = []
        for builtin in self._codes:
            code = schema.OperatorCodeT()
            code.builtinCode, code.version = builtin, 1
            code.deprecatedBuiltinCode = min(builtin, 127)
            model.operatorCodes.append(code)
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())
