"""Event F1 and PSDS equal those of sed_eval and sed_scores_eval (`uv sync --group bench`)."""

import importlib.util
import warnings
from typing import Any

import numpy as np
import pytest

from train.stream.psds import PsdsSettings, measure_point, psds
from train.stream.scenes import Sound
from train.stream.scoring import add_up, count, macro_f1, pool_counts, within_collars

pytestmark = [
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("sed_eval", "sed_scores_eval")),
        reason="sed_eval and sed_scores_eval are missing (uv sync --group bench)",
    ),
    # They are years older than the NumPy and setuptools that they run on here.
    pytest.mark.filterwarnings("ignore"),
]

LABELS = ["a", "b", "c"]
SCENE_S = 120.0
HOP_S = 0.1
Scenes = list[tuple[list[Sound], list[Sound]]]


def _import(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    """Random truth, and detections that are late, mislabelled, merged or made up."""
    rng = np.random.default_rng(0)
    made: Scenes = []
    for _ in range(4):
        truth, said = [], []
        for label in LABELS:
            at_s = rng.uniform(1, 6)
            while at_s < SCENE_S - 4:
                sound = Sound(round(at_s, 3), round(at_s + rng.uniform(0.3, 3), 3), label)
                truth.append(sound)
                if rng.random() < 0.75:
                    named = label if rng.random() < 0.85 else str(rng.choice(LABELS))
                    onset_s = max(0.0, sound.onset_s + rng.normal(0, 0.2))
                    said.append(Sound(onset_s, sound.offset_s + rng.uniform(0.3, 0.7), named))
                at_s = sound.offset_s + rng.uniform(1, 6)
        made.append((sorted(truth), sorted(said)))
    return made


def test_event_f1_equals_sed_eval(scenes: Scenes) -> None:
    containers = _import("dcase_util.containers")
    metrics = _import("sed_eval.sound_event").EventBasedMetrics(
        event_label_list=LABELS,
        t_collar=0.25,
        percentage_of_length=0.5,
        evaluate_onset=True,
        evaluate_offset=True,
        event_matching_type="optimal",
    )

    def listed(sounds: list[Sound]) -> Any:
        return containers.MetaDataContainer(
            [
                {"filename": "x", "event_label": s.label, "onset": s.onset_s, "offset": s.offset_s}
                for s in sounds
            ]
        )

    for truth, said in scenes:
        metrics.evaluate(listed(truth), listed(said))
    agree = within_collars(0.25, 0.25, 0.5)
    counts = add_up([count(truth, said, SCENE_S, agree) for truth, said in scenes], 1.0)
    overall = metrics.results_overall_metrics()["f_measure"]
    assert pool_counts(counts).f1 == pytest.approx(overall["f_measure"])
    by_class = metrics.results_class_wise_average_metrics()["f_measure"]
    assert macro_f1(counts) == pytest.approx(by_class["f_measure"])


def random_scores(scenes: Scenes) -> list[np.ndarray]:
    """Return noisy scores ``[hops, labels]`` that are higher on and after the sounds."""
    rng = np.random.default_rng(1)
    middle_s = (np.arange(round(SCENE_S / HOP_S)) + 0.5) * HOP_S
    scores = []
    for truth, _ in scenes:
        columns = []
        for label in LABELS:
            column = 0.5 * rng.random(len(middle_s))
            for sound in (s for s in truth if s.label == label):
                on = (middle_s > sound.onset_s) & (middle_s < sound.offset_s + 0.3)
                column[on] += 0.1 + 0.4 * rng.random()
            columns.append(np.round(np.convolve(column, np.ones(9) / 9, "same"), 2))
        scores.append(np.stack(columns, axis=1))
    return scores


def find_runs(scores: np.ndarray, threshold: float) -> list[Sound]:
    """Return a detection for each run of scores above the threshold."""
    times_s = (np.arange(len(scores) + 1) * HOP_S).tolist()
    found = []
    for column, label in zip(scores.T, LABELS, strict=True):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], column > threshold, [0]]).astype(int)))
        found += [
            Sound(times_s[first], times_s[last], label) for first, last in edges.reshape(-1, 2)
        ]
    return found


@pytest.mark.parametrize(
    "settings",
    # Odd shares: where an overlap is exactly the share asked for, rounding decides.
    [
        PsdsSettings(dtc=0.71, gtc=0.71, alpha_ct=0.0),
        PsdsSettings(dtc=0.53, gtc=0.53, alpha_ct=0.0, alpha_st=0.0, max_per_hour=1000),
        PsdsSettings(dtc=0.53, gtc=0.53, cttc=0.31, alpha_ct=0.5, max_per_hour=1000),
    ],
)
def test_psds_equals_sed_scores_eval(scenes: Scenes, settings: PsdsSettings) -> None:
    frame = _import("pandas").DataFrame
    peer = _import("sed_scores_eval.intersection_based.psds")
    scores = random_scores(scenes)
    times_s = np.arange(len(scores[0]) + 1) * HOP_S
    names = [f"scene{number}" for number in range(len(scenes))]
    tables = {
        name: frame(
            {"onset": times_s[:-1], "offset": times_s[1:]}
            | {label: own[:, i] for i, label in enumerate(LABELS)}
        )
        for name, own in zip(names, scores, strict=True)
    }
    truth = {
        name: [(s.onset_s, s.offset_s, s.label) for s in own]
        for name, (own, _) in zip(names, scenes, strict=True)
    }
    expected, *_ = peer.psds(
        tables,
        truth,
        dict.fromkeys(names, SCENE_S),
        dtc_threshold=settings.dtc,
        gtc_threshold=settings.gtc,
        cttc_threshold=settings.cttc if settings.alpha_ct else None,
        alpha_ct=settings.alpha_ct,
        alpha_st=settings.alpha_st,
        unit_of_time="hour",
        max_efpr=settings.max_per_hour,
    )
    points = [
        measure_point(
            [
                (own, find_runs(score, float(threshold)))
                for (own, _), score in zip(scenes, scores, strict=True)
            ],
            LABELS,
            SCENE_S * len(scenes),
            settings,
        )
        for threshold in np.unique(np.concatenate([score.ravel() for score in scores]))
    ]
    assert psds(points, settings) == pytest.approx(expected)
