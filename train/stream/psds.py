"""Polyphonic sound detection score: how much is found over all thresholds at few false alarms.

An operating point is a set of events, here those the daemon would publish at one threshold. A
detection counts if enough of it lies on sounds of its label (DTC), a sound is found if enough of it
is covered by such detections (GTC); a detection that does not count is a false alarm, and a cross
trigger for each other label on whose sounds enough of it lies (CTTC).

References:
    Bilen et al., "A framework for the robust evaluation of sound event detection",
    arXiv 1910.08440.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.stream.scenes import Sound


@dataclass(frozen=True)
class PsdsSettings:
    """What counts, and what errors cost."""

    dtc: float = 0.1
    gtc: float = 0.1
    cttc: float = 0.3
    alpha_ct: float = 0.5
    alpha_st: float = 1.0
    max_per_hour: float = 100.0


@dataclass(frozen=True)
class Rates:
    """One label at one operating point."""

    found: float
    """True positive ratio."""
    false_per_hour: float
    """Effective: false alarms and weighted cross triggers."""


def overlap_s(one: Sound, others: Sequence[Sound]) -> float:
    """Return how much of a sound lies on the union of others."""
    spans = sorted((max(o.onset_s, one.onset_s), min(o.offset_s, one.offset_s)) for o in others)
    total, until = 0.0, -np.inf
    for first, last in spans:
        if last > max(first, until):
            total += last - max(first, until)
            until = last
    return total


def measure_point(
    scenes: Sequence[tuple[Sequence[Sound], Sequence[Sound]]],
    labels: Sequence[str],
    seconds: float,
    settings: PsdsSettings,
) -> dict[str, Rates]:
    """Measure one operating point.

    Args:
        scenes: Of each scene (truth, detections).
        labels: To measure.
        seconds: Length of all scenes.
        settings: What counts.
    """
    found = dict.fromkeys(labels, 0)
    sounds = dict.fromkeys(labels, 0)
    false = dict.fromkeys(labels, 0)
    crossed: dict[str, dict[str, int]] = {label: dict.fromkeys(labels, 0) for label in labels}
    sounding = dict.fromkeys(labels, 0.0)
    for truth, detections in scenes:
        by_label = {label: [s for s in truth if s.label == label] for label in labels}
        for label in labels:
            own = by_label[label]
            sounds[label] += len(own)
            sounding[label] += sum(s.offset_s - s.onset_s for s in own)
            counted = []
            for one in (d for d in detections if d.label == label):
                length_s = one.offset_s - one.onset_s
                if overlap_s(one, own) >= settings.dtc * length_s:
                    counted.append(one)
                    continue
                false[label] += 1
                for other in labels:
                    on_other = overlap_s(one, by_label[other])
                    if other != label and on_other >= settings.cttc * length_s:
                        crossed[label][other] += 1
            found[label] += sum(
                overlap_s(s, counted) >= settings.gtc * (s.offset_s - s.onset_s) for s in own
            )
    rates = {}
    for label in labels:
        others = [
            crossed[label][other] / sounding[other] * 3600
            for other in labels
            if other != label and sounding[other] > 0
        ]
        crosses = float(np.mean(others)) if others else 0.0
        per_hour = false[label] / seconds * 3600 + settings.alpha_ct * crosses
        rates[label] = Rates(found[label] / sounds[label] if sounds[label] else 0.0, per_hour)
    return rates


def psds(points: Sequence[Mapping[str, Rates]], settings: PsdsSettings) -> float:
    """Return the score of a model from its operating points, 0 to 1."""
    labels = sorted(points[0])
    grid = np.unique(
        [0.0, settings.max_per_hour] + [r.false_per_hour for p in points for r in p.values()]
    )
    grid = grid[grid <= settings.max_per_hour]
    curves = np.array([_best_found([p[label] for p in points], grid) for label in labels])
    effective = np.maximum(curves.mean(axis=0) - settings.alpha_st * curves.std(axis=0), 0)
    area = np.sum(effective[:-1] * np.diff(grid))
    return float(area / settings.max_per_hour)


def _best_found(rates: Sequence[Rates], grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the best true positive ratio within each number of false alarms per hour."""
    order = sorted(rates, key=lambda r: r.false_per_hour)
    at = np.array([r.false_per_hour for r in order])
    best = np.maximum.accumulate([r.found for r in order])
    index = np.searchsorted(at, grid, side="right") - 1
    return np.where(index >= 0, best[np.maximum(index, 0)], 0.0)
