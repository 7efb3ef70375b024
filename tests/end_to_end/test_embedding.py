"""The embedded classifier and the daemon say the same about the same audio."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from streamcls import Classifier, Event, EventSettings, Prediction
from streamcls.publish.messages import top_scores
from streamcls.publish.schema import EventMessage
from tests.end_to_end.conftest import Launcher

RATE_HZ = 44_100
EVENTS = EventSettings(onset_threshold=0.1, min_duration_ms=80.0, min_gap_ms=0.0)


def test_random_pieces_give_what_the_daemon_publishes(launcher: Launcher, model, tmp_path) -> None:
    n = round(3.97 * RATE_HZ)
    swell = 0.02 + 0.1 * np.sin(np.arange(n) / RATE_HZ * 4) ** 2
    audio = np.random.default_rng(0).normal(0, 1, (n, 2)) * swell[:, None]
    path: Path = tmp_path / "noise.flac"
    soundfile.write(path, audio, RATE_HZ, subtype="PCM_16")
    source = ["--source", f"file:{path}", "--fast", "--channel", "mix", "--model", model]
    settings = ["onset_threshold=0.1", "min_duration_ms=80", "min_gap_ms=0"]
    sets = [part for one in settings for part in ("--set", f"events.{one}")]
    with launcher.run(*source, *sets, "--set", "publish.top_k=0") as daemon:
        daemon.listen_to_the_end()
        assert daemon.process.wait(10) == 0
    published = daemon.predictions("mic")

    classifier = Classifier(
        model,
        events=EVENTS,
        sample_rate_hz=RATE_HZ,
        channel="mix",
        start_ns=published[0].t_start_ns - published[0].sample_start * 62_500,
    )
    samples, _ = soundfile.read(path, dtype="int16")
    generator = np.random.default_rng(1)
    results, first = [], 0
    while first < n:
        piece = int(generator.integers(1, 9_000))
        results += classifier.feed(samples[first : first + piece])
        first += piece
    results += classifier.flush()

    predictions = [one for one in results if isinstance(one, Prediction)]
    assert len(predictions) == len(published) > 30
    for ours, theirs in zip(predictions, published, strict=True):
        assert (ours.sample_start, ours.sample_end) == (theirs.sample_start, theirs.sample_end)
        # UTC is asked for with each prediction; between two looks the clock may be slewed.
        assert ours.t_end_ns == pytest.approx(theirs.t_end_ns, abs=100_000)
        assert tuple(ours.flags) == theirs.flags
        assert ours.level_dbfs == pytest.approx(theirs.level_dbfs, abs=0.01)
        scores = top_scores(ours.probabilities, classifier.labels, 0)
        assert scores == pytest.approx(theirs.scores, abs=2e-6)

    events = [one for one in results if isinstance(one, Event)]
    said = [one for one in daemon.messages if isinstance(one, EventMessage)]
    assert [(one.state.value, one.label, one.reason) for one in events] == [
        (one.state, one.label, one.reason) for one in said
    ]
    assert len(events) > 6
    for ours, theirs in zip(events, said, strict=True):
        assert ours.onset_ns == pytest.approx(theirs.onset_ns, abs=20_000)
        assert ours.peak_score == pytest.approx(theirs.peak_score, abs=2e-6)
        if theirs.offset_ns is not None:
            assert ours.offset_ns == pytest.approx(theirs.offset_ns, abs=20_000)
