"""Incremental steps give the logits of the whole window, for networks of every family."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from streamcls.models import (
    Branches,
    Chain,
    Classifier,
    Conv,
    Geometry,
    Pool,
    Residual,
)
from streamcls.models.heads import GruHead
from streamcls.models.layers import MelMean, MelNorm
from tests.models.networks import build_seasoned
from tests.models.random_networks import N_MELS, classifiers

TOLERANCE = 1e-4


ONE_OF_EACH = ["bc_resnet_1", "cnn_tc_resnet_1", "ds_cnn_s", "sb_cnn", "smales_cnn", "tc_resnet_8"]
"""The time-valid families; other sizes are the same code."""


@pytest.fixture(scope="module", params=ONE_OF_EACH)
def model(request) -> Classifier:
    small = {"channels": [4, 6, 6], "dense": 8} if request.param == "sb_cnn" else None
    return build_seasoned(request.param, settings=small)


def test_random_chunkings_equal_the_window(model: Classifier) -> None:
    """The steps are folded, the window is not; only some are those prepared for."""
    stride = model.geometry.stride_frames
    graph, weights = nnx.split(model)
    window = jax.jit(lambda weights, x: nnx.merge(graph, weights)(x))
    served = nnx.merge(graph, weights, copy=True)
    served.fold()
    served.prepare(2 * stride)
    served_graph, served_weights = nnx.split(served)
    step = jax.jit(lambda weights, x, state: nnx.merge(served_graph, weights).step(x, state))
    generator = np.random.default_rng(3)
    mel = generator.normal(-4, 3, (2, model.window_frames + 20 * stride, 40)).astype(np.float32)
    compared = 0
    for _ in range(3):
        state, end = served.initial_state(2), 0
        while end < mel.shape[1]:
            hop = min(stride * int(generator.integers(1, 4)), mel.shape[1] - end)
            hop -= hop % stride
            if hop == 0:
                break
            logits, state = step(served_weights, jnp.asarray(mel[:, end : end + hop]), state)
            end += hop
            if end >= model.window_frames:
                expected = window(weights, jnp.asarray(mel[:, end - model.window_frames : end]))
                np.testing.assert_allclose(logits, expected, atol=TOLERANCE)
                compared += 1
    assert compared >= 20


def test_folding_keeps_the_logits(model: Classifier) -> None:
    graph, state = nnx.split(model)
    folded = nnx.merge(graph, state, copy=True)
    folded.fold()
    mel = np.random.default_rng(5).normal(-4, 3, (4, model.window_frames, 40)).astype(np.float32)
    window = nnx.jit(lambda model, x: model(x))
    expected = window(model, jnp.asarray(mel))
    np.testing.assert_allclose(window(folded, jnp.asarray(mel)), expected, atol=TOLERANCE)
    norms = [m for _, m in nnx.iter_modules(folded) if isinstance(m, nnx.BatchNorm)]
    before = [m for _, m in nnx.iter_modules(model) if isinstance(m, nnx.BatchNorm)]
    assert len(norms) < len(before)


def test_geometry_is_what_the_outputs_depend_on(model: Classifier) -> None:
    """Perturb single frames: exactly the R frames of an output move it."""
    geometry = model.geometry
    frames = geometry.inputs(3)
    mel = np.random.default_rng(6).normal(-4, 3, (1, frames, 40)).astype(np.float32)
    trunk = nnx.jit(lambda trunk, x: trunk(x))
    base = np.asarray(trunk(model.trunk, jnp.asarray(mel)))
    assert base.shape[1] == 3
    first, last = geometry.stride_frames, geometry.stride_frames + geometry.receptive_frames - 1
    for frame, moves in [(first - 1, False), (first, True), (last, True), (last + 1, False)]:
        touched = mel.copy()
        touched[:, frame] += 50.0
        output = np.asarray(trunk(model.trunk, jnp.asarray(touched)))
        assert bool(np.abs(output[:, 1] - base[:, 1]).max() > 0) is moves, frame


@settings(max_examples=12, deadline=None)
@given(model=classifiers(), hops=st.lists(st.integers(1, 3), min_size=2, max_size=3))
def test_random_networks_stream_exactly(model: Classifier, hops: list[int]) -> None:
    stride, window_frames = model.geometry.stride_frames, model.window_frames
    # Enough hops in one to fill the window, then the drawn ones.
    hops = [-(-window_frames // stride), *hops]
    ends = np.cumsum(hops) * stride
    mel = np.random.default_rng(2).normal(0, 1, (2, ends[-1], N_MELS)).astype(np.float32)

    @jax.jit  # one program: compiling is what takes the time here
    def run(weights, mel):
        model = nnx.merge(graph, weights)
        state, stepped = model.initial_state(2), []
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            logits, state = model.step(mel[:, start:end], state)
            stepped.append(logits)
        windows = jnp.concatenate([mel[:, end - window_frames : end] for end in ends])
        return jnp.concatenate(stepped), model(windows)

    model.prepare(hops[1] * stride)
    graph, weights = nnx.split(model)
    stepped, windows = run(weights, jnp.asarray(mel))
    np.testing.assert_allclose(stepped, windows, atol=TOLERANCE)


def test_a_million_frames_do_not_drift() -> None:
    rngs = nnx.Rngs(2)
    branches = Branches(
        [
            Conv(4, 4, kernel=(3, 3), dilation_frames=2, strides=(2, 1), n_mels=5, rngs=rngs),
            Pool("mean", (3, 3), (2, 1), n_mels=5, channels=4, mel_padding="same"),
        ]
    )
    trunk = Chain(
        [
            MelNorm(5, rngs=rngs),
            Conv(1, 4, kernel=(3, 3), n_mels=5, norm="subspectral", rngs=rngs),
            branches,
            Residual(Conv(8, 8, kernel=(3, 1), n_mels=5, rngs=rngs), Chain([]), jax.nn.relu),
            MelMean(),
        ]
    )
    model = Classifier(trunk, GruHead(8, 3, 0.0, rngs), 8, 24)
    model.fold()
    hop_frames, n_hops = 50, 20_000
    model.prepare(hop_frames)
    key = jax.random.key(0)

    def mel_of(hop):
        """Return the frames of a hop; loud and quiet stretches alternate."""
        loudness = jnp.where(hop // 7 % 2 == 0, 30.0, 0.1)
        return loudness * jax.random.normal(jax.random.fold_in(key, hop), (1, hop_frames, 5))

    @jax.jit
    def run():
        def step(state, hop):
            logits, state = model.step(mel_of(hop), state)
            return state, logits[0]

        _, stepped = jax.lax.scan(step, model.initial_state(1), jnp.arange(n_hops))
        windows = jax.vmap(lambda hop: mel_of(hop)[0, -model.window_frames :])
        return stepped[-100:], model(windows(jnp.arange(n_hops - 100, n_hops)))

    assert hop_frames * n_hops == 1_000_000
    np.testing.assert_allclose(*run(), atol=TOLERANCE)


def test_geometry_composes() -> None:
    assert Geometry(5, 2).then(Geometry(3, 2)) == Geometry(9, 4)
    assert Geometry(9, 4).inputs(3) == 17
    assert Geometry(9, 4).outputs(17) == 3
    assert Geometry(9, 4).outputs(16) == 2
    assert Geometry(9, 4).outputs(8) == 0
