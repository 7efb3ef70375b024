"""Reading the layers of a TensorFlow Lite file as float32; nothing in it is executed.

Quantised tensors become what they stand for, ``(q - zero_point) * scale``, per tensor or per
channel.

References:
    https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tflite
from numpy.typing import NDArray

from streamcls.errors import CheckpointError
from streamcls.types import FloatArray

_MAX_FILE_BYTES = 256 << 20
_IDENTIFIER = b"TFL3"
_DTYPES = {
    tflite.TensorType.FLOAT32: np.dtype("<f4"),
    tflite.TensorType.INT32: np.dtype("<i4"),
    tflite.TensorType.INT8: np.dtype("i1"),
    tflite.TensorType.UINT8: np.dtype("u1"),
}


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator of the chain that leads from the input to the output.

    Attributes:
        name: As in TensorFlow Lite's schema, such as ``CONV_2D``.
        shape: Of its output, with a batch of one.
        weights: Constant inputs in their order, float32 in TensorFlow Lite's layout.
        strides: ``(rows, columns)`` of a convolution.
        padding: ``SAME`` or ``VALID`` of a convolution.
        activation: Fused into the operator, such as ``RELU6`` or ``NONE``.
    """

    name: str
    shape: tuple[int, ...]
    weights: tuple[FloatArray, ...] = ()
    strides: tuple[int, int] = (1, 1)
    padding: str = "VALID"
    activation: str = "NONE"


@dataclass(frozen=True, slots=True)
class Graph:
    """A file with one input, one output and no branches."""

    input_shape: tuple[int, ...]
    operators: tuple[Operator, ...]


def read_graph(path: Path) -> Graph:
    """Read a TensorFlow Lite file.

    Raises:
        CheckpointError: Unreadable, damaged, or not a chain of operators.
    """
    try:
        size_bytes = path.stat().st_size
        if size_bytes > _MAX_FILE_BYTES:
            raise CheckpointError(f"{path} has {size_bytes} bytes, the limit is {_MAX_FILE_BYTES}")
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    if data[4:8] != _IDENTIFIER:
        raise CheckpointError(f"{path} is no TensorFlow Lite file (it has not the mark TFL3)")
    try:
        with np.errstate(all="ignore"):  # numbers that are none are refused below
            return _read(data)
    # Offsets of a damaged file lead anywhere; the reader only slices and unpacks.
    except (struct.error, IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is damaged or of a kind that is not supported ({error}); copy it again"
        ) from None


def _read(data: bytes) -> Graph:
    model: Any = tflite.Model.GetRootAs(data, 0)
    if model.SubgraphsLength() != 1:
        raise ValueError(f"{model.SubgraphsLength()} graphs, supported is one")
    graph = model.Subgraphs(0)
    if (graph.InputsLength(), graph.OutputsLength()) != (1, 1):
        raise ValueError("needs exactly one input and one output")
    names = {
        value: name for name, value in vars(tflite.BuiltinOperator).items() if name[0].isupper()
    }
    current = graph.Inputs(0)
    input_shape = tuple(map(int, graph.Tensors(current).ShapeAsNumpy()))
    operators = []
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        name = names[model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode()]
        inputs = [operator.Inputs(i) for i in range(operator.InputsLength())]
        constants = [i for i in inputs if model.Buffers(graph.Tensors(i).Buffer()).DataLength()]
        if [i for i in inputs if i not in constants] != [current] or operator.OutputsLength() != 1:
            raise ValueError(f"operator {index} ({name}) branches, supported is a plain chain")
        current = operator.Outputs(0)
        operators.append(
            Operator(
                name,
                tuple(map(int, graph.Tensors(current).ShapeAsNumpy())),
                tuple(_dequantise(model, graph.Tensors(i)) for i in constants),
                **_options(operator, name),
            )
        )
    if current != graph.Outputs(0):
        raise ValueError("the chain does not end in the output")
    return Graph(input_shape, tuple(operators))


def _dequantise(model: Any, tensor: Any) -> FloatArray:
    shape = tuple(map(int, tensor.ShapeAsNumpy())) if tensor.ShapeLength() else ()
    content: NDArray[np.uint8] = model.Buffers(tensor.Buffer()).DataAsNumpy()
    values = np.frombuffer(content.tobytes(), _DTYPES[tensor.Type()]).reshape(shape)
    quantisation = tensor.Quantization()
    if quantisation is not None and quantisation.ScaleLength() > 0:
        scale = quantisation.ScaleAsNumpy().astype(np.float64)
        zero_point = quantisation.ZeroPointAsNumpy()
        along = [1] * len(shape)
        if len(scale) > 1:
            along[quantisation.QuantizedDimension()] = -1
        values = (values - zero_point.reshape(along)) * scale.reshape(along)
    # Not above the largest float32 and not NaN, in one comparison.
    if not np.all(np.abs(values) <= np.finfo(np.float32).max):
        raise ValueError("weights that are not finite")
    return values.astype(np.float32)


def _options(operator: Any, name: str) -> dict[str, Any]:
    """Return the fields of `Operator` that only some kinds have."""
    match name:
        case "CONV_2D":
            options: Any = tflite.Conv2DOptions()
        case "DEPTHWISE_CONV_2D":
            options = tflite.DepthwiseConv2DOptions()
        case "FULLY_CONNECTED":
            options = tflite.FullyConnectedOptions()
        case _:
            return {}
    table = operator.BuiltinOptions()
    options.Init(table.Bytes, table.Pos)
    activation = {tflite.ActivationFunctionType.NONE: "NONE"}
    activation |= {
        value: key for key, value in vars(tflite.ActivationFunctionType).items() if key[0].isupper()
    }
    found = {"activation": activation[options.FusedActivationFunction()]}
    if name == "FULLY_CONNECTED":
        return found
    if (options.DilationHFactor(), options.DilationWFactor()) != (1, 1):
        raise ValueError(f"{name} with dilation is not supported")
    padding = {tflite.Padding.SAME: "SAME", tflite.Padding.VALID: "VALID"}[options.Padding()]
    return found | {"strides": (options.StrideH(), options.StrideW()), "padding": padding}
