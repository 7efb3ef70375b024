"""The classifier for programs that embed streamcls: pieces, ends, losses, clips, bad input.

That it says what the daemon says is tested in end_to_end/test_embedding.py.
"""

import subprocess
import sys

import numpy as np
import pytest

import streamcls
from streamcls import Classifier, ClassSettings, Event, EventSettings, Prediction
from streamcls.errors import ConfigError, ModelError, SourceError
from streamcls.types import Flag
from tests.models.checkpoints import LABELS, save_seasoned

RATE_HZ = 44_100
HOP_SAMPLES = 1_280
WARM_UP_HOPS = 13
EAGER = EventSettings(onset_threshold=0.1, min_duration_ms=80, min_gap_ms=0)
"""An untrained network is never sure of anything."""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return save_seasoned(tmp_path_factory.mktemp("model") / "seasoned.safetensors")


@pytest.fixture(scope="module")
def built(path) -> Classifier:
    return Classifier(
        path, events=EAGER, sample_rate_hz=RATE_HZ, channel="mix", start_ns=7, stream="yard"
    )


@pytest.fixture
def classifier(built: Classifier) -> Classifier:
    built.reset(start_ns=7)
    return built


def make_audio(seconds: float, seed: int = 0) -> np.ndarray:
    """Return stereo int16 noise that swells and fades, so that scores change."""
    n = round(seconds * RATE_HZ)
    swell = 0.02 + 0.1 * np.sin(np.arange(n) / RATE_HZ * 4) ** 2
    noise = np.random.default_rng(seed).normal(0, 1, (n, 2)) * swell[:, None]
    return np.clip(noise * 32768, -32768, 32767).astype(np.int16)


def predictions_of(results: list) -> list[Prediction]:
    return [one for one in results if isinstance(one, Prediction)]


def events_of(results: list) -> list[Event]:
    return [one for one in results if isinstance(one, Event)]


def without_ids(results: list) -> list[tuple]:
    """Return what can be compared: ids are random, arrays have no truth value."""
    found: list[tuple] = []
    for one in results:
        if isinstance(one, Event):
            found.append((one.state, one.label, one.onset_ns, one.offset_ns, one.peak_score))
        else:
            found.append((one.sample_start, one.sample_end, one.t_start_ns, one.t_end_ns))
            found.append((one.epoch, one.flags, one.level_dbfs, one.probabilities.tobytes()))
    return found


