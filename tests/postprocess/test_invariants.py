"""What holds for any scores, any settings and any losses."""

import dataclasses
from collections import defaultdict
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from streamcls.postprocess.detector import EventDetector
from streamcls.postprocess.ledger import CloseReason
from streamcls.postprocess.rules import resolve_rules
from streamcls.postprocess.settings import (
    ClassSettings,
    EventSettings,
    GroupSettings,
    NoiseFloorSettings,
)
from streamcls.types import Event, EventState, Rejection
from streamcls.units import NS_PER_S
from tests.postprocess.score_tracks import WINDOW_SAMPLES, predict

LABELS = ("dog", "cat", "rain", "other")


def milliseconds(most: int) -> st.SearchStrategy[float]:
    return st.integers(0, most // 10).map(lambda tens: tens * 10.0)


@st.composite
def event_settings(draw) -> EventSettings:
    onset = draw(st.integers(2, 19)) / 20
    confirm_ms = draw(st.sampled_from([0.0, 80.0, 330.0]))
    return EventSettings(
        onset_threshold=onset,
        offset_threshold=draw(st.sampled_from([None, onset, onset / 2])),
        smoothing_ms=draw(st.sampled_from([0.0, 0.0, 100.0, 1500.0])),
        min_duration_ms=draw(milliseconds(600)),
        min_gap_ms=draw(milliseconds(600)),
        cooldown_s=draw(milliseconds(3000)) / 1000,
        confirm_ms=confirm_ms,
        confirm_window_ms=confirm_ms + draw(milliseconds(500)),
        update_interval_s=draw(st.sampled_from([0.0, 0.3])),
        deny=draw(st.sampled_from([(), ("rain",)])),
        noise_floor=NoiseFloorSettings(enabled=draw(st.booleans()), memory_s=2.0),
        class_={"rain": ClassSettings(min_duration_ms=draw(milliseconds(600)))},
        group=draw(st.sampled_from([{}, {"pets": GroupSettings(labels=("dog", "cat"))}])),
    )


score = st.sampled_from([0.0, 0.1, 0.3, 0.45, 0.5, 0.55, 0.7, 0.9, 1.0])
hop = st.tuples(
    st.tuples(score, score, score, score),
    st.sampled_from(["next"] * 12 + ["loss", "long loss", "close", "nan"]),
)


@hypothesis_settings(max_examples=300)
@given(
    settings=event_settings(),
    hops=st.lists(hop, min_size=1, max_size=80),
    hop_samples=st.sampled_from([160, 1280, 5120]),
)
def test_every_event_keeps_the_rules(settings, hops, hop_samples):
    detector = EventDetector(settings, LABELS, {}, ("other",), "porch")
    rules = {one.label: one for one in resolve_rules(settings, LABELS, {}, ("other",))}
    records: list[Event | Rejection] = []
    cuts = []
    sample_end, epoch = WINDOW_SAMPLES, 0
    first_ns = predict(np.zeros(4), sample_end).t_start_ns
    now_ns = first_ns
    for scores, what in hops:
        said = []
        if what in ("loss", "long loss"):
            sample_end += WINDOW_SAMPLES + (hop_samples if what == "loss" else 10 * hop_samples)
            epoch += 1
            cuts.append(now_ns)
        elif what == "close":
            said += detector.close(CloseReason.RELOAD)
            cuts.append(now_ns)
        values = np.array(scores, np.float32)
        if what == "nan":
            values[0] = np.nan
        prediction = predict(values, sample_end, epoch)
        sample_end += hop_samples
        said += detector.feed(prediction)
        now_ns = prediction.t_end_ns
        assert all(record.onset_ns <= now_ns for record in said)
        records += said
        summary = detector.summarise()
        assert summary.opened == summary.closed + summary.sounding
    records += detector.close(CloseReason.SHUTDOWN)

    summary = detector.summarise()
    assert summary.sounding == 0
    assert summary.skipped == sum(what == "nan" for _, what in hops)
    lives = defaultdict(list)
    for record in records:
        if isinstance(record, Event):
            lives[record.id].append(record)
    assert len(lives) == summary.opened == summary.closed
    reported = sum(isinstance(record, Rejection) for record in records)
    assert reported == sum(summary.rejected.values()) - summary.unreported

    by_label = defaultdict(list)
    for life in lives.values():
        onset, *updates, offset = life
        assert onset.state is EventState.ONSET
        assert offset.state is EventState.OFFSET
        assert all(event.state is EventState.UPDATE for event in updates)
        assert all(event.offset_ns is None for event in life[:-1])
        assert len({(event.label, event.onset_ns) for event in life}) == 1
        assert all(0 <= e.mean_score <= e.peak_score <= 1 for e in life)
        assert first_ns <= onset.onset_ns <= offset.offset_ns <= now_ns
        assert offset.peak_score >= rules[offset.label].offset_threshold
        assert offset.offset_ns - offset.onset_ns >= rules[offset.label].min_duration_ns
        by_label[offset.label].append(offset)
    assert set(by_label) <= {name for name, one in rules.items() if not one.denied}
    for label, events in by_label.items():
        for former, latter in pairwise(events):
            gap_ns = latter.onset_ns - former.offset_ns
            assert gap_ns >= rules[label].cooldown_ns
            if not any(former.offset_ns <= cut <= latter.onset_ns + NS_PER_S for cut in cuts):
                assert gap_ns >= rules[label].min_gap_ns


@given(n=st.integers(1, 40))
def test_ids_are_new_after_a_restart(n):
    settings = EventSettings(min_duration_ms=0, min_gap_ms=0)
    ids = []
    for _run in range(2):
        detector = EventDetector(settings, ("dog",), {}, (), "porch")
        for i in range(2 * n):
            scores = np.array([i % 2], np.float32)
            for record in detector.feed(predict(scores, WINDOW_SAMPLES + 1280 * i)):
                if isinstance(record, Event) and record.state is EventState.OFFSET:
                    ids.append(record.id)
        ids += [r.id for r in detector.close(CloseReason.SHUTDOWN) if isinstance(r, Event)]
    assert len(set(ids)) == len(ids) > 0


@given(scores=st.lists(score, min_size=2, max_size=60))
def test_smallest_demands_report_every_crossing(scores):
    """With nothing held back, each rise above the onset threshold is one event."""
    settings = EventSettings(
        onset_threshold=0.52, offset_threshold=0.52, min_duration_ms=0, min_gap_ms=0
    )
    detector = EventDetector(settings, ("dog",), {}, (), "porch")
    for i, value in enumerate(scores):
        detector.feed(predict(np.array([value], np.float32), 16_000 + 1280 * i))
    detector.close(CloseReason.SHUTDOWN)
    above = [False, *(value > 0.52 for value in scores)]
    # A last score that has only just risen has not been above for any time yet.
    rises = sum(b and not a for a, b in pairwise(above))
    assert detector.summarise().opened == rises


def test_settings_are_not_shared_between_detectors():
    strict = dataclasses.replace(EventSettings(), onset_threshold=0.99)
    detectors = [
        EventDetector(settings, ("dog",), {}, (), "porch") for settings in (EventSettings(), strict)
    ]
    for i in range(10):
        for detector in detectors:
            detector.feed(predict(np.array([0.9], np.float32), 16_000 + 1280 * i))
    assert [detector.summarise().opened for detector in detectors] == [1, 0]
