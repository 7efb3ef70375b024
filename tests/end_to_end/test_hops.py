"""The same audio at different hops gives the same events: nothing counts predictions."""

from pathlib import Path

import soundfile

from streamcls import Classifier, Event
from streamcls.postprocess.settings import EventSettings

RECORDING = Path(__file__).resolve().parents[2] / "streamcls" / "recordings" / "demo.flac"


def hear(hop_ms: float) -> list[Event]:
    """Return the ended events of the bundled recording, heard by the shipped model."""
    audio, rate_hz = soundfile.read(RECORDING, dtype="float32")
    # The file's own thresholds are for people who talk all day.
    events = EventSettings(onset_threshold=0.6)
    classifier = Classifier("commands", hop_ms=hop_ms, events=events, sample_rate_hz=rate_hz)
    results = [*classifier.feed(audio), *classifier.flush()]
    return [r for r in results if isinstance(r, Event) and r.offset_ns is not None]


def test_hops_of_80_160_and_320_ms_give_the_same_events() -> None:
    fine = hear(80)
    assert len(fine) >= 8
    for hop_ms in (160, 320):
        coarse = hear(hop_ms)
        assert [event.label for event in coarse] == [event.label for event in fine]
        for ours, theirs in zip(coarse, fine, strict=True):
            assert ours.offset_ns is not None
            assert theirs.offset_ns is not None
            assert abs(ours.onset_ns - theirs.onset_ns) <= hop_ms * 1_000_000
            assert abs(ours.offset_ns - theirs.offset_ns) <= hop_ms * 1_000_000