def test_the_package_loads_nothing_until_it_is_used():
    program = (
        "import sys, streamcls\n"
        "heavy = {'jax', 'flax', 'numpy', 'zmq', 'sounddevice'}\n"
        "print(heavy & set(sys.modules), 'Classifier' in dir(streamcls))\n"
        "from streamcls import EventSettings\n"
        "print(heavy & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set() True\nset()\n", "")
    assert all(getattr(streamcls, name) for name in streamcls.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Classifer'"):
        streamcls.Classifer  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def test_pieces_of_any_size_give_the_same_to_the_last_bit(classifier: Classifier):
    audio = make_audio(4.0)
    whole = classifier.feed(audio) + classifier.flush()
    generator = np.random.default_rng(1)
    pieces, first = [], 0
    while first < len(audio):
        n = int(generator.choice([0, 1, 7, 300, 900, 20_000]))
        pieces += classifier.feed(audio[first : first + n])
        first += n
    pieces += classifier.flush()
    assert without_ids(pieces) == without_ids(whole)
    n_hops = -(-4 * 16_000 // HOP_SAMPLES)
    assert len(predictions_of(whole)) == n_hops - WARM_UP_HOPS + 1
    assert {one.stream for one in whole} == {"yard"}


def test_results_come_with_the_audio_that_completes_them(classifier: Classifier):
    """Not a hop earlier; later only by what the resampler holds back."""
    audio = make_audio(3.0)
    heard = 0
    for first in range(0, len(audio), 441):
        for prediction in predictions_of(classifier.feed(audio[first : first + 441])):
            heard += 1
            fed_s = min(first + 441, len(audio)) / RATE_HZ
            assert 0 <= fed_s - prediction.sample_end / 16_000 < 0.1
            assert prediction.t_end_ns == pytest.approx(7 + prediction.sample_end * 62_500, abs=2)
            window_samples = prediction.sample_end - prediction.sample_start
            assert window_samples == classifier.window_samples
    assert heard == 3 * 16_000 // HOP_SAMPLES - WARM_UP_HOPS + 1


def test_every_event_has_one_onset_then_one_offset(classifier: Classifier):
    results = classifier.feed(make_audio(4.0)) + classifier.flush()
    states: dict[str, list[str]] = {}
    for event in events_of(results):
        states.setdefault(event.id, []).append(event.state.value)
    assert len(states) >= 3
    for sequence in states.values():
        assert (sequence[0], sequence[-1]) == ("onset", "offset")
        assert set(sequence[1:-1]) <= {"update"}
    assert events_of(results)[-1].reason == "ended"
    assert isinstance(results[0], Prediction)  # an event follows the prediction that completes it


def test_audio_shorter_than_a_window_is_padded_and_nothing_gives_nothing(classifier: Classifier):
    assert classifier.flush() == []
    assert classifier.feed(make_audio(0.3)) == []
    (prediction, *events) = classifier.flush()
    assert isinstance(prediction, Prediction)
    assert prediction.flags == (Flag.PADDED,)
    assert prediction.sample_end == 4_800
    assert all(isinstance(event, Event) for event in events)
    # What follows a flush is a stream of its own.
    again = classifier.feed(make_audio(0.3)) + classifier.flush()
    assert without_ids(again) == without_ids([prediction, *events])


def test_a_loss_begins_an_epoch_and_ends_events(classifier: Classifier):
    audio = make_audio(2.0)
    before = classifier.feed(audio)
    after = classifier.feed(audio, lost_samples=4_410) + classifier.flush()
    assert {one.epoch for one in predictions_of(before)} == {0}
    assert {one.epoch for one in predictions_of(after)} == {0, 1}  # the resampler's rest comes now
    assert {one.reason for one in events_of(after)} >= {"lost", "ended"}
    assert predictions_of(after)[-1].sample_end == round(4.1 * 16_000)
    first = next(one for one in predictions_of(after) if one.epoch == 1)
    assert first.sample_start >= round(2.1 * 16_000)


def test_broken_samples_are_flagged_and_survived(classifier: Classifier):
    audio = np.zeros(2 * RATE_HZ)
    audio[RATE_HZ:] = [np.nan, np.inf, -np.inf, 1e300] * (RATE_HZ // 4)
    results = predictions_of(classifier.feed(audio))
    assert Flag.NONFINITE in results[-1].flags
    assert all(np.isfinite(one.probabilities).all() for one in results)


def test_a_clip_gets_its_best_scores_beside_the_stream(classifier: Classifier):
    audio, clip = make_audio(3.0), make_audio(1.7, seed=5)
    alone = classifier.feed(audio) + classifier.flush()
    windows = classifier.feed(clip) + classifier.flush()
    beside = classifier.feed(audio[:50_000])
    scores = classifier.classify(clip)
    beside += classifier.feed(audio[50_000:]) + classifier.flush()
    assert without_ids(beside) == without_ids(alone)
    peaks = np.max([one.probabilities for one in predictions_of(windows)], axis=0)
    assert scores == dict(zip(LABELS, map(float, peaks), strict=True))
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    # Another rate, and shorter than a window.
    assert set(classifier.classify(clip[:4_000:2], RATE_HZ // 2)) == set(LABELS)


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (np.zeros((2, 3, 4)), r"shape \[2, 3, 4\].*\[n, channels\]"),
        (np.zeros((2, 44_100), np.float32), "transpose"),
        (np.zeros(10, np.int32), "type int32: must be int16"),
        (["a"], "must be int16, or floats"),
        (0.5, r"shape \[\]"),
    ],
)
def test_what_is_no_audio_is_refused_and_leaves_the_stream_as_it_was(
    classifier: Classifier, samples, said: str
):
    audio = make_audio(2.0)
    expected = classifier.feed(audio) + classifier.flush()
    results = classifier.feed(audio[:30_000])
    with pytest.raises(SourceError, match=said):
        classifier.feed(samples)
    results += classifier.feed(audio[30_000:]) + classifier.flush()
    assert without_ids(results) == without_ids(expected)


def test_other_bad_input_is_refused(classifier: Classifier, path):
    with pytest.raises(SourceError, match="no audio"):
        classifier.classify(np.zeros(0))
    with pytest.raises(SourceError, match=r"sample_rate_hz = 1: must be 4000 to 384000"):
        classifier.classify(np.zeros(10), 1)
    with pytest.raises(ValueError, match="lost_samples is -1"):
        classifier.feed(np.zeros(10), lost_samples=-1)
    with pytest.raises(ModelError, match="use 40 ms or 80 ms"):
        Classifier(path, hop_ms=50)
    with pytest.raises(SourceError, match="sample_rate_hz = 1000000"):
        Classifier(path, sample_rate_hz=1_000_000)
    with pytest.raises(SourceError, match="sample_rate_hz = 0"):
        Classifier(path, sample_rate_hz=0)
    with pytest.raises(ConfigError, match="'class_1' is no|did you mean 'class_1'"):
        Classifier(path, events=EventSettings(class_={"clas_1": ClassSettings()}))
