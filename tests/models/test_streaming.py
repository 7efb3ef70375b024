"""Incremental steps give the logits of the whole window, for every registered network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from streamcls.models import ARCHITECTURES, Classifier, Geometry
from streamcls.models.compose import Chain, Residual
from streamcls.models.layers import Conv, Delay, Layer, MelNorm
from tests.models.networks import build_seasoned

TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def model(request) -> Classifier:
    return build_seasoned(request.param)


def test_random_chunkings_equal_the_window(model: Classifier) -> None:
    stride = model.geometry.stride_frames
    generator = np.random.default_rng(3)
    mel = generator.normal(-4, 3, (2, model.window_frames + 30 * stride, 40)).astype(np.float32)
    graph, weights = nnx.split(model)
    window = jax.jit(lambda weights, x: nnx.merge(graph, weights)(x))
    step = jax.jit(lambda weights, x, state: nnx.merge(graph, weights).step(x, state))
    compared = 0
    for _ in range(3):
        state, end = model.initial_state(2), 0
        while end < mel.shape[1]:
            hop = min(stride * int(generator.integers(1, 5)), mel.shape[1] - end)
            hop -= hop % stride
            if hop == 0:
                break
            logits, state = step(weights, jnp.asarray(mel[:, end : end + hop]), state)
            end += hop
            if end >= model.window_frames:
                expected = window(weights, jnp.asarray(mel[:, end - model.window_frames : end]))
                np.testing.assert_allclose(logits, expected, atol=TOLERANCE)
                compared += 1
    assert compared >= 20


def test_logits_over_time_equal_single_windows(model: Classifier) -> None:
    stride = model.geometry.stride_frames
    generator = np.random.default_rng(4)
    mel = generator.normal(-4, 3, (1, model.window_frames + 3 * stride, 40)).astype(np.float32)
    over_time = nnx.jit(lambda model, x: model.logits_over_time(x))(model, jnp.asarray(mel))
    window = nnx.jit(lambda model, x: model(x))
    assert over_time.shape == (1, 4, 12)
    for index in range(4):
        start = index * stride
        single = window(model, jnp.asarray(mel[:, start : start + model.window_frames]))
        np.testing.assert_allclose(over_time[:, index], single, atol=TOLERANCE)


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


@st.composite
def chains(draw) -> list[dict]:
    """Draw random convolutions: kernel, stride, dilation, depthwise or dense, residual or not."""
    return draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "kernel": st.tuples(st.integers(1, 5), st.sampled_from([1, 3])),
                    "stride": st.integers(1, 3),
                    "dilation": st.integers(1, 3),
                    "depthwise": st.booleans(),
                    "residual": st.sampled_from(["none", "identity", "delayed"]),
                }
            ),
            min_size=1,
            max_size=4,
        )
    )


def build_chain(plan: list[dict]) -> Chain:
    rngs = nnx.Rngs(1)
    channels, n_mels = 4, 6
    layers: list[Layer] = [MelNorm(n_mels, rngs=rngs)]
    layers.append(Conv(1, channels, n_mels=n_mels, rngs=rngs))
    for item in plan:
        residual = item["residual"] != "none"
        conv = Conv(
            channels,
            channels,
            kernel=item["kernel"],
            strides=(1 if residual else item["stride"], 1),
            dilation_frames=item["dilation"],
            depthwise=item["depthwise"],
            n_mels=n_mels,
            rngs=rngs,
        )
        reach = conv.geometry.receptive_frames - 1
        delay = [Delay(reach // 2, n_mels, channels)] if item["residual"] == "delayed" else []
        layers.append(Residual(conv, Chain(delay), jax.nn.relu) if residual else conv)
    chain = Chain(layers)
    chain.eval()
    return chain


@settings(max_examples=12)
@given(plan=chains(), hops=st.lists(st.integers(1, 2), min_size=1, max_size=6))
def test_random_networks_stream_exactly(plan, hops) -> None:
    chain = build_chain(plan)
    stride, receptive = chain.geometry.stride_frames, chain.geometry.receptive_frames
    # Enough hops in front to fill the receptive field, then the drawn ones.
    hops = [-(-receptive // stride) + 1, *hops]
    frames = sum(hops) * stride
    x = np.random.default_rng(2).normal(0, 1, (1, frames, 6)).astype(np.float32)
    graph, weights = nnx.split(chain)
    step = jax.jit(lambda weights, x, state: nnx.merge(graph, weights).step(x, state))
    state, outputs = chain.initial_state(1), []
    start = 0
    for hop in hops:
        y, state = step(weights, jnp.asarray(x[:, start : start + hop * stride]), state)
        assert y.shape[1] == hop
        outputs.append(y)
        start += hop * stride
    streamed = np.concatenate(outputs, axis=1)
    # The whole, cut so that its last frame ends the last output.
    n_whole = chain.geometry.outputs(frames)
    window = jax.jit(lambda weights, x: nnx.merge(graph, weights)(x))
    whole = window(weights, jnp.asarray(x[:, frames - chain.geometry.inputs(n_whole) :]))
    np.testing.assert_allclose(streamed[:, -n_whole:], whole, atol=TOLERANCE)


def test_geometry_composes() -> None:
    assert Geometry(5, 2).then(Geometry(3, 2)) == Geometry(9, 4)
    assert Geometry(9, 4).inputs(3) == 17
    assert Geometry(9, 4).outputs(17) == 3
    assert Geometry(9, 4).outputs(16) == 2
    assert Geometry(9, 4).outputs(8) == 0
