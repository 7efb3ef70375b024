"""Ranking and calibration against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from train.metrics import Reliability, area_under_roc, average_precision, measure_reliability


@pytest.mark.parametrize("seed", range(3))
def test_ranking_equals_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.random(300) < 0.2
    # Rounded, so that many scores are tied.
    scores = np.round(rng.normal(truth * 0.8, 1.0), 1)
    assert average_precision(truth, scores) == pytest.approx(average_precision_score(truth, scores))
    assert area_under_roc(truth, scores) == pytest.approx(roc_auc_score(truth, scores))


def test_ranking_of_nothing_is_nan() -> None:
    scores = np.array([0.1, 0.2])
    assert np.isnan(average_precision(np.zeros(2, bool), scores))
    assert np.isnan(area_under_roc(np.ones(2, bool), scores))


def test_calibration_error_is_the_mean_gap() -> None:
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.35, 0.35])
    hit = np.array([True, True, True, False, False, True])
    reliability = measure_reliability(confidence, hit, n_bins=10)
    assert reliability.counts[9] == 4
    assert reliability.hits[3] == 1
    assert reliability.ece == pytest.approx((abs(3.8 - 3) + abs(0.7 - 1)) / 6)
    both = reliability + reliability
    assert both.ece == pytest.approx(reliability.ece)
    assert sum(both.counts) == 12
    assert Reliability([0], [0.0], [0]).ece == 0.0
    assert measure_reliability(np.array([1.0]), np.array([True])).counts[-1] == 1
