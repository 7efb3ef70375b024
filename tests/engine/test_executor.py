"""Steps over slots give what the whole window gives, in every bucket and after every reuse.

Both kinds of executor run the same time-valid network here; a windowed one at a hop that is no
multiple of the network's stride.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamcls.checkpoint import Checkpoint, load_checkpoint
from streamcls.engine import Executor, choose_hop_samples
from streamcls.engine.windowed import WindowedExecutor
from streamcls.errors import ModelError
from streamcls.features import log_mel

TOLERANCE = 1e-4


@pytest.fixture(scope="session")
def evaluate(checkpoint: Checkpoint):
    """Whole-window logits: the reference."""
    model, front_end = checkpoint.model, checkpoint.front_end

    @jax.jit
    def logits(audio):
        return model(log_mel(audio, front_end))

    return logits


@pytest.fixture(scope="module", params=["incremental", "windowed"])
def either(request, executor: Executor, seasoned_path) -> Executor:
    if request.param == "incremental":
        return executor
    windowed = WindowedExecutor(load_checkpoint(seasoned_path), 7 * 160, max_streams=5)
    windowed.warm_up()
    return windowed


def as_logits(probabilities: np.ndarray) -> np.ndarray:
    """Undo the softmax up to the constant that it loses."""
    logits = np.log(probabilities)
    return logits - logits.mean(axis=-1, keepdims=True)


def test_streams_in_any_bucket_equal_their_windows(either: Executor, evaluate) -> None:
    executor = either
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


def test_a_reused_slot_remembers_nothing(either: Executor) -> None:
    executor = either
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


def test_level_and_peak_are_those_of_the_hop(executor: Executor) -> None:
    hop = executor.hop_samples
    audio = np.full((1, hop), 0.5, np.float32)
    audio[0, 7] = -1.0
    result = executor.step(audio, np.array([0], np.int32), np.array([True]))
    assert result.peak[0] == 1.0
    np.testing.assert_allclose(result.mean_square[0], np.mean(np.square(audio)), rtol=1e-6)
    np.testing.assert_allclose(result.probabilities.sum(), 1.0, rtol=1e-6)


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
