"""Scores as arrays and as lists say the same."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcls.postprocess.rules import resolve_rules
from streamcls.postprocess.scores import ArrayReader, ListReader
from streamcls.postprocess.settings import EventSettings, GroupSettings

LABELS = ("a", "b", "c", "none")
RULES = resolve_rules(EventSettings(), LABELS, {"b": 0.9}, ("none",))
PROBABILITY = st.sampled_from([0.0, 0.3, 0.5999, 0.6, 0.7, 0.95, 1.0, np.nan, np.inf])


@given(st.lists(PROBABILITY, min_size=4, max_size=4))
def test_both_readers_say_the_same(probabilities: list[float]):
    posterior = np.array(probabilities, np.float32)
    arrays, lists = ArrayReader(RULES, sum_groups=True), ListReader(RULES)
    scores, same = arrays.read(posterior), lists.read(posterior)
    if not np.isfinite(posterior[:3]).all():
        assert scores is None
        assert same is None
        return
    assert scores is not None
    assert same is not None
    assert scores.tolist() == same
    assert arrays.find_loud(arrays.begin(scores)) == lists.find_loud(lists.begin(same))
    assert lists.smooth(same, 0.1) == arrays.smooth(scores, 0.1).tolist()


@pytest.mark.parametrize(
    ("settings", "suits"),
    [
        (EventSettings(), True),
        (EventSettings(smoothing_ms=100), False),
        (EventSettings(group={"ab": GroupSettings(labels=("a", "b"))}), False),
    ],
)
def test_lists_are_for_tracks_of_one_class_that_are_not_smoothed(settings, suits):
    assert ListReader.suits(resolve_rules(settings, LABELS, {}, ())) is suits


def test_arrays_are_for_many_tracks():
    labels = [f"l{i}" for i in range(40)]
    assert not ListReader.suits(resolve_rules(EventSettings(), labels, {}, ()))
