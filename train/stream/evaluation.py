"""The stream evaluation: thresholds from one half of the held-out clips, scores from the other.

Used by ``python -m train evaluate-stream``; the result is one value that `report` draws and
``export`` takes the thresholds from.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from streamcls.atomic import write_whole
from streamcls.header import Header, read_header
from streamcls.postprocess.settings import EventSettings
from train.stream.hearing import Detection, Heard, Hearing, detect
from train.stream.psds import PsdsSettings, measure_point, psds
from train.stream.scenes import Material, SceneSettings, Sound, make_scenes, write_scene
from train.stream.scoring import (
    Agree,
    Counts,
    add_up,
    count,
    macro_f1,
    match,
    overlaps,
    pool_counts,
    within_collars,
)
from train.stream.thresholds import choose, sweep

STREAM_FILE = "stream.json"
DETECTION_PSDS = PsdsSettings()
"""Tolerant of times, strict about labels: scenario 2 of DCASE task 4, at 0.1 overlap."""
TIMING_PSDS = PsdsSettings(dtc=0.7, gtc=0.7, cttc=0.3, alpha_ct=0.0)
"""Strict about times: scenario 1 of DCASE task 4."""

LATENCIES = ("after the onset", "after the end", "error of the onset")


class Rate(msgspec.Struct, frozen=True):
    """What became of the sounds of one label."""

    sounds: int
    found: int
    made_up: int
    missed_share: float
    made_up_per_hour: float


class DetPoint(msgspec.Struct, frozen=True):
    """One threshold for all labels."""

    threshold: float
    missed_share: float
    made_up_per_hour: float


class Example(msgspec.Struct, frozen=True):
    """A stretch of a scene to look at."""

    scene: str
    start_s: float
    times_s: list[float]
    """Middles of the windows."""
    scores: dict[str, list[float]]
    truth: list[tuple[float, float, str]]
    distractors: list[tuple[float, float, str]]
    detections: list[tuple[float, float, str]]


class StreamScores(msgspec.Struct, frozen=True, kw_only=True):
    """What a model does in a stream."""

    name: str
    model: str
    held_out: str
    """What the scenes are made of, for people."""
    halves_apart: bool = True
    """Thresholds were chosen on other groups, not only on other clips."""
    temperature: float
    """At which the thresholds hold."""
    labels: list[str]
    """Those that give events."""
    hop_ms: float
    hours: float
    """Reported on; thresholds were chosen on as many others."""
    sounds_per_hour: float
    distractors_per_hour: float
    settings: dict[str, Any]
    target_per_hour: float
    """False accepts per hour and label that the thresholds were chosen for."""
    thresholds: dict[str, float]
    per_label: dict[str, Rate]
    """At the chosen thresholds."""
    total: Rate
    default_total: Rate
    """At the daemon's default threshold."""
    event_f1: dict[str, float]
    """Macro mean over the labels, by what has to agree."""
    psds: dict[str, float]
    latency_s: dict[str, dict[str, float]]
    """From onset and from end of the sound to the published event: p50, p95."""
    det: list[DetPoint]
    det_per_label: dict[str, list[DetPoint]]
    false_sources: list[tuple[str, str, int]]
    """(event, what was to be heard, times), most frequent first."""
    example: Example


