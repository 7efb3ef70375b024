"""The adaptive threshold: rises with a restless class, ignores short bursts, comes back."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcls.postprocess.detector import EventDetector
from streamcls.postprocess.noise_floor import NoiseFloor
from streamcls.postprocess.settings import EventSettings, NoiseFloorSettings
from streamcls.types import Event
from tests.postprocess.score_tracks import WINDOW_SAMPLES, predict

SETTINGS = NoiseFloorSettings(enabled=True, quantile=0.9, memory_s=30, margin=0.2, ceiling=0.95)
RECOVERY_S = SETTINGS.memory_s * math.log(1 / (1 - SETTINGS.quantile))


def hold(floor: NoiseFloor, score: float, duration_s: float, hop_s: float = 0.08) -> float:
    for _ in range(round(duration_s / hop_s)):
        floor.learn(np.array([score]), hop_s, ())
    return float(floor.floors[0])


@pytest.mark.parametrize("hop_s", [0.08, 0.32])
def test_finds_the_quantile_of_what_it_hears(hop_s):
    scores = np.random.default_rng(0).beta(2, 5, 4000)
    floor = NoiseFloor(NoiseFloorSettings(enabled=True, memory_s=60), 1)
    for score in scores:
        floor.learn(np.array([score]), hop_s, ())
    assert floor.floors[0] == pytest.approx(np.quantile(scores, 0.9), abs=0.06)


def test_a_short_burst_changes_nothing_and_a_long_one_is_forgotten_in_the_stated_time():
    floor = NoiseFloor(SETTINGS, 1)
    assert hold(floor, 0.01, 120) == 0.0
    assert hold(floor, 0.55, 0.09 * SETTINGS.memory_s) == 0.0
    hold(floor, 0.01, 60)
    assert hold(floor, 0.55, 1200) == pytest.approx(0.54)
    assert hold(floor, 0.01, 0.9 * RECOVERY_S) == pytest.approx(0.54)
    assert hold(floor, 0.01, 0.1 * RECOVERY_S + 2) == 0.0


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 20)), max_size=60))
def test_whatever_came_before_quiet_brings_it_back(history):
    floor = NoiseFloor(SETTINGS, 1)
    for score, interval_s in history:
        floor.learn(np.array([score]), interval_s, ())
    assert hold(floor, 0.0, RECOVERY_S + 2, hop_s=0.32) == 0.0
    assert np.isfinite(floor.floors).all()


def test_a_sounding_track_does_not_learn():
    floor = NoiseFloor(SETTINGS, 2)
    for _ in range(5000):
        floor.learn(np.array([0.8, 0.8]), 0.08, [0])
    assert floor.floors[0] == 0.0
    assert floor.floors[1] == pytest.approx(0.8)


class Porch:
    """A detector that is fed one score for a while."""

    def __init__(self, settings: EventSettings):
        self.detector = EventDetector(settings, ("dog",), {}, (), "porch")
        self.sample_end = WINDOW_SAMPLES

    def hear(self, score: float, duration_s: float) -> list[str]:
        """Return the states of the events published meanwhile."""
        states = []
        for _ in range(round(duration_s / 0.08)):
            scores = np.array([score], np.float32)
            records = self.detector.feed(predict(scores, self.sample_end))
            states += [r.state for r in records if isinstance(r, Event)]
            self.sample_end += 1280
        return states


def test_a_restless_class_must_rise_above_its_own_floor_until_the_place_is_quiet_again():
    settings = EventSettings(onset_threshold=0.6, update_interval_s=0, noise_floor=SETTINGS)
    porch = Porch(settings)
    assert porch.hear(0.01, 60) == []
    assert porch.hear(0.65, 1) == ["onset"]
    assert porch.hear(0.01, 5) == ["offset"]
    assert porch.hear(0.55, 300) == []
    assert porch.hear(0.65, 1) == []
    assert porch.hear(0.55, 30) == []
    assert porch.hear(0.9, 1) == ["onset"]
    assert porch.hear(0.01, RECOVERY_S + 5) == ["offset"]
    assert porch.hear(0.65, 1) == ["onset"]


def test_a_detection_keeps_the_thresholds_it_began_with():
    settings = EventSettings(onset_threshold=0.6, update_interval_s=0, noise_floor=SETTINGS)
    porch = Porch(settings)
    assert porch.hear(0.55, 300) == []
    assert porch.hear(0.9, 2) == ["onset"]
    # Far longer than the floor needs to come down: the sound ends where it was said to end.
    assert porch.hear(0.62, 200) == []
    assert porch.hear(0.5, 1) == ["offset"]


def test_a_floor_found_just_after_the_onset_waits_until_the_detection_is_over():
    settings = EventSettings(onset_threshold=0.6, update_interval_s=0, noise_floor=SETTINGS)
    onsets = []
    for hops in range(30, 60):
        porch = Porch(settings)
        porch.hear(0.01, 5)
        porch.hear(0.55, hops * 0.08)
        onsets.append(porch.hear(0.65, 1) == ["onset"])
        # Above the offset threshold of 0.4, and below it once the floor has lifted it to 0.54.
        assert porch.hear(0.5, 2) == []
    # The floor passes its quantile somewhere in between.
    assert onsets[0]
    assert not onsets[-1]
