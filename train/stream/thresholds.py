"""The threshold of each label: where it is expected to make up as few events as asked for.

Chosen on scenes of their own, from the same events that the daemon would publish. At the few false
accepts per hour that people want, hours of scenes hold one or two of a label: counting them chooses
by chance. The logarithm of the rate falls on a straight line over the logit of the threshold
(docs/decisions/0019-thresholds.md), so the line through the thresholds with more events is read
where the wanted rate is.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from streamcls.header import Header
from streamcls.postprocess.settings import EventSettings
from train.stream.hearing import Detection, Heard, detect
from train.stream.scoring import Counts, add_up, count

GRID = (
    0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.74, 0.78, 0.82, 0.85, 0.88, 0.9, 0.92, 0.94,
    0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995,
)  # fmt: skip
"""Thresholds that are tried: finer where a softmax says it is sure."""

_FEWEST_EVENTS = 3
"""A rate from fewer events is too uncertain for the line."""
_FEWEST_POINTS, _LINE_POINTS = 3, 6
"""The line goes through so many of the highest thresholds with enough events."""

Point = dict[str, Counts]
"""Counts by label at one threshold."""


def sweep(
    heard: Sequence[Heard],
    header: Header,
    settings: EventSettings,
    report: Callable[[str], None],
    grid: Sequence[float] = GRID,
) -> tuple[dict[float, Point], dict[float, list[list[Detection]]]]:
    """Return counts, and the events themselves scene by scene, at every threshold."""
    hours = sum(one.seconds for one in heard) / 3600
    points, events = {}, {}
    for threshold in grid:
        thresholds = dict.fromkeys(header.labels, threshold)
        found = [detect(one, header, thresholds, settings) for one in heard]
        counted = [
            count(one.truth, own, one.seconds) for one, own in zip(heard, found, strict=True)
        ]
        points[threshold] = add_up(counted, hours)
        events[threshold] = found
    report(f"{len(grid)} thresholds tried on {hours:.1f} h")
    return points, events


def choose(
    points: Mapping[float, Point], labels: Sequence[str], per_hour: float
) -> dict[str, float]:
    """Return per label the threshold at which ``per_hour`` made-up events are expected.

    Where a label makes up too little for a line, it is the lowest threshold tried above all that
    make up more than that.
    """
    return {label: _choose_one(points, label, per_hour) for label in labels}


def _choose_one(points: Mapping[float, Point], label: str, per_hour: float) -> float:
    grid = np.array(sorted(points))
    counts = [points[threshold].get(label, Counts()) for threshold in grid]
    made_up = np.array([one.made_up for one in counts])
    usable = np.flatnonzero(made_up >= _FEWEST_EVENTS)[-_LINE_POINTS:]
    if len(usable) >= _FEWEST_POINTS:
        rates = np.array([counts[i].made_up_per_hour for i in usable])
        slope, height = np.polyfit(_logit(grid[usable]), np.log(rates), 1)
        if slope < 0:
            wanted = 1 / (1 + np.exp(-(np.log(per_hour) - height) / slope))
            return round(float(np.clip(wanted, grid[0], grid[-1])), 3)
    too_many = np.flatnonzero([one.made_up_per_hour > per_hour for one in counts])
    first = too_many[-1] + 1 if len(too_many) else 0
    return float(grid[min(first, len(grid) - 1)])


def _logit(probability: np.ndarray) -> np.ndarray:
    return np.log(probability / (1 - probability))
