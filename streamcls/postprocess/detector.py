"""From a stream's predictions to its events: one detector per stream, between engine and publish.

The engine's thread feeds it once per prediction; whoever ends the stream closes it (a lock makes
that safe from any thread). The whole posterior is smoothed and compared at once (`scores`); only
tracks near or above a threshold, or in the middle of something, are followed one by one.

Sound time: a prediction hears a whole window, so its score is attributed to the middle of that
window, and earlier by the delay of the smoothing (never before the window). Onset and offset are
the sound times at which the score, a straight line between predictions, crosses the thresholds.
At the edges of an epoch, where there is no earlier or later window, the outermost score stands for
the half window beyond it. Times count in the stream's samples, so that a corrected clock changes
no duration; UTC is the newest prediction's.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from streamcls.postprocess.detection import Line
from streamcls.postprocess.ledger import CloseReason, Ledger, Summary
from streamcls.postprocess.noise_floor import NoiseFloor
from streamcls.postprocess.rules import resolve_rules
from streamcls.postprocess.scores import ArrayReader, ListReader, ScoreReader
from streamcls.postprocess.settings import EventSettings
from streamcls.postprocess.smoothing import Scores
from streamcls.postprocess.track import Record, Track
from streamcls.types import Prediction
from streamcls.units import NS_PER_S, samples_to_ns

Records = Sequence[Record]
_NOTHING: Records = ()


class EventDetector:
    """Turns one stream's predictions into events, each with exactly one onset and one offset.

    Args:
        settings: As they hold for this stream (see `settings.settle_for_stream`).
        labels: The model's classes in posterior order.
        thresholds: The model's own onset thresholds (`Header.thresholds`).
        unknown_labels: Classes that mean "nothing I know"; they give no events by default.
        stream: Name of the stream.
        task: Says how the probabilities of a group's classes combine: the sum where classes
            exclude each other, else the largest.

    Raises:
        ConfigError: The settings do not fit the model or contradict each other.

    Example:
        >>> detector = EventDetector(EventSettings(), ("dog", "rain"), {"dog": 0.7}, (), "porch")
        >>> for step, score in enumerate((0.1, 0.9, 0.9, 0.9)):
        ...     end = 16_000 + 1280 * step
        ...     window = np.array([score, 1 - score], np.float32)
        ...     time = {"t_start_ns": (end - 16_000) * 62_500, "t_end_ns": end * 62_500}
        ...     index = {"sample_start": end - 16_000, "sample_end": end}
        ...     prediction = Prediction(
        ...         "porch", 0, **index, sample_rate_hz=16_000, **time, level_dbfs=-20.0,
        ...         flags=(), probabilities=window)
        ...     for event in detector.feed(prediction):
        ...         print(event.label, event.state.value, event.onset_ns // 1_000_000)
        dog onset 560
    """

    def __init__(
        self,
        settings: EventSettings,
        labels: Sequence[str],
        thresholds: Mapping[str, float],
        unknown_labels: Sequence[str],
        stream: str,
        task: Literal["single-label", "multi-label"] = "single-label",
    ):
        rules = resolve_rules(settings, labels, thresholds, unknown_labels)
        self._lock = threading.Lock()
        self._ledger = Ledger(stream)
        self._tracks = [Track(one, self._ledger) for one in rules]
        self._onset_thresholds = np.array([one.onset_threshold for one in rules])
        self._near_thresholds = np.array([one.near_threshold for one in rules])
        self._smoothing_ns = [one.smoothing_ns for one in rules]
        self._noise = settings.noise_floor
        self._floor = NoiseFloor(self._noise, len(rules)) if self._noise.enabled else None
        self._reader: ScoreReader[Any]
        if self._floor is None and ListReader.suits(rules):
            self._reader = ListReader(rules)
        else:
            self._reader = ArrayReader(rules, sum_groups=task == "single-label")
        self._delays_ns = [0] * len(rules)
        self._busy: set[int] = set()
        self._epoch: int | None = None
        self._time_ns = 0
        self._utc_shift_ns = 0
        self._scores: Any = None  # of the reader; None before the first prediction

    def feed(self, prediction: Prediction) -> Records:
        """Take the stream's next prediction.

        Returns:
            What is to be published now, in order; an empty tuple most of the time.
        """
        with self._lock:
            return self._feed(prediction)

    def close(self, reason: CloseReason | str, t_ns: int | None = None) -> Records:
        """End everything that is going on; every published onset gets its offset.

        The detector may be fed afterwards: it begins as if after a loss.

        Args:
            reason: Given in the offsets; a `CloseReason` or its value.
            t_ns: UTC at which the audio ended, where that is known better than by the end of the
                last window.
        """
        with self._lock:
            out: list[Record] = []
            if self._epoch is not None:
                self._end_epoch(CloseReason(reason), t_ns, out)
            return out or _NOTHING

    def summarise(self) -> Summary:
        """Return the totals since the detector was made."""
        with self._lock:
            return self._ledger.summarise()

    def _feed(self, prediction: Prediction) -> Records:
        scores = self._reader.read(prediction.probabilities)
        time_ns = samples_to_ns(prediction.sample_end, prediction.sample_rate_hz)
        if scores is None or (prediction.epoch == self._epoch and time_ns <= self._time_ns):
            self._ledger.skipped += 1
            return _NOTHING
        out: list[Record] = []
        if prediction.epoch != self._epoch:
            if self._epoch is not None:
                self._end_epoch(CloseReason.LOST, None, out)
            self._begin_epoch(prediction, time_ns, scores, out)
            return out or _NOTHING
        interval_s = (time_ns - self._time_ns) / NS_PER_S
        scores = self._reader.smooth(scores, interval_s)
        previous_ns, previous = self._time_ns, self._scores
        self._time_ns, self._scores = time_ns, scores
        self._utc_shift_ns = prediction.t_end_ns - time_ns
        active: Sequence[int] = self._reader.find_loud(scores)
        if self._busy:
            active = sorted(self._busy.union(active))
        for index in active:
            delay_ns = self._delays_ns[index]
            line = Line(
                previous_ns - delay_ns,
                float(previous[index]),
                time_ns - delay_ns,
                float(scores[index]),
                self._utc_shift_ns,
            )
            self._follow(index, line, out)
        if self._floor is not None:
            self._adapt(self._floor, scores, interval_s)
        return out or _NOTHING

    def _follow(self, index: int, line: Line, out: list[Record]) -> None:
        track = self._tracks[index]
        track.advance(line, out)
        if track.busy:
            self._busy.add(index)
        else:
            self._busy.discard(index)

    def _begin_epoch(
        self, prediction: Prediction, time_ns: int, scores: Any, out: list[Record]
    ) -> None:
        window_ns = samples_to_ns(
            prediction.sample_end - prediction.sample_start, prediction.sample_rate_hz
        )
        self._epoch = prediction.epoch
        self._delays_ns = [min(window_ns, window_ns // 2 + tau) for tau in self._smoothing_ns]
        self._scores = self._reader.begin(scores)
        self._time_ns = time_ns
        self._utc_shift_ns = prediction.t_end_ns - time_ns
        for index, track in enumerate(self._tracks):
            at_ns = time_ns - self._delays_ns[index]
            score = float(self._scores[index])
            line = Line(at_ns, score, at_ns, score, self._utc_shift_ns)
            track.begin(line, time_ns - window_ns, out)
            if track.busy:
                self._busy.add(index)

    def _end_epoch(self, reason: CloseReason, t_ns: int | None, out: list[Record]) -> None:
        for index in sorted(self._busy):
            track, delay_ns = self._tracks[index], self._delays_ns[index]
            last_ns, end_ns = self._time_ns - delay_ns, self._time_ns
            if t_ns is not None:
                end_ns = max(last_ns, t_ns - self._utc_shift_ns)
            if reason is CloseReason.ENDED and end_ns > last_ns:
                # No more will come, so the last score speaks for the rest of the audio; a clip
                # as short as one window has no other score. A loss proves nothing of the kind.
                score = float(self._scores[index])
                track.advance(Line(last_ns, score, end_ns, score, self._utc_shift_ns), out)
            track.close(end_ns, self._utc_shift_ns, reason, out)
        self._busy.clear()
        self._epoch = None

    def _adapt(self, floor: NoiseFloor, scores: Scores, interval_s: float) -> None:
        """Learn from the quiet tracks, and lift their thresholds when the floors were renewed."""
        reader = self._reader
        assert isinstance(reader, ArrayReader)  # lists have no limits that move
        sounding = [index for index in self._busy if self._tracks[index].detecting]
        if not floor.learn(scores, interval_s, sounding):
            return
        wanted = np.minimum(floor.floors + self._noise.margin, self._noise.ceiling)
        lifts = np.maximum(wanted - self._onset_thresholds, 0.0)
        lifted = self._near_thresholds + lifts
        # The thresholds of a detection stay as they were until it is over.
        lifted[sounding] = reader.watch_from[sounding]
        for index in (lifted != reader.watch_from).nonzero()[0].tolist():
            self._tracks[index].raise_thresholds(float(lifts[index]))
        reader.watch_from = lifted
