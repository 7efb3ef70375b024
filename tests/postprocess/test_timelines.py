"""Timelines worked out by hand: one score, one setting, the exact times that must come out.

Times are those of the middle of the window, in which onset and offset are reported. Thresholds
are 0.6 and 0.4 and nothing else is demanded unless a test says so.
"""

import dataclasses

import numpy as np
import pytest

from streamcls.postprocess.detector import EventDetector
from streamcls.postprocess.ledger import CloseReason
from streamcls.postprocess.settings import (
    ClassSettings,
    EventSettings,
    GroupSettings,
)
from streamcls.types import Event, EventState, Prediction
from tests.postprocess.score_tracks import (
    HALF_WINDOW_S,
    RATE_HZ,
    WINDOW_SAMPLES,
    Track,
    detect,
    dog,
    offsets,
    predict,
    rejections,
    sample_track,
    seconds,
    spans,
)

PLAIN = EventSettings(
    onset_threshold=0.6,
    offset_threshold=0.4,
    min_duration_ms=0,
    min_gap_ms=0,
    update_interval_s=0,
)
BARK = ((0.0, 0.0), (1.6, 0.0), (3.2, 0.8), (4.8, 0.8), (6.4, 0.0), (8.0, 0.0))
"""Above 0.6 from 2.8 s, below 0.4 from 5.6 s."""


def with_settings(**changes) -> EventSettings:
    return dataclasses.replace(PLAIN, **changes)


def pulses(*stretches: tuple[float, float], end_s: float = 12.0, score: float = 0.9) -> Track:
    """Return a score that is ``score`` in the stretches and 0 elsewhere, with edges of 1 ms."""
    knots = [(0.0, 0.0)]
    for start_s, stop_s in stretches:
        knots += [(start_s, 0.0), (start_s + 0.001, score)]
        knots += [(stop_s, score), (stop_s + 0.001, 0.0)]
    return dog(*knots, (end_s, 0.0))


@pytest.mark.parametrize("hop_ms", [80, 160, 320, 400])
def test_onset_and_offset_are_where_the_score_crosses_the_two_thresholds(hop_ms):
    records = detect(PLAIN, dog(*BARK), hop_ms)
    assert [event.state for event in records if isinstance(event, Event)] == ["onset", "offset"]
    assert spans(records) == [(2.8, 5.6)]
    assert offsets(records)[0].reason == "score"


def test_an_onset_is_published_by_the_first_window_that_shows_it():
    detector = EventDetector(PLAIN, ("dog",), {}, (), "porch")
    for prediction in sample_track(dog(*BARK), 80):
        for event in detector.feed(prediction):
            assert isinstance(event, Event)
            crossed_ns = event.onset_ns if event.offset_ns is None else event.offset_ns
            late_s = seconds(prediction.t_end_ns) - HALF_WINDOW_S - seconds(crossed_ns)
            assert 0 <= late_s <= 0.080 + 1e-6


def test_peak_and_mean_are_those_of_the_score_between_onset_and_offset():
    (event,) = offsets(detect(PLAIN, dog(*BARK)))
    # 0.6..0.8 over 0.4 s, 0.8 over 1.6 s, 0.8..0.4 over 0.8 s.
    mean = (0.7 * 0.4 + 0.8 * 1.6 + 0.6 * 0.8) / 2.8
    assert event.peak_score == pytest.approx(0.8)
    assert event.mean_score == pytest.approx(mean, abs=1e-6)


def test_a_score_between_the_thresholds_neither_begins_nor_ends_a_sound():
    up_down_up = dog((0, 0), (1.6, 0.5), (3.2, 0.5), (3.6, 0.7), (4.0, 0.5), (6.4, 0.5), (7.2, 0))
    assert spans(detect(PLAIN, up_down_up)) == [(3.4, 6.56)]


