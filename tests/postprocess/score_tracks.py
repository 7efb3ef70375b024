"""Predictions made from score tracks that are written down, at any hop."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from streamcls.postprocess.detector import EventDetector
from streamcls.postprocess.ledger import CloseReason
from streamcls.postprocess.settings import EventSettings
from streamcls.types import Event, EventState, Prediction, Rejection
from streamcls.units import NS_PER_S, samples_to_ns

RATE_HZ = 16_000
WINDOW_SAMPLES = RATE_HZ
HALF_WINDOW_S = WINDOW_SAMPLES / RATE_HZ / 2
START_NS = 1_700_000_000 * NS_PER_S
"""UTC of sample 0."""

Knots = Sequence[tuple[float, float]]
"""A score that runs straight from one (middle of window in s, score) to the next."""


@dataclass(frozen=True)
class Track:
    """Scores of all classes over the middle of the window."""

    knots: Mapping[str, Knots]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.knots)

    @property
    def end_s(self) -> float:
        return max(knots[-1][0] for knots in self.knots.values())

    def at(self, middles_s: np.ndarray) -> np.ndarray:
        """Return ``[middles, classes]`` float32 scores."""
        curves = [np.array(knots).T for knots in self.knots.values()]
        columns = [np.interp(middles_s, times_s, scores) for times_s, scores in curves]
        return np.stack(columns, axis=1).astype(np.float32)


def predict(
    scores: np.ndarray, sample_end: int, epoch: int = 0, utc_shift_ns: int = START_NS
) -> Prediction:
    """Return the prediction of the window that ends at ``sample_end``."""
    return Prediction(
        stream="porch",
        epoch=epoch,
        sample_start=sample_end - WINDOW_SAMPLES,
        sample_end=sample_end,
        sample_rate_hz=RATE_HZ,
        t_start_ns=samples_to_ns(sample_end - WINDOW_SAMPLES, RATE_HZ) + utc_shift_ns,
        t_end_ns=samples_to_ns(sample_end, RATE_HZ) + utc_shift_ns,
        level_dbfs=-20.0,
        flags=(),
        probabilities=scores,
    )


def sample_track(track: Track, hop_ms: int, phase_ms: int = 0) -> Iterator[Prediction]:
    """Yield one prediction per hop; the first has its middle ``phase_ms`` into the track."""
    middles_ms = np.arange(phase_ms, round(track.end_s * 1000) + 1, hop_ms)
    for middle_ms, scores in zip(middles_ms.tolist(), track.at(middles_ms / 1000), strict=True):
        sample_end = middle_ms * RATE_HZ // 1000 + WINDOW_SAMPLES
        yield predict(scores, sample_end, utc_shift_ns=_MIDDLE_SHIFT_NS)


_MIDDLE_SHIFT_NS = START_NS - NS_PER_S // 2
"""Puts the middle of the first window, half a window after sample 0, at `START_NS`."""


def detect(
    settings: EventSettings,
    track: Track,
    hop_ms: int = 80,
    phase_ms: int = 0,
    end: CloseReason = CloseReason.SHUTDOWN,
    **kwargs,
) -> list[Event | Rejection]:
    """Return everything a new detector says about ``track``, the end of the stream included."""
    kwargs = {"thresholds": {}, "unknown_labels": ()} | kwargs
    detector = EventDetector(settings, track.labels, stream="porch", **kwargs)
    records = [one for p in sample_track(track, hop_ms, phase_ms) for one in detector.feed(p)]
    records += detector.close(end)
    summary = detector.summarise()
    assert summary.sounding == 0
    assert summary.opened == summary.closed
    return records


def offsets(records: Iterable[Event | Rejection]) -> list[Event]:
    """Return the completed events."""
    return [r for r in records if isinstance(r, Event) and r.state is EventState.OFFSET]


def rejections(records: Iterable[Event | Rejection]) -> list[Rejection]:
    return [r for r in records if isinstance(r, Rejection)]


def seconds(utc_ns: int | None) -> float:
    """Return a time of the track, to the microsecond."""
    assert utc_ns is not None
    return round((utc_ns - START_NS) / NS_PER_S, 6)


def spans(records: Iterable[Event | Rejection]) -> list[tuple[float, float]]:
    """Return onset and offset of every completed event, in seconds of the track."""
    return [(seconds(event.onset_ns), seconds(event.offset_ns)) for event in offsets(records)]


def dog(*knots: tuple[float, float]) -> Track:
    return Track({"dog": knots})
