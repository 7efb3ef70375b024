"""The imported network against the runtime that its makers publish it for, on real sound."""

import csv
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from streamcls.checkpoint import Checkpoint
from streamcls.classifier import Classifier
from streamcls.errors import CheckpointError
from streamcls.features import log_mel
from streamcls.importers.tflite_file import read_graph
from streamcls.importers.yamnet import FRONT_END, import_yamnet, read_labels
from streamcls.models.compose import Chain
from streamcls.types import FloatArray

litert = pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert is missing")

pytestmark = pytest.mark.shared_data


class Reference:
    """The published file in the reference runtime: float frames in, int8 inside."""

    def __init__(self, path: Path):
        self._runtime = litert.Interpreter(str(path), num_threads=1)
        self._runtime.allocate_tensors()
        self._input = self._runtime.get_input_details()[0]["index"]
        self._output = self._runtime.get_output_details()[0]["index"]

    def score(self, frames: FloatArray) -> FloatArray:
        """Map ``[n, 96, 64]`` to scores ``[n, 521]``, multiples of 1/256."""
        scores = []
        for one in frames:
            self._runtime.set_tensor(self._input, one[None])
            self._runtime.invoke()
            scores.append(self._runtime.get_tensor(self._output)[0].copy())
        return np.stack(scores)

    def rounding(self) -> list[tuple[float, int]]:
        """Return ``(scale, zero point)`` after the input and after each layer, in order."""
        layers = {"QUANTIZE", "CONV_2D", "DEPTHWISE_CONV_2D", "MEAN", "FULLY_CONNECTED"}
        tensors = {one["index"]: one["quantization"] for one in self._runtime.get_tensor_details()}
        operators = self._runtime._get_ops_details()
        return [tensors[one["outputs"][0]] for one in operators if one["op_name"] in layers]


@pytest.fixture(scope="module")
def reference(tflite_path: Path) -> Reference:
    return Reference(tflite_path)


@pytest.fixture(scope="module")
def frames(clips) -> FloatArray:
    """Every window of the clips without overlap, ``[n, 96, 64]``."""
    windows = []
    for audio in clips.values():
        mel = np.asarray(log_mel(jnp.asarray(audio[None]), FRONT_END))[0]
        n_windows = len(mel) // 96
        windows.append(mel[: n_windows * 96].reshape(n_windows, 96, 64))
    return np.concatenate(windows)


def test_scores_are_those_of_the_reference_but_for_its_rounding(
    reference: Reference, yamnet: Checkpoint, frames: FloatArray
) -> None:
    """With the runtime's roundings put in, logits agree to one of its steps (0.31) or two."""
    model = yamnet.model
    assert isinstance(model.trunk, Chain)
    after_input, *after_conv, after_mean, after_dense = reference.rounding()

    def to_grid(x: jax.Array, grid: tuple[float, int]) -> jax.Array:
        scale, zero_point = grid
        steps = jnp.clip(jnp.round(x / scale) + zero_point, -128, 127) - zero_point
        return steps * scale

    @jax.jit
    def logits_with_rounding(x: jax.Array) -> jax.Array:
        first, *convolutions, _ = model.trunk.layers  # type: ignore[attr-defined]
        x = first(to_grid(x, after_input))
        for layer, grid in zip(convolutions, after_conv, strict=True):
            x = to_grid(layer(x), grid)
        x = to_grid(x.mean(axis=(1, 2)), after_mean)
        return to_grid(model.head.dense(x), after_dense)

    expected = reference.score(frames)
    logits = np.asarray(logits_with_rounding(jnp.asarray(frames)))
    # Scores that the runtime can tell apart; beyond them the logistic is flat on its grid.
    inside = (expected > 0.02) & (expected < 0.98)
    assert inside.sum() > 1000
    steps = np.abs(logits - np.log(expected / (1 - expected + 1e-9) + 1e-9))[inside]
    step = after_dense[0]
    assert np.mean(steps < 0.6 * step) > 0.9
    assert np.mean(steps < 1.6 * step) > 0.999
    assert steps.max() < 2.6 * step


