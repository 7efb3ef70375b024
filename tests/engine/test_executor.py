"""Steps over slots give what the whole window gives, in every bucket and after every reuse."""

import re
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from streamcls.checkpoint import Checkpoint, Header, describe_window, load_checkpoint
from streamcls.engine import Executor, build_executor, choose_hop_samples
from streamcls.engine.incremental import IncrementalExecutor
from streamcls.engine.windowed import WindowedExecutor
from streamcls.errors import ModelError
from streamcls.features import FrontEnd, log_mel
from streamcls.models import Classifier
from tests.models.checkpoints import save_seasoned
from tests.models.random_networks import N_CLASSES, N_MELS, classifiers

TOLERANCE = 1e-4

Evaluate = Callable[[jax.Array], jax.Array]


def evaluate_windows(checkpoint: Checkpoint) -> Evaluate:
    """Return ``audio [batch, window_samples]`` to logits: the reference."""
    graph, weights = nnx.split(checkpoint.model)
    run = jax.jit(
        lambda weights, audio: nnx.merge(graph, weights)(log_mel(audio, checkpoint.front_end))
    )
    return lambda audio: run(weights, audio)


@pytest.fixture(scope="module", params=["incremental", "windowed"])
def served(request, executor: Executor, checkpoint, tmp_path_factory) -> tuple[Executor, Evaluate]:
    """An executor of each kind with its reference; 70 ms are a legal hop only without a stride."""
    if request.param == "incremental":
        return executor, evaluate_windows(checkpoint)
    path = save_seasoned(
        tmp_path_factory.mktemp("checkpoint") / "same.safetensors", "ds_cnn_s_same"
    )
    reference, own = load_checkpoint(path), load_checkpoint(path)
    windowed = build_executor(own, choose_hop_samples(own, 70), max_streams=5)
    assert isinstance(windowed, WindowedExecutor)
    windowed.warm_up()
    return windowed, evaluate_windows(reference)


def as_logits(probabilities: np.ndarray) -> np.ndarray:
    """Undo the softmax up to the constant that it loses."""
    logits = np.log(probabilities)
    return logits - logits.mean(axis=-1, keepdims=True)


