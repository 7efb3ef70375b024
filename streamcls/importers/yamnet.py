"""YAMNet: from the published TensorFlow Lite file to a checkpoint.

The file is the int8 network that takes log-mel frames, as Google publishes it for the Coral boards
(`published`). Its weights are dequantised; activations stay float32 here, so scores differ from
the int8 runtime's by that runtime's rounding.

References:
    https://github.com/tensorflow/models/tree/master/research/audioset/yamnet (front end, classes)
    Gemmeke et al., "Audio Set: An ontology and human-labeled dataset for audio events", ICASSP
    2017 (the names of the classes, CC BY 4.0, in ``audioset_labels.txt``).
"""

import hashlib
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import jax.numpy as jnp
import msgspec
import numpy as np
from flax import nnx

from streamcls.checkpoint import Header, describe_window, save_checkpoint
from streamcls.errors import CheckpointError
from streamcls.features import FrontEnd
from streamcls.importers.tflite_file import Graph, Operator, read_graph
from streamcls.models import build_model
from streamcls.models.compose import Chain
from streamcls.models.conv import Conv
from streamcls.models.mobilenet_v1 import MobileNetV1Config

FRONT_END = FrontEnd(
    sample_rate_hz=16_000,
    frame_samples=400,
    hop_samples=160,
    n_fft=512,
    n_mels=64,
    fmin_hz=125.0,
    fmax_hz=7_500.0,
    log_offset=0.001,
    power=1.0,
    mel_scale="htk",
    mel_unit_area=False,
)

EVENT_THRESHOLD = 0.4
"""Probability from which a class counts as heard; see docs/yamnet.md for what others give."""
BACKGROUND = [
    "Silence",
    "Inside, small room",
    "Inside, large room or hall",
    "Inside, public space",
    "Outside, urban or manmade",
    "Outside, rural or natural",
]
"""Classes that say where the microphone is, not what happens there: no events."""

_LABELS_FILE = Path(__file__).with_name("audioset_labels.txt")
_NOT_LAYERS = frozenset({"QUANTIZE", "DEQUANTIZE", "RESHAPE", "SPLIT", "EXPAND_DIMS"})
"""What a converter puts around the layers; with one input and one output they compute nothing."""


def read_labels() -> list[str]:
    """Return the 521 AudioSet classes in the order of YAMNet's scores."""
    return _LABELS_FILE.read_text(encoding="utf-8").splitlines()


def import_yamnet(path: Path, name: str, target: Path) -> Header:
    """Make a checkpoint of YAMNet from a TensorFlow Lite file.

    Args:
        path: A file with log-mel frames ``[1, frames, mels]`` in and scores out.
        name: What the model will be called.
        target: The checkpoint; written whole or not at all.

    Returns:
        What the checkpoint says about itself.

    Raises:
        CheckpointError: Unreadable, not a MobileNetV1 with the 521 classes of AudioSet, or the
            target cannot be written.
    """
    graph = read_graph(path)
    convolutions, dense = _split_layers(path, graph)
    labels = read_labels()
    n_classes = dense.shape[-1]
    if len(graph.input_shape) != 3 or n_classes != len(labels):
        raise CheckpointError(
            f"{path} maps {list(graph.input_shape)} to {n_classes} classes, YAMNet maps "
            f"[1, frames, mels] to {len(labels)}; no other network can be imported"
        )
    _, window_frames, n_mels = graph.input_shape
    settings = MobileNetV1Config(
        window_frames=window_frames,
        stem_channels=convolutions[0].shape[-1],
        channels=tuple(one.shape[-1] for one in convolutions[2::2]),
        strides=tuple(one.strides[0] for one in convolutions[1::2]),
    )
    overrides = msgspec.to_builtins(settings)
    # Its shapes alone: drawing weights that are replaced at once takes half a minute.
    model = nnx.eval_shape(
        lambda: build_model("mobilenet_v1", overrides, n_mels, n_classes, nnx.Rngs(0))
    )
    assert isinstance(model.trunk, Chain)
    layers = (layer for layer in model.trunk.layers if isinstance(layer, Conv))
    for layer, operator in zip(layers, convolutions, strict=True):
        _assign_convolution(path, layer, operator)
    kernel, bias = dense.weights
    model.head.dense.kernel = nnx.Param(jnp.asarray(kernel.T))
    model.head.dense.bias = nnx.Param(jnp.asarray(bias))
    header = Header(
        name=name,
        description="Everyday sounds (YAMNet, AudioSet), 16 kHz",
        architecture="mobilenet_v1",
        settings=overrides,
        front_end=asdict(FRONT_END),
        labels=labels,
        unknown_labels=BACKGROUND,
        task="multi-label",
        window=describe_window(model),
        thresholds=dict.fromkeys(labels, EVENT_THRESHOLD),
        licence="Apache-2.0",
        training={
            "data": "AudioSet",
            "by": "Google",
            "imported_from": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        },
        creator=f"streamcls {version('streamcls')}",
    )
    save_checkpoint(target, model, header)
    return header


def _split_layers(path: Path, graph: Graph) -> tuple[list[Operator], Operator]:
    """Return the convolutions and the dense layer, after checking the order of all operators."""
    layers = [one for one in graph.operators if one.name not in _NOT_LAYERS]
    n_pairs = (len(layers) - 4) // 2
    expected = [
        "CONV_2D",
        *["DEPTHWISE_CONV_2D", "CONV_2D"] * n_pairs,
        "MEAN",
        "FULLY_CONNECTED",
        "LOGISTIC",
    ]
    names = [layer.name for layer in layers]
    if names != expected:
        raise CheckpointError(
            f"{path} is not a MobileNetV1 with a logistic output, as YAMNet is: its layers are "
            f"{' '.join(names[:6])} ... {' '.join(names[-3:])}; no other network can be imported"
        )
    return layers[: 2 * n_pairs + 1], layers[-2]


def _assign_convolution(path: Path, layer: Conv, operator: Operator) -> None:
    kernel, bias = operator.weights
    # TensorFlow Lite: [1, rows, columns, channels] depthwise, else [out, rows, columns, in].
    kernel = kernel[0] if layer.depthwise else np.moveaxis(kernel, 0, -1)
    found = (kernel.shape, operator.strides, operator.padding, operator.activation)
    needed = (nnx.state(layer)["kernel"].shape, layer.strides, "SAME", "RELU6")
    if found != needed:
        raise CheckpointError(
            f"{path}: {operator.name} has {found}, this network needs {needed} "
            f"(kernel, strides, padding, activation); no other network can be imported"
        )
    layer.kernel = nnx.Param(jnp.asarray(kernel))
    layer.bias = nnx.data(nnx.Param(jnp.asarray(bias)))