def test_scores_without_rounding_stay_close(
    reference: Reference, yamnet: Checkpoint, frames: FloatArray
) -> None:
    graph, weights = nnx.split(yamnet.model)
    evaluate = jax.jit(lambda weights, x: jax.nn.sigmoid(nnx.merge(graph, weights)(x)))
    ours = np.asarray(evaluate(weights, jnp.asarray(frames)))
    expected = reference.score(frames)
    apart = np.abs(ours - expected)
    assert apart.mean() < 0.001
    assert apart.max() < 0.15
    # Where the runtime itself tells the best from the second best, so do we.
    first, second = np.sort(expected, axis=1)[:, [-1, -2]].T
    clear = first - second > 0.1
    assert clear.sum() > 30
    assert (ours.argmax(axis=1) == expected.argmax(axis=1))[clear].all()


def test_features_are_those_of_the_published_vectors(published: Path) -> None:
    """The vectors were made from audio scaled to a peak of one, with an offset of 0.01."""
    samples = np.fromfile(published / "coral_yamnet_test_audio.bin", "<i2").astype(np.float32)
    expected = np.fromfile(published / "coral_yamnet_test_spectra.bin", "<f4").reshape(96, 64)
    as_there = replace(FRONT_END, log_offset=0.01)
    ours = np.asarray(log_mel(jnp.asarray(samples / np.abs(samples).max())[None], as_there))[0]
    np.testing.assert_allclose(ours, expected, atol=0.01)
    assert np.abs(ours - expected).mean() < 0.002


def test_the_published_audio_is_speech(reference: Reference, yamnet_path, published) -> None:
    samples = np.fromfile(published / "coral_yamnet_test_audio.bin", "<i2")
    scores = Classifier(yamnet_path).classify(samples)
    best, *_ = scores
    assert best == "Speech"
    mel = log_mel(jnp.asarray(samples[None], jnp.float32) / 32768, FRONT_END)
    expected = reference.score(np.asarray(mel))[0]
    apart = [scores[label] - expected[i] for i, label in enumerate(read_labels())]
    assert np.abs(apart).max() < 0.1


def test_labels_are_those_of_the_class_map(published: Path) -> None:
    with (published / "yamnet_class_map.csv").open() as file:
        assert read_labels() == [row["display_name"] for row in csv.DictReader(file)]


def test_other_files_are_refused(tmp_path: Path, tflite_path: Path) -> None:
    content = tflite_path.read_bytes()
    target = tmp_path / "out.safetensors"

    def refusal(changed: bytes) -> str:
        path = tmp_path / "changed.tflite"
        path.write_bytes(changed)
        with pytest.raises(CheckpointError) as caught:
            import_yamnet(path, "yamnet", target)
        assert not target.exists()
        return str(caught.value)

    assert "no TensorFlow Lite file" in refusal(b"GIF89a")
    assert "no TensorFlow Lite file" in refusal(b"")
    for length in (8, 100, 4000, len(content) - 1, len(content) // 2):
        assert "damaged" in refusal(content[:length])
    with pytest.raises(CheckpointError, match="No such file"):
        read_graph(tmp_path / "none.tflite")
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot write"):
        import_yamnet(tflite_path, "yamnet", tmp_path / "file" / "out.safetensors")


def test_damage_is_an_error_or_harmless_but_never_a_crash(tmp_path: Path, tflite_path) -> None:
    content = tflite_path.read_bytes()
    generator = np.random.default_rng(0)
    # The tables lie at both ends, the weights between them.
    places = np.concatenate([np.arange(2000), len(content) - 1 - np.arange(30_000)])
    refused = 0
    for _ in range(60):
        damaged = bytearray(content)
        for place in generator.choice(places, 8):
            damaged[place] = generator.integers(256)
        path = tmp_path / "damaged.tflite"
        path.write_bytes(damaged)
        try:
            read_graph(path)
        except CheckpointError:
            refused += 1
    assert refused > 10
