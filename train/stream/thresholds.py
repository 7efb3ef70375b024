"""The threshold of each label: the lowest at which it makes up few enough events.

Chosen on scenes of their own, from the same events that the daemon would publish.
"""

from collections.abc import Callable, Mapping, Sequence

from streamcls.header import Header
from streamcls.postprocess.settings import EventSettings
from train.stream.hearing import Detection, Heard, detect
from train.stream.scoring import Counts, add_up, count

GRID = (
    0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.74, 0.78, 0.82, 0.85, 0.88, 0.9, 0.92, 0.94,
    0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995,
)  # fmt: skip
"""Thresholds that are tried: finer where a softmax says it is sure."""

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
    """Return per label the lowest threshold with at most ``per_hour`` made-up events.

    A higher threshold may by chance make up more; the one chosen is above all that do too much. If
    even the highest does, that one is taken.
    """
    chosen = {}
    grid = sorted(points)
    for label in labels:
        fine = grid[-1]
        for threshold in reversed(grid):
            if points[threshold].get(label, Counts()).made_up_per_hour > per_hour:
                break
            fine = threshold
        chosen[label] = fine
    return chosen