def test_a_sound_shorter_than_the_minimum_is_rejected_with_its_length():
    settings = with_settings(min_duration_ms=500)
    records = detect(settings, pulses((2.0, 2.4), (4.0, 4.8)))
    assert len(offsets(records)) == 1
    (rejection,) = rejections(records)
    assert rejection.reason == "too_short"
    assert "min_duration_ms is 500" in rejection.detail
    assert 2.0 <= seconds(rejection.onset_ns) < seconds(rejection.offset_ns) <= 2.48


def test_a_pause_shorter_than_the_minimum_gap_does_not_end_a_sound():
    track = pulses((2.0, 3.2), (3.52, 4.8), (7.04, 8.0))
    settings = with_settings(min_gap_ms=1000)
    first, second = spans(detect(settings, track))
    assert first[0] == pytest.approx(2.0, abs=0.08)
    assert first[1] == pytest.approx(4.8, abs=0.08)
    assert second[0] == pytest.approx(7.04, abs=0.08)
    assert len(offsets(detect(PLAIN, track))) == 3


def test_a_pause_is_over_when_the_score_is_back_above_the_offset_threshold():
    dip = dog((0, 0), (0.8, 0.9), (1.6, 0.9), (1.92, 0.3), (2.24, 0.5), (8, 0.5), (8.08, 0), (9, 0))
    assert spans(detect(with_settings(min_gap_ms=500), dip)) == [(0.533333, 8.016)]


def test_the_mean_counts_the_pauses_inside_a_sound_and_not_the_one_that_ends_it():
    track = dog((0, 0), (0.8, 0), (0.88, 0.8), (1.6, 0.8), (1.68, 0), (2.4, 0), (2.48, 0.8))
    track = dog(*track.knots["dog"], (3.2, 0.8), (3.28, 0), (8, 0))
    (event,) = offsets(detect(with_settings(min_gap_ms=1000), track))
    # Crossings at 0.86 and 3.24; the area is that of two trapezia less their feet.
    area = 2 * 0.8 * (0.72 + 0.08) - 0.5 * 0.06 * 0.6 - 0.5 * 0.04 * 0.4
    assert event.mean_score == pytest.approx(area / (3.24 - 0.86), abs=1e-6)


def test_what_begins_and_ends_in_the_cooldown_is_rejected():
    track = pulses((1.0, 2.0), (3.0, 4.0), (6.0, 7.0))
    records = detect(with_settings(cooldown_s=3), track)
    assert len(offsets(records)) == 2
    (rejection,) = rejections(records)
    assert rejection.reason == "cooldown"
    assert "cooldown_s = 3" in rejection.detail
    assert seconds(rejection.onset_ns) == pytest.approx(3.0, abs=0.08)


@pytest.mark.parametrize("hop_ms", [80, 160, 320])
def test_what_sounds_on_after_the_cooldown_counts_from_its_end(hop_ms):
    track = dog((0, 0), (0.96, 0), (1.28, 1), (1.92, 1), (2.24, 0), (2.56, 0), (2.88, 1), (9, 1))
    first, second = spans(detect(with_settings(cooldown_s=3), track, hop_ms))
    assert first == (1.152, 2.112)
    assert second[0] == 5.112


def test_confirmation_adds_up_the_time_above_the_onset_threshold():
    settings = with_settings(confirm_ms=600, confirm_window_ms=2000)
    assert spans(detect(settings, pulses((2.0, 2.48)))) == []
    (rejection,) = rejections(detect(settings, pulses((2.0, 2.48))))
    assert rejection.reason == "not_confirmed"
    # The second blip completes the 600 ms; far from the first it does not.
    assert len(spans(detect(settings, pulses((2.0, 2.48), (3.2, 3.68))))) == 1
    assert len(spans(detect(settings, pulses((2.0, 2.48), (5.2, 5.68))))) == 0


def test_long_events_are_updated_at_the_interval():
    track = pulses((2.0, 8.4))
    records = detect(with_settings(update_interval_s=2), track)
    states = [event.state for event in records if isinstance(event, Event)]
    assert states == [EventState.ONSET, *[EventState.UPDATE] * 3, EventState.OFFSET]
    update = records[1]
    assert isinstance(update, Event)
    assert update.offset_ns is None
    assert update.reason == ""


