"""Sums from values at points are the convolution, exactly enough and with fewer products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from streamcls.engine.compilation import list_products
from streamcls.models import Conv
from streamcls.models.toom_cook import FrameFilter, choose_block

N_INPUTS, N_OUTPUTS = 24, 16


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape)


def add_up(one: FrameFilter, x: np.ndarray) -> dict[int, np.ndarray]:
    """Return all that the frames ``[batch, frames, inputs]`` add, by output."""
    sums: dict[int, np.ndarray] = {}
    frames = jnp.asarray(x[:, :, None], jnp.float32)
    for output, term in one(frames, lambda values: values):
        sums[output] = sums.get(output, 0) + np.asarray(term)[:, 0]
    return sums


@pytest.mark.parametrize("first_delay", [0, 1])
@pytest.mark.parametrize("n_taps", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("n_frames", [1, 2, 3, 4, 6, 8])
def test_sums_are_the_convolution(n_frames: int, n_taps: int, first_delay: int) -> None:
    x, taps = draw(2, n_frames, N_INPUTS), draw(n_taps, N_INPUTS, N_OUTPUTS)
    one = FrameFilter(0, list(enumerate(taps, start=first_delay)), n_frames)
    sums = add_up(one, x)
    assert sorted(sums) == list(range(first_delay, first_delay + n_frames + n_taps - 1))
    for output, got in sums.items():
        pairs = [(i, output - first_delay - i) for i in range(n_frames)]
        expected = np.sum([x[:, i] @ taps[j] for i, j in pairs if 0 <= j < n_taps], axis=0)
        np.testing.assert_allclose(got, expected, atol=2e-5 * N_INPUTS**0.5)


def test_taps_that_lie_apart_are_taken_one_by_one() -> None:
    x, taps = draw(2, 4, N_INPUTS), draw(2, N_INPUTS, N_OUTPUTS)
    one = FrameFilter(0, [(0, taps[0]), (3, taps[1])], 4)
    assert one.block == 1
    sums = add_up(one, x)
    np.testing.assert_allclose(sums[3], x[:, 3] @ taps[0] + x[:, 0] @ taps[1], atol=1e-4)
    np.testing.assert_allclose(sums[6], x[:, 3] @ taps[1], atol=1e-4)


@pytest.mark.parametrize(
    ("n_frames", "n_taps", "block"),
    [(4, 3, 4), (8, 3, 4), (2, 3, 2), (6, 3, 3), (5, 3, 1), (4, 5, 2), (4, 1, 1), (4, 6, 1)],
)
def test_blocks_divide_the_frames(n_frames: int, n_taps: int, block: int) -> None:
    assert choose_block(n_frames, n_taps) == block


def test_a_convolution_takes_the_products_it_promises() -> None:
    """Four outputs of a 3 x 3 kernel with stride 2: five products for two places, four for one."""
    conv = Conv(8, 16, kernel=(3, 3), strides=(2, 2), n_mels=6, rngs=nnx.Rngs(0))
    conv.eval()
    conv.fold()
    conv.prepare(8)
    x, state = jnp.zeros((2, 8, 6, 8)), conv.initial_state(2)
    sizes = list(list_products(jax.make_jaxpr(conv.step)(x, state).jaxpr))
    assert sizes == [(2 * 3, 24, 16), (2 * 4 * 3, 24, 16)]  # the first is a batch of five
    shapes = [one.weights[...].shape for one in conv.filters]
    assert shapes == [(5, 24, 16), (1, 24, 16)]


@pytest.mark.parametrize("prepared_frames", [0, 8])
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 1, 1), (5, 2, 1), (2, 2, 3)])
@pytest.mark.parametrize("n_mels", [1, 5])
def test_any_steps_equal_the_window(
    n_mels: int, kernel: int, stride: int, dilation: int, prepared_frames: int
) -> None:
    conv = Conv(
        64,
        64,
        kernel=(kernel, min(n_mels, 3)),
        strides=(stride, 1),
        dilation_frames=dilation,
        n_mels=n_mels,
        mel_padding="valid",
        rngs=nnx.Rngs(0),
    )
    conv.eval()
    conv.fold()
    if prepared_frames:
        conv.prepare(prepared_frames)
    x = jnp.asarray(draw(2, 30, n_mels, 64), jnp.float32)
    state, outputs, end = conv.initial_state(2), [], 0
    for n_frames in (4, 8, 2, 8, 8):
        output, state = conv.step(x[:, end : end + n_frames], state)
        end += n_frames
        outputs.append(output)
    expected = conv(x[:, (end - conv.geometry.receptive_frames) % stride :])
    stepped = jnp.concatenate(outputs, axis=1)[:, -expected.shape[1] :]
    np.testing.assert_allclose(stepped, expected, atol=1e-4)
