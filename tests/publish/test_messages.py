"""From records to messages: the scores of a posterior."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from streamcls.errors import PublishError
from streamcls.publish.messages import (
    Vocabulary,
    event_message,
    health_message,
    prediction_message,
    rejected_message,
    top_scores,
)
from streamcls.publish.schema import decode, encode
from streamcls.types import EventState

n_classes = st.integers(1, 20) | st.integers(60, 90)  # ranked without NumPy and with it
posteriors = st_numpy.arrays(np.float32, n_classes, elements=st.floats(0, 1, width=32), unique=True)


@given(posteriors, st.integers(0, 100))
def test_scores_are_the_best_ones_in_order(probabilities, top_k):
    labels = tuple(f"class {index}" for index in range(len(probabilities)))
    scores = top_scores(probabilities, labels, top_k)
    best = sorted(range(len(labels)), key=lambda index: -probabilities[index])
    assert list(scores) == [labels[index] for index in best[: top_k or None]]
    for index in best[: top_k or None]:
        assert scores[labels[index]] == pytest.approx(probabilities[index], rel=1e-5, abs=1e-30)


def test_scores_are_short_as_text():
    scores = top_scores(np.array([1 / 3, 2 / 3], np.float32), ("a", "b"), 0)
    assert json.dumps(scores) == '{"b": 0.666667, "a": 0.333333}'


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("classes", [2, 521])
def test_a_posterior_that_is_no_number_is_refused(bad, classes):
    labels = tuple(f"class {index}" for index in range(classes))
    with pytest.raises(ValueError, match="finite"):
        top_scores(np.array([0.5] * (classes - 1) + [bad], np.float32), labels, 1)


def test_a_vocabulary_needs_distinct_labels():
    with pytest.raises(PublishError, match=r"'no'.*'commands'"):
        Vocabulary("commands", ("yes", "no", "no"))


def test_every_field_arrives(make_prediction, vocabulary, health, make_event, rejection):
    record = make_prediction(epoch=3)
    message = prediction_message(record, vocabulary, 2, "run", 5)
    assert message.scores == {"no": 0.7, "up": 0.15}
    assert (message.seq, message.run, message.model, message.epoch) == (5, "run", "commands", 3)
    assert (message.flags, message.level_dbfs) == (("clipped",), -23.46)
    for name in ("stream", "sample_start", "sample_end", "sample_rate_hz", "t_start_ns"):
        assert getattr(message, name) == getattr(record, name)
    assert message.t_end_ns == record.t_end_ns

    message = health_message(health, "run", 6)
    assert (message.state, message.seq) == ("lost", 6)
    for name in ("captured_samples", "dropped_samples", "xruns", "overruns", "reason"):
        assert getattr(message, name) == getattr(health, name)
    assert message.nonfinite_samples == health.nonfinite_samples

    record = make_event(EventState.OFFSET, "Bark, dog")
    message = event_message(record, "run", 7)
    for name in ("stream", "id", "state", "label", "onset_ns", "offset_ns", "mean_score", "reason"):
        assert getattr(message, name) == getattr(record, name)
    assert (message.peak_score, message.seq, message.run) == (0.987654, 7, "run")

    message = rejected_message(rejection, "run", 8)
    for name in ("label", "reason", "detail", "onset_ns", "offset_ns", "peak_score", "threshold"):
        assert getattr(message, name) == getattr(rejection, name)
    assert (message.stream, message.seq) == ("porch", 8)


def test_scores_of_events_stay_probabilities(make_event):
    message = event_message(make_event(EventState.UPDATE, mean_score=1.0000001), "run", 0)
    assert decode(encode(message)) == message
    with pytest.raises(ValueError, match="finite"):
        event_message(make_event(EventState.UPDATE, peak_score=float("nan")), "run", 0)


def test_a_reason_with_a_file_name_that_is_no_text_can_be_sent(health):
    message = health_message(replace(health, reason="cannot read 'caf\udce9.wav'"), "run", 0)
    assert decode(encode(message)) == message
    assert message.reason == "cannot read 'caf?.wav'"