def feed_all(detector: EventDetector, predictions: list[Prediction]) -> list:
    return [record for prediction in predictions for record in detector.feed(prediction)]


def test_lost_audio_ends_what_sounds_where_the_audio_ended():
    detector = EventDetector(PLAIN, ("dog",), {}, (), "porch")
    high = np.array([0.9], np.float32)
    ends = [WINDOW_SAMPLES + 1280 * i for i in range(10)]
    before = feed_all(detector, [predict(high, end) for end in ends])
    lost = [end + 10 * RATE_HZ for end in ends]
    after = feed_all(detector, [predict(high, end, epoch=1) for end in lost])
    assert [event.state for event in before] == ["onset"]
    assert [event.state for event in after] == ["offset", "onset"]
    offset, onset = after
    assert offset.reason == "lost"
    assert offset.id == before[0].id != onset.id
    # It was there from the first sample heard of either epoch to the last.
    assert seconds(before[0].onset_ns) == 0.0
    assert seconds(offset.offset_ns) == 1.72
    assert seconds(onset.onset_ns) == 10.0


@pytest.mark.parametrize("reason", [r for r in CloseReason if r is not CloseReason.SCORE])
def test_close_ends_every_event_once_and_says_why(reason):
    detector = EventDetector(PLAIN, ("dog", "cat"), {}, (), "porch")
    both = np.array([0.9, 0.8], np.float32)
    feed_all(detector, [predict(both, WINDOW_SAMPLES + 1280 * i) for i in range(5)])
    assert detector.summarise().sounding == 2
    closed = list(detector.close(reason))
    assert [(e.label, e.state, e.reason) for e in closed if isinstance(e, Event)] == [
        ("dog", "offset", reason),
        ("cat", "offset", reason),
    ]
    assert detector.close(reason) == ()
    assert detector.summarise()[:3] == (2, 2, 0)


def test_close_takes_the_end_of_the_audio_from_who_knows_it():
    detector = EventDetector(PLAIN, ("dog",), {}, (), "porch")
    prediction = predict(np.array([0.9], np.float32), WINDOW_SAMPLES)
    detector.feed(prediction)
    (event,) = detector.close(CloseReason.LOST, prediction.t_end_ns + 30_000_000)
    assert event.offset_ns == prediction.t_end_ns + 30_000_000


def test_a_clip_of_a_single_window_can_be_an_event_but_a_loss_proves_nothing():
    settings = with_settings(min_duration_ms=160)
    for reason, n_events in ((CloseReason.ENDED, 1), (CloseReason.LOST, 0)):
        detector = EventDetector(settings, ("dog",), {}, (), "porch")
        assert detector.feed(predict(np.array([0.9], np.float32), WINDOW_SAMPLES)) == ()
        records = detector.close(reason)
        assert spans(records) == [(0.0, 1.0)] * n_events
        assert [r.reason for r in rejections(records)] == ["too_short"] * (1 - n_events)


def test_denied_and_not_allowed_classes_are_rejected_once_at_their_end():
    knots = pulses((2.0, 3.0)).knots["dog"]
    track = Track({"dog": knots, "cat": knots, "cow": knots})
    records = detect(with_settings(deny=("cat",), allow=("cat", "dog")), track)
    assert [event.label for event in offsets(records)] == ["dog"]
    assert [(r.label, r.reason) for r in rejections(records)] == [
        ("cat", "denied"),
        ("cow", "denied"),
    ]


def test_unknown_labels_are_silent_unless_named():
    knots = pulses((2.0, 3.0)).knots["dog"]
    track = Track({"dog": knots, "_background_": knots})
    unknown = ("_background_",)
    assert {r.label for r in detect(PLAIN, track, unknown_labels=unknown)} == {"dog"}
    named = with_settings(class_={"_background_": ClassSettings()})
    assert {r.label for r in detect(named, track, unknown_labels=unknown)} == set(track.labels)