def test_streams_in_any_bucket_equal_their_windows(served: tuple[Executor, Evaluate]) -> None:
    executor, evaluate = served
    generator = np.random.default_rng(0)
    hop, window = executor.hop_samples, executor.window_samples
    n_hops = -(-window // hop) + 12
    # White noise that changes its level, so that windows differ.
    levels = np.repeat(generator.uniform(0.01, 0.3, (5, n_hops)), hop, axis=1)
    audio = (generator.normal(0, 1, levels.shape) * levels).astype(np.float32)
    heard = np.zeros(5, int)
    compared = 0
    while heard.min() < n_hops:
        waiting = np.flatnonzero(heard < n_hops)
        chosen = generator.permutation(waiting)[: generator.integers(1, len(waiting) + 1)]
        blocks = np.stack([audio[s, heard[s] * hop : (heard[s] + 1) * hop] for s in chosen])
        result = executor.step(blocks, chosen.astype(np.int32), heard[chosen] == 0)
        heard[chosen] += 1
        for row, stream in enumerate(chosen):
            end = heard[stream] * hop
            if end < window:
                continue
            heard_now = audio[stream : stream + 1, end - window : end]
            expected = np.asarray(evaluate(jnp.asarray(heard_now)))[0]
            got = as_logits(result.probabilities[row])
            np.testing.assert_allclose(got, expected - expected.mean(), atol=TOLERANCE)
            compared += 1
    assert compared >= 5 * 12


def test_a_reused_slot_remembers_nothing(served: tuple[Executor, Evaluate]) -> None:
    executor, _ = served
    generator = np.random.default_rng(1)
    hop = executor.hop_samples
    n_hops = -(-executor.window_samples // hop)
    slot, yes, no = np.array([3], np.int32), np.array([True]), np.array([False])
    audio = generator.normal(0, 0.1, (n_hops, 1, hop)).astype(np.float32)
    loud = generator.normal(0, 0.5, (1, hop)).astype(np.float32)

    def listen() -> np.ndarray:
        result = executor.step(audio[0], slot, yes)
        for index in range(1, n_hops):
            result = executor.step(audio[index], slot, no)
        return result.probabilities

    first = listen()
    for _ in range(20):
        executor.step(loud, slot, no)
    np.testing.assert_array_equal(listen(), first)


# An offset as large as the noise below: features near 1 keep the logits of random weights small.
FRONT_END = FrontEnd(2_000, 20, 16, 32, N_MELS, 0.0, 1_000.0, log_offset=1.0, mel_unit_area=False)
LABELS = [f"class_{index}" for index in range(N_CLASSES)]


def checkpoint_of(model: Classifier) -> Checkpoint:
    header = Header(
        name="random",
        description="",
        architecture="random",
        settings={},
        front_end={},
        labels=LABELS,
        window=describe_window(model),
        licence="",
        creator="tests",
    )
    return Checkpoint(Path(), header, FRONT_END, model)


@settings(max_examples=3, deadline=None)
@given(model=classifiers(), seed=st.integers(0, 2**32 - 1))
def test_random_networks_on_slots_equal_their_windows(model: Classifier, seed: int) -> None:
    """Streams begin, stall, lose audio and give their slot to others, in both executors."""
    generator = np.random.default_rng(seed)
    stride, frames = model.geometry.stride_frames, model.window_frames
    hop = stride * -(-frames // (3 * stride)) * FRONT_END.hop_samples
    checkpoint = checkpoint_of(model)
    evaluate = evaluate_windows(checkpoint)
    executors = [kind(checkpoint, hop, 3, 2) for kind in (IncrementalExecutor, WindowedExecutor)]
    for executor in executors:
        executor.warm_up()
    window = executors[0].window_samples
    heard = [np.zeros(0, np.float32)] * 3
    compared = 0
    for _ in range(40):
        slots = generator.permutation(3)[: generator.integers(1, 3)].astype(np.int32)
        fresh = np.array([len(heard[slot]) == 0 for slot in slots])
        fresh |= generator.random(len(slots)) < 0.05
        audio = generator.normal(0, 0.2, (len(slots), hop)).astype(np.float32)
        results = [executor.step(audio, slots, fresh).probabilities for executor in executors]
        for row, slot in enumerate(slots):
            before = heard[slot][:0] if fresh[row] else heard[slot]
            heard[slot] = np.concatenate([before, audio[row]])
            if len(heard[slot]) < window:
                continue
            expected = np.asarray(evaluate(jnp.asarray(heard[slot][None, -window:])))[0]
            for probabilities in results:
                got = as_logits(probabilities[row])
                np.testing.assert_allclose(got, expected - expected.mean(), atol=TOLERANCE)
            compared += 1
    assert compared > 5


def test_level_and_peak_are_those_of_the_hop(executor: Executor) -> None:
    hop = executor.hop_samples
    audio = np.full((1, hop), 0.5, np.float32)
    audio[0, 7] = -1.0
    result = executor.step(audio, np.array([0], np.int32), np.array([True]))
    assert result.peak[0] == 1.0
    np.testing.assert_allclose(result.mean_square[0], np.mean(np.square(audio)), rtol=1e-6)
    np.testing.assert_allclose(result.probabilities.sum(), 1.0, rtol=1e-6)


def test_no_step_copies_the_state_of_all_streams(served: tuple[Executor, Evaluate]) -> None:
    executor, _ = served
    for bucket in executor.buckets:
        program = executor.compiled(bucket).as_text() or ""
        whole = rf"f32\[{executor.max_streams + 1},\d+\]\S*"
        assert re.search(rf"{whole} parameter\(", program)
        assert not re.search(rf"{whole} copy\(", program)


def test_products_are_of_whole_float32_on_any_device(served: tuple[Executor, Evaluate]) -> None:
    """A CPU knows nothing else; accelerators round to 10 or 7 bits where they are not told."""
    executor, _ = served
    for bucket in executor.buckets:
        lines = (executor.compiled(bucket).as_text() or "").splitlines()
        products = [line for line in lines if " dot(" in line or " convolution(" in line]
        assert len(products) > 3
        assert all("operand_precision={highest,highest}" in line for line in products)


def test_profiles_can_tell_the_parts_of_a_step(served: tuple[Executor, Evaluate]) -> None:
    executor, _ = served
    program = executor.compiled(executor.buckets[-1]).as_text() or ""
    for part in ("take_state", "front_end", "trunk", "head", "scores", "level", "put_state"):
        assert f"jit(_step)/{part}/" in program


@pytest.mark.parametrize(
    ("hop_ms", "remedy"),
    [(50, "use 40 ms or 80 ms"), (10, "use 40 ms$"), (80.01, "use 80 ms or 120 ms")],
)
def test_hop_that_is_no_multiple_of_the_stride(checkpoint, hop_ms, remedy) -> None:
    with pytest.raises(ModelError, match=f"hop_ms = {hop_ms} .* which is 40 ms; {remedy}"):
        choose_hop_samples(checkpoint, hop_ms)


def test_legal_hops(checkpoint) -> None:
    assert choose_hop_samples(checkpoint, 40) == 640
    assert choose_hop_samples(checkpoint, 80) == 1280
    assert choose_hop_samples(checkpoint, 400) == 6400