def evaluate_stream(
    model: Path,
    material: Material,
    held_out: str,
    report: Callable[[str], None],
    *,
    hours: float = 2.0,
    seed: int = 0,
    hop_ms: float = 80.0,
    target_per_hour: float = 0.5,
    settings: SceneSettings | None = None,
    keep: Path | None = None,
) -> StreamScores:
    """Measure a checkpoint on scenes.

    Args:
        model: The file.
        material: Clips that it was not trained on.
        held_out: What they are, for people.
        report: Receives progress lines.
        hours: Length of the scenes to choose thresholds on, and of those to report on.
        seed: Of the scenes.
        hop_ms: New audio per prediction.
        target_per_hour: False accepts per hour and label to choose thresholds for.
        settings: Of the scenes.
        keep: Folder to write the reported scenes to, as audio and annotation.

    Raises:
        DataError: If the clips do not suffice.
    """
    settings = settings or SceneSettings()
    header = read_header(model)
    hearing = Hearing(model, hop_ms)
    labels = [label for label in header.labels if label not in header.unknown_labels]
    labels = [
        label for label in labels if material.targets.targets[:, header.labels.index(label)].any()
    ]
    heard = []
    *halves, apart = material.halve()
    for half, name in enumerate(("choose", "report")):
        own = []
        scenes = make_scenes(halves[half], settings, hours, 2 * seed + half, name)
        for scene in scenes:
            if keep and name == "report":
                write_scene(scene, keep)
            own.append(hearing.listen(scene)[0])
        report(f"listened to {len(own)} scenes to {name}")
        heard.append(own)
    to_choose, to_report = heard
    events = EventSettings()
    points, _ = sweep(to_choose, header, events, report)
    thresholds = choose(points, labels, target_per_hour)
    points, found = sweep(to_report, header, events, report)
    final = [detect(one, header, thresholds, events) for one in to_report]
    seconds = sum(one.seconds for one in to_report)
    counts = _count(to_report, final, labels)
    default = _count(to_report, [detect(one, header, {}, events) for one in to_report], labels)
    return StreamScores(
        name=header.name,
        model=model.name,
        held_out=held_out,
        halves_apart=apart,
        temperature=header.temperature,
        labels=labels,
        hop_ms=hop_ms,
        hours=round(seconds / 3600, 2),
        sounds_per_hour=round(sum(len(h.truth) for h in to_report) / seconds * 3600, 1),
        distractors_per_hour=round(sum(len(h.distractors) for h in to_report) / seconds * 3600, 1),
        settings=asdict(settings) | {"seed": seed},
        target_per_hour=target_per_hour,
        thresholds=thresholds,
        per_label={label: _rate(one) for label, one in counts.items()},
        total=_rate(pool_counts(counts)),
        default_total=_rate(pool_counts(default)),
        event_f1={
            "overlap": round(macro_f1(counts), 4),
            "onset within 0.5 s": _f1(to_report, final, labels, within_collars(0.5)),
            "onset within 0.2 s": _f1(to_report, final, labels, within_collars(0.2)),
        },
        psds={
            "detection": _psds(to_report, found, labels, seconds, DETECTION_PSDS),
            "timing": _psds(to_report, found, labels, seconds, TIMING_PSDS),
        },
        latency_s=_latencies(to_report, final),
        det=[
            _det_point(threshold, pool_counts(_only(point, labels)))
            for threshold, point in points.items()
        ],
        det_per_label={
            label: [_det_point(t, point.get(label, Counts())) for t, point in points.items()]
            for label in labels
        },
        false_sources=_false_sources(to_report, final),
        example=_example(to_report, final, header),
    )


def _only(point: dict[str, Counts], labels: Sequence[str]) -> dict[str, Counts]:
    return {label: point[label] for label in labels if label in point}


def _count(
    heard: Sequence[Heard],
    detections: Sequence[list[Detection]],
    labels: Sequence[str],
    agree: Agree = overlaps,
) -> dict[str, Counts]:
    hours = sum(one.seconds for one in heard) / 3600
    scenes = [
        count(one.truth, own, one.seconds, agree)
        for one, own in zip(heard, detections, strict=True)
    ]
    totals = add_up(scenes, hours)
    return {label: totals.get(label, Counts(hours=hours)) for label in labels}


def _rate(counts: Counts) -> Rate:
    return Rate(
        counts.sounds,
        counts.found,
        counts.made_up,
        round(counts.missed_share, 4),
        round(counts.made_up_per_hour, 3),
    )


def _det_point(threshold: float, counts: Counts) -> DetPoint:
    return DetPoint(threshold, round(counts.missed_share, 4), round(counts.made_up_per_hour, 3))


