"""Scenes through the daemon's own path: intake, ring, engine and event detector as shipped.

`Hearing` runs the model once per scene and keeps its predictions. `detect` gives them to an
`EventDetector` with any thresholds: the events that the daemon would publish with them, without
running the model again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from streamcls.classifier import Classifier
from streamcls.header import Header
from streamcls.postprocess.detector import EventDetector
from streamcls.postprocess.ledger import CloseReason
from streamcls.postprocess.settings import EventSettings
from streamcls.types import Event, EventState, Prediction
from streamcls.units import NS_PER_S
from train.stream.scenes import Scene, Sound

_CHUNK_S = 1.0


@dataclass(frozen=True, order=True)
class Detection(Sound):
    """An event as a subscriber saw it."""

    published_s: float
    """End of the audio that was heard when its onset was published."""
    peak_score: float


@dataclass(frozen=True)
class Heard:
    """A scene's truth with what the model made of its audio."""

    name: str
    seconds: float
    truth: list[Sound]
    distractors: list[Sound]
    predictions: list[Prediction]


class Hearing:
    """A model that listens to scenes one after another.

    Args:
        model: Path of the checkpoint.
        hop_ms: New audio per prediction.
    """

    def __init__(self, model: Path, hop_ms: float):
        self._classifier = Classifier(model, hop_ms=hop_ms)
        self.window_s = self._classifier.window_samples / self._classifier.model_rate_hz

    def listen(self, scene: Scene) -> tuple[Heard, list[Event]]:
        """Return the predictions of a scene, and the events of the file's own thresholds."""
        chunk = round(_CHUNK_S * scene.sample_rate_hz)
        results = []
        for first in range(0, len(scene.audio), chunk):
            results += self._classifier.feed(scene.audio[first : first + chunk])
        results += self._classifier.flush()
        predictions = [one for one in results if isinstance(one, Prediction)]
        heard = Heard(scene.name, scene.seconds, scene.truth, scene.distractors, predictions)
        return heard, [one for one in results if isinstance(one, Event)]


def detect(
    heard: Heard, header: Header, thresholds: Mapping[str, float], settings: EventSettings
) -> list[Detection]:
    """Return the events that the daemon publishes for a scene with these thresholds.

    Args:
        heard: The scene.
        header: Of the model; its labels and task.
        thresholds: Per label, as a checkpoint's header holds them.
        settings: Everything else that decides about events.
    """
    detector = EventDetector(
        settings, header.labels, thresholds, header.unknown_labels, heard.name, header.task
    )
    published: dict[str, float] = {}
    ended: list[Event] = []

    def note(records: Sequence[object], now_s: float) -> None:
        for record in records:
            if isinstance(record, Event) and record.state is EventState.ONSET:
                published[record.id] = now_s
            elif isinstance(record, Event) and record.state is EventState.OFFSET:
                ended.append(record)

    for prediction in heard.predictions:
        note(detector.feed(prediction), prediction.sample_end / prediction.sample_rate_hz)
    note(detector.close(CloseReason.ENDED), heard.seconds)
    return sorted(to_detection(event, published[event.id]) for event in ended)


def to_detection(event: Event, published_s: float) -> Detection:
    """Return an ended event in seconds of its scene."""
    assert event.offset_ns is not None
    return Detection(
        event.onset_ns / NS_PER_S,
        event.offset_ns / NS_PER_S,
        event.label,
        published_s,
        event.peak_score,
    )
