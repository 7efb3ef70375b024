"""Our networks as float TensorFlow Lite files, so that LiteRT runs the same weights.

The layout is ours, ``[batch, frames, mels, channels]``.
"""

from typing import Any

import flatbuffers
import jax
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from streamcls.models import Classifier
from streamcls.models.compose import Chain, Residual
from streamcls.models.conv import Conv
from streamcls.models.layers import Dropout, Layer, MelMean, MelNorm, MelsToChannels
from streamcls.models.mobilenet_v1 import OneChannel
from streamcls.models.norms import Affine

_ACTIVATIONS = {
    None: schema.ActivationFunctionType.NONE,
    jax.nn.relu: schema.ActivationFunctionType.RELU,
    jax.nn.relu6: schema.ActivationFunctionType.RELU6,
}


def to_tflite(model: Classifier, batch: int, n_mels: int) -> bytes:
    """Return a folded classifier as a file: ``mel [batch, frames, n_mels]`` to logits."""
    graph = _Graph()
    mel = graph.add_tensor("mel", (batch, model.window_frames, n_mels))
    value = graph.add_layer(model.trunk, mel)
    value = graph.add_mean(value, (1, 2), keep=False)
    dense = model.head.dense
    assert dense.bias is not None
    weights = [np.asarray(dense.kernel[...]).T, np.asarray(dense.bias[...])]
    logits = graph.add(
        "FULLY_CONNECTED", [value, *map(graph.constant, weights)], "FullyConnectedOptions"
    )
    graph.infer_shapes(mel, logits)
    return graph.pack(mel, logits)


class _Graph:
    """Tensors and operators under construction; values are known by their index."""

    def __init__(self) -> None:
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

    def constant(self, value: np.ndarray) -> int:
        value = np.ascontiguousarray(value)
        return self.add_tensor(f"constant{len(self._tensors)}", value.shape, value)

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

    def add_mean(self, value: int, axes: tuple[int, ...], keep: bool) -> int:
        return self.add("MEAN", [value, self.integers(*axes)], "ReducerOptions", keepDims=keep)

    def add_layer(self, layer: Layer, value: int) -> int:
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
                activation = _ACTIVATIONS[layer.activation]
                return self.add("ADD", outputs, "AddOptions", fusedActivationFunction=activation)
            case Conv():
                return self._convolve(layer, value)
            case MelNorm():
                norm = layer.norm
                assert isinstance(norm, Affine), "fold the model first"
                scale, shift = (
                    self.constant(np.asarray(one[...])) for one in (norm.scale, norm.shift)
                )
                value = self.add("MUL", [value, scale], "MulOptions")
                value = self.add("ADD", [value, shift], "AddOptions")
                return self.add("EXPAND_DIMS", [value, self.integers(3)], "ExpandDimsOptions")
            case OneChannel():
                return self.add("EXPAND_DIMS", [value, self.integers(3)], "ExpandDimsOptions")
            case MelsToChannels():
                order = self.integers(0, 1, 3, 2)  # of one channel
                return self.add("TRANSPOSE", [value, order], "TransposeOptions")
            case MelMean():
                return self.add_mean(value, (2,), keep=True)
            case Dropout():
                return value
        raise TypeError(f"no TensorFlow Lite for {type(layer).__name__}")

    def _crop(self, value: int, n_frames: int) -> int:
        if n_frames == 0:
            return value
        limits = [self.integers(0, n_frames, 0, 0), self.integers(-1, -1, -1, -1)]
        return self.add("SLICE", [value, *limits], "SliceOptions")

    def _convolve(self, layer: Conv, value: int) -> int:
        kernel = np.asarray(layer.kernel[...])
        assert layer.bias is not None
        assert layer.dilation_frames == 1
        kernel = kernel[None] if layer.depthwise else kernel.transpose(3, 0, 1, 2)
        same = layer.time_padding == "same"
        settings = {
            "padding": schema.Padding.SAME if same else schema.Padding.VALID,
            "strideH": layer.strides[0],
            "strideW": layer.strides[1],
            "fusedActivationFunction": _ACTIVATIONS[layer.activation],
        }
        inputs = [value, self.constant(kernel), self.constant(np.asarray(layer.bias[...]))]
        if layer.depthwise:
            settings["depthMultiplier"] = 1
            return self.add("DEPTHWISE_CONV_2D", inputs, "DepthwiseConv2DOptions", **settings)
        return self.add("CONV_2D", inputs, "Conv2DOptions", **settings)

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