def _f1(
    heard: Sequence[Heard],
    detections: Sequence[list[Detection]],
    labels: Sequence[str],
    agree: Agree,
) -> float:
    return round(macro_f1(_count(heard, detections, labels, agree)), 4)


def _psds(
    heard: Sequence[Heard],
    found: dict[float, list[list[Detection]]],
    labels: Sequence[str],
    seconds: float,
    settings: PsdsSettings,
) -> float:
    points = [
        measure_point(
            [(one.truth, own) for one, own in zip(heard, detections, strict=True)],
            labels,
            seconds,
            settings,
        )
        for detections in found.values()
    ]
    return round(psds(points, settings), 4)


def _pairs(
    heard: Sequence[Heard], detections: Sequence[list[Detection]]
) -> list[tuple[Sound, Detection]]:
    """Return every sound that was found with its detection."""
    pairs = []
    for one, own in zip(heard, detections, strict=True):
        for label in {d.label for d in own}:
            sounds = [s for s in one.truth if s.label == label]
            said = [d for d in own if d.label == label]
            pairs += [(sounds[i], said[j]) for i, j in match(sounds, said, overlaps)]
    return pairs


def _latencies(
    heard: Sequence[Heard], detections: Sequence[list[Detection]]
) -> dict[str, dict[str, float]]:
    pairs = _pairs(heard, detections)
    if not pairs:
        nothing = {"p50": 0.0, "p95": 0.0}
        return {what: nothing for what in LATENCIES}
    values = (
        [d.published_s - s.onset_s for s, d in pairs],
        [d.published_s - s.offset_s for s, d in pairs],
        [abs(d.onset_s - s.onset_s) for s, d in pairs],
    )
    return {
        what: {
            "p50": round(float(np.percentile(own, 50)), 3),
            "p95": round(float(np.percentile(own, 95)), 3),
        }
        for what, own in zip(LATENCIES, values, strict=True)
    }


def _false_sources(
    heard: Sequence[Heard], detections: Sequence[list[Detection]]
) -> list[tuple[str, str, int]]:
    """Return what was really to be heard where an event was made up."""
    causes: dict[tuple[str, str], int] = {}
    for one, own in zip(heard, detections, strict=True):
        real = {id(d) for _, d in _pairs([one], [own])}
        for detection in own:
            if id(detection) in real:
                continue
            under = [s.label for s in (*one.truth, *one.distractors) if overlaps(s, detection)]
            cause = under[0] if under else "background"
            if cause == detection.label:
                cause = f"{cause} again"
            key = (detection.label, cause)
            causes[key] = causes.get(key, 0) + 1
    ranked = sorted(causes.items(), key=lambda item: (-item[1], item[0]))
    return [(label, cause, times) for (label, cause), times in ranked]


def _example(
    heard: Sequence[Heard], detections: Sequence[list[Detection]], header: Header
) -> Example:
    """Return half a minute of the first scene."""
    one, own = heard[0], detections[0]
    start_s = one.truth[0].onset_s - 2.0 if one.truth else 0.0
    end_s = start_s + 40.0
    middles = [(p.sample_start + p.sample_end) / 2 / p.sample_rate_hz for p in one.predictions]
    shown = [i for i, t in enumerate(middles) if start_s <= t < end_s]

    def cut(sounds: Sequence[Sound]) -> list[tuple[float, float, str]]:
        return [
            (s.onset_s, s.offset_s, s.label)
            for s in sounds
            if s.offset_s > start_s and s.onset_s < end_s
        ]

    return Example(
        one.name,
        start_s,
        [round(middles[i], 3) for i in shown],
        {
            label: [round(float(one.predictions[i].probabilities[k]), 3) for i in shown]
            for k, label in enumerate(header.labels)
        },
        cut(one.truth),
        cut(one.distractors),
        cut(own),
    )


def save_stream_scores(scores: StreamScores, path: Path) -> None:
    """Write the scores as JSON."""
    write_whole(path, msgspec.json.encode(scores) + b"\n")
