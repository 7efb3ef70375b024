"""The histogram's percentiles are those of the sample within one bin."""

import math

import numpy as np
import pytest

from streamcls.latency import LatencyHistogram


def test_percentiles_within_a_bin() -> None:
    durations_s = np.random.default_rng(0).lognormal(-5, 1.5, 5_000)
    histogram = LatencyHistogram()
    for duration_s in durations_s:
        histogram.add(float(duration_s))
    for percent in (1, 50, 90, 99, 100):
        exact = np.percentile(durations_s, percent, method="inverted_cdf")
        assert exact * 0.999 <= histogram.percentile(percent) <= exact * 1.05
    assert histogram.max_s == durations_s.max()
    assert histogram.count == 5_000


def test_edges() -> None:
    histogram = LatencyHistogram()
    assert math.isnan(histogram.percentile(50))
    histogram.add(-3.0)
    assert histogram.percentile(50) <= 1.1e-5
    histogram.add(1e9)
    assert histogram.percentile(100) == pytest.approx(1.0233e3, rel=0.05)
