"""The low-pass against its differential equation."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcls.postprocess.smoothing import Smoother


def smooth(scores: list[float], interval_s: float, *constants_s: float) -> np.ndarray:
    smoother = Smoother(np.array(constants_s))
    column = np.ones(len(constants_s))
    return np.array([smoother.smooth(x * column, interval_s) for x in scores])


@given(scores=st.lists(st.floats(0, 1), min_size=2, max_size=12))
def test_follows_the_differential_equation(scores):
    """Against small Euler steps along the straight lines between the scores."""
    constant_s, interval_s, steps = 0.3, 0.32, 500
    y, expected = scores[0], [scores[0]]
    for old, new in pairwise(scores):
        for x in np.interp((np.arange(steps) + 0.5) / steps, (0, 1), (old, new)):
            y += (x - y) * interval_s / steps / constant_s
        expected.append(y)
    np.testing.assert_allclose(smooth(scores, interval_s, constant_s)[:, 0], expected, atol=1e-3)


@given(scores=st.lists(st.floats(0, 1), min_size=2, max_size=12))
def test_a_faster_hop_gives_the_same_values_at_the_common_times(scores):
    fine = np.interp(np.arange(4 * len(scores) - 3) / 4, np.arange(len(scores)), scores)
    coarse = smooth(scores, 0.32, 0.0, 0.05, 0.3, 5.0)
    np.testing.assert_allclose(
        smooth(list(fine), 0.08, 0.0, 0.05, 0.3, 5.0)[::4], coarse, atol=1e-9
    )


def test_a_ramp_is_followed_with_the_delay_of_the_time_constant():
    ramp = np.arange(400) * 0.001
    delayed = smooth(list(ramp), 0.08, 0.4)[:, 0]
    assert ramp[-1] - delayed[-1] == pytest.approx(0.001 * 0.4 / 0.08)


@given(scores=st.lists(st.floats(0, 1), min_size=1, max_size=30), constant_s=st.floats(0, 10))
def test_stays_within_the_scores_it_heard(scores, constant_s):
    smoothed = smooth(scores, 0.08, constant_s)
    assert smoothed.min() >= min(scores) - 1e-9
    assert smoothed.max() <= max(scores) + 1e-9


def test_reset_forgets_and_no_time_constant_passes_through():
    smoother = Smoother(np.array([0.0, 1.0]))
    smoother.smooth(np.array([1.0, 1.0]), 0.08)
    np.testing.assert_allclose(smoother.smooth(np.array([0.0, 0.0]), 0.08)[0], 0.0, atol=1e-30)
    smoother.reset()
    np.testing.assert_array_equal(smoother.smooth(np.array([0.2, 0.2]), 0.08), [0.2, 0.2])