@pytest.mark.parametrize(
    ("task", "member", "n_events"),
    [("single-label", 0.35, 1), ("multi-label", 0.35, 0), ("multi-label", 0.7, 1)],
)
def test_a_group_is_reported_as_one(task, member, n_events):
    knots = pulses((2.0, 3.0), score=member).knots["dog"]
    other = dog((0, 0.1), (12, 0.1)).knots["dog"]
    track = Track({"dog": knots, "rain": other, "cat": knots})
    settings = with_settings(group={"pets": GroupSettings(labels=("dog", "cat"))})
    records = detect(settings, track, task=task)
    assert [event.label for event in offsets(records)] == ["pets"] * n_events
    if n_events:
        expected = min(1, 2 * member) if task == "single-label" else member
        assert offsets(records)[0].peak_score == pytest.approx(expected)


def test_near_misses_are_reported_at_a_bounded_rate_and_all_counted():
    track = pulses(*((t, t + 0.4) for t in range(1, 11)), score=0.55)
    settings = with_settings(near_miss_interval_s=2.5)
    detector = EventDetector(settings, ("dog",), {}, (), "porch")
    records = feed_all(detector, list(sample_track(track, 80)))
    assert [record.reason for record in records] == ["below_threshold"] * 4
    assert "reached 0.550, the onset threshold is 0.600" in records[0].detail
    summary = detector.summarise()
    assert summary.rejected == {"below_threshold": 10}
    assert summary.unreported == 6
    assert detect(settings, pulses((2.0, 3.0), score=0.45)) == []


def test_smoothing_delays_the_decision_and_not_the_times():
    wide = ((0.0, 0.0), (8.0, 0.0), (16.0, 1.0), (24.0, 1.0), (32.0, 0.0), (40.0, 0.0))
    (plain,) = spans(detect(PLAIN, dog(*wide)))
    (smoothed,) = spans(detect(with_settings(smoothing_ms=400), dog(*wide)))
    assert plain == (12.8, 28.8)
    assert smoothed == pytest.approx(plain, abs=1e-3)


def test_predictions_that_cannot_be_used_are_skipped_and_counted():
    detector = EventDetector(PLAIN, ("dog",), {}, (), "porch")
    high = np.array([0.9], np.float32)
    detector.feed(predict(high, WINDOW_SAMPLES))
    detector.feed(predict(high, WINDOW_SAMPLES))
    detector.feed(predict(np.array([np.nan], np.float32), WINDOW_SAMPLES + 1280))
    assert detector.summarise().skipped == 2
    assert detector.feed(predict(high, WINDOW_SAMPLES + 2560)) == ()
    assert detector.summarise().sounding == 1


def test_a_clock_set_back_keeps_order_and_decisions():
    detector = EventDetector(PLAIN, ("dog",), {}, (), "porch")
    records = []
    for step, score in enumerate([0.0, 0.9, 0.9, 0.9, 0.0]):
        shift_ns = 2_000_000_000 if step < 4 else 0
        scores = np.array([score], np.float32)
        sample_end = WINDOW_SAMPLES + 1280 * step
        records += detector.feed(predict(scores, sample_end, utc_shift_ns=shift_ns))
    assert [event.state for event in records] == ["onset", "offset"]
    assert records[1].offset_ns == records[0].onset_ns


def test_nothing_to_say_costs_no_list():
    detector = EventDetector(PLAIN, ("dog",), {}, (), "porch")
    low = np.zeros(1, np.float32)
    first = detector.feed(predict(low, WINDOW_SAMPLES))
    assert first == ()
    assert detector.feed(predict(low, WINDOW_SAMPLES + 1280)) is first


def test_a_model_of_unknowns_alone_gives_no_events():
    detector = EventDetector(EventSettings(), ("a", "b"), {}, ("a", "b"), "porch")
    high = np.array([0.9, 0.9], np.float32)
    assert feed_all(detector, [predict(high, WINDOW_SAMPLES + 1280 * i) for i in range(9)]) == []
    assert detector.close(CloseReason.ENDED) == ()
