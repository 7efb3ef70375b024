"""Scores of events: which sounds were found, how many were made up, how late.

Counting, not judging: everything here takes sounds and detections and gives numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from train.stream.scenes import Sound


@dataclass(frozen=True)
class Counts:
    """What came of the sounds of one label, or of several added up."""

    sounds: int = 0
    found: int = 0
    made_up: int = 0
    hours: float = 0.0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.sounds + other.sounds,
            self.found + other.found,
            self.made_up + other.made_up,
            self.hours + other.hours,
        )

    @property
    def missed_share(self) -> float:
        """False rejects: share of the sounds without an event."""
        return 1 - self.found / self.sounds if self.sounds else 0.0

    @property
    def made_up_per_hour(self) -> float:
        """False accepts per hour."""
        return self.made_up / self.hours if self.hours else 0.0

    @property
    def precision(self) -> float:
        """Share of the events that are of a sound."""
        said = self.found + self.made_up
        return self.found / said if said else 0.0

    @property
    def recall(self) -> float:
        """Share of the sounds with an event."""
        return self.found / self.sounds if self.sounds else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        total = self.sounds + self.found + self.made_up
        return 2 * self.found / total if total else 0.0


Agree = Callable[[Sound, Sound], bool]
"""Whether a detection (second) may stand for a sound (first) of the same label."""


def overlaps(sound: Sound, detection: Sound) -> bool:
    """Agree if the two have a moment in common."""
    return detection.onset_s < sound.offset_s and sound.onset_s < detection.offset_s


def within_collars(
    onset_s: float, offset_s: float | None = None, offset_share: float = 0.0
) -> Agree:
    """Agree if onsets differ by at most ``onset_s`` and offsets by ``offset_s`` or a share.

    Args:
        onset_s: Largest difference of the onsets.
        offset_s: Largest difference of the offsets; None does not look at them.
        offset_share: The offsets may differ by this share of the sound's length, if that is more.

    References:
        Mesaros et al., "Metrics for polyphonic sound event detection", doi 10.3390/app6060162.
    """

    def agree(sound: Sound, detection: Sound) -> bool:
        if abs(sound.onset_s - detection.onset_s) > onset_s:
            return False
        if offset_s is None:
            return True
        allowed_s = max(offset_s, offset_share * (sound.offset_s - sound.onset_s))
        return abs(sound.offset_s - detection.offset_s) <= allowed_s

    return agree


def match(
    sounds: Sequence[Sound], detections: Sequence[Sound], agree: Agree
) -> list[tuple[int, int]]:
    """Pair as many sounds with detections as possible, each with at most one.

    Labels are not looked at. Returns pairs of indices (sound, detection).
    """
    pairs = [
        (i, j)
        for i, sound in enumerate(sounds)
        for j, detection in enumerate(detections)
        if agree(sound, detection)
    ]
    if not pairs:
        return []
    row, column = np.array(pairs).T
    graph = csr_array((np.ones(len(pairs), np.int8), (row, column)), (len(sounds), len(detections)))
    partner = maximum_bipartite_matching(graph, perm_type="column")
    return [(i, int(j)) for i, j in enumerate(partner) if j >= 0]


def count(
    sounds: Sequence[Sound], detections: Sequence[Sound], seconds: float, agree: Agree = overlaps
) -> dict[str, Counts]:
    """Count one scene by label."""
    labels = sorted({s.label for s in sounds} | {d.label for d in detections})
    counts = {}
    for label in labels:
        own = [s for s in sounds if s.label == label]
        said = [d for d in detections if d.label == label]
        found = len(match(own, said, agree))
        counts[label] = Counts(len(own), found, len(said) - found, seconds / 3600)
    return counts


def add_up(scenes: Sequence[dict[str, Counts]], hours: float) -> dict[str, Counts]:
    """Add the counts of scenes by label; all labels have listened for all hours."""
    labels = sorted({label for scene in scenes for label in scene})
    totals = {}
    for label in labels:
        total = sum((scene.get(label, Counts()) for scene in scenes), Counts())
        totals[label] = Counts(total.sounds, total.found, total.made_up, hours)
    return totals


def pool_counts(counts: dict[str, Counts]) -> Counts:
    """Add the counts of all labels, which listened at the same time."""
    total = sum(counts.values(), Counts())
    hours = max((one.hours for one in counts.values()), default=0.0)
    return Counts(total.sounds, total.found, total.made_up, hours)


def macro_f1(counts: dict[str, Counts]) -> float:
    """Return the mean F1 of the labels that occur."""
    return float(np.mean([one.f1 for one in counts.values()])) if counts else 0.0
