"""The same audio at hops of 80, 160 and 320 ms gives the same events."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from streamcls.postprocess.settings import EventSettings
from tests.postprocess.score_tracks import Track, detect, offsets, rejections, seconds

HOPS_MS = (80, 160, 320)


@st.composite
def tracks_with_knots_every_320_ms(draw) -> Track:
    """A score that all three hops can follow: its corners are where all of them sample.

    Scores are multiples of 1/64, so that every value in between is exact in float32.
    """
    n = draw(st.integers(4, 40))
    scores = st.lists(st.integers(0, 64), min_size=n, max_size=n)
    return Track(
        {
            label: [(0.320 * i, value / 64) for i, value in enumerate(draw(scores))]
            for label in ("dog", "cat")
        }
    )


@hypothesis_settings(max_examples=200)
@given(
    track=tracks_with_knots_every_320_ms(),
    min_duration_ms=st.sampled_from([0.0, 163.337, 487.21]),
    min_gap_ms=st.sampled_from([0.0, 141.173, 517.719]),
    cooldown_s=st.sampled_from([0.0, 0.773137]),
    confirm_ms=st.sampled_from([0.0, 203.911]),
)
def test_what_every_hop_can_see_gives_identical_events(
    track, min_duration_ms, min_gap_ms, cooldown_s, confirm_ms
):
    """To the microsecond, rejections included; limits are odd, so that none is met exactly."""
    settings = EventSettings(
        onset_threshold=0.6137,
        offset_threshold=0.4071,
        min_duration_ms=min_duration_ms,
        min_gap_ms=min_gap_ms,
        cooldown_s=cooldown_s,
        confirm_ms=confirm_ms,
        near_miss_interval_s=0,
    )
    outcomes = []
    for hop_ms in HOPS_MS:
        records = detect(settings, track, hop_ms)
        found = [
            (r.label, seconds(r.onset_ns), seconds(r.offset_ns), r.reason)
            for r in (*offsets(records), *rejections(records))
        ]
        outcomes.append(sorted(found))
    assert outcomes[0] == outcomes[1] == outcomes[2]


Spans = dict[str, list[tuple[float, float]]]


def sounds_heard_through_a_window(seed: int) -> tuple[Track, Spans]:
    """Return random sounds: their scores as a pooling model of 1 s sees them, and their times.

    The score is the share of the window that the sound fills, times its clarity, plus noise.
    """
    rng = np.random.default_rng(seed)
    times_s = np.arange(0, 60, 0.01)
    knots, truth = {}, {}
    for label in ("dog", "rain"):
        present = np.zeros(len(times_s))
        truth[label] = []
        at_s = 2.0
        while at_s < 54:
            end_s = at_s + rng.uniform(1.0, 4.0)
            truth[label].append((at_s, end_s))
            inside = (times_s >= at_s) & (times_s < end_s)
            present[inside] = rng.uniform(0.85, 1.0)
            at_s = end_s + rng.uniform(1.7, 5.0)
        # Windows of 1 s as seen from their middle; slow noise as a real posterior has it.
        share = np.convolve(present, np.ones(100) / 100, mode="same")
        noise = np.convolve(rng.normal(0, 0.25, len(times_s)), np.ones(60) / 60, mode="same")
        score = np.clip(share + noise, 0, 1)
        knots[label] = list(zip(times_s.tolist(), score.tolist(), strict=True))
    return Track(knots), truth


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "settings",
    [
        EventSettings(),
        EventSettings(smoothing_ms=150.0),
        EventSettings(confirm_ms=300.0, confirm_window_ms=1200.0, cooldown_s=0.3),
    ],
    ids=["default", "smoothed", "confirmed"],
)
def test_sounds_give_the_same_events_within_one_hop_at_any_phase(seed, settings):
    track, _ = sounds_heard_through_a_window(seed)
    reference = completed(settings, track, 80, 0)
    assert len(reference) > 10
    for hop_ms, phase_ms in ((160, 0), (320, 0), (160, 80), (320, 80), (320, 240)):
        found = completed(settings, track, hop_ms, phase_ms)
        assert [label for label, _, _ in found] == [label for label, _, _ in reference]
        for (_, onset, offset), (_, expected_onset, expected_offset) in zip(
            found, reference, strict=True
        ):
            assert abs(onset - expected_onset) <= hop_ms / 1000
            assert abs(offset - expected_offset) <= hop_ms / 1000


def completed(
    settings: EventSettings, track: Track, hop_ms: int, phase_ms: int
) -> list[tuple[str, float, float]]:
    events = offsets(detect(settings, track, hop_ms, phase_ms))
    return sorted((e.label, seconds(e.onset_ns), seconds(e.offset_ns)) for e in events)


@pytest.mark.parametrize("seed", range(3))
def test_onset_and_offset_are_those_of_the_sound(seed):
    """A share of 1/2 is reached when the middle of the window passes the edge of the sound."""
    track, truth = sounds_heard_through_a_window(seed)
    settings = EventSettings(onset_threshold=0.5, offset_threshold=0.45)
    events = completed(settings, track, 80, 0)
    for label, expected in truth.items():
        found = [(onset, offset) for name, onset, offset in events if name == label]
        assert len(found) == len(expected)
        np.testing.assert_allclose(found, expected, atol=0.2)
