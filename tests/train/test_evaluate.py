"""Scores and reports: the numbers are those of a confusion counted by hand."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from train.data import Clips
from train.errors import DataError
from train.evaluate import clip_power, count_confusions, fit_temperature, make_noise
from train.report import write_report
from train.scores import NOISES, SNRS_DB, Scores, pool, read_scores, save_scores


def scores_of(confusion: list[list[int]], name: str = "hand made") -> Scores:
    table = np.array(confusion)
    return Scores(
        name=name,
        groups=["x/anna", "x/bert"],
        labels=["yes", "no", "unknown"],
        confusion=confusion,
        tallies={
            label: [int(table[i].sum()), int(table[:, i].sum()), int(table[i, i])]
            for i, label in enumerate(["yes", "no", "unknown"])
        },
        accuracy=float(table.trace() / table.sum()),
        noisy_accuracy={kind: {db: 0.5 + db / 100 for db in SNRS_DB} for kind in NOISES},
        others={"unknown": 0.75},
        false_words=0.125,
    )


HAND = [[8, 2, 0], [1, 6, 3], [0, 0, 10]]


def test_confusions_are_counted_by_true_row() -> None:
    table = count_confusions(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), 3)
    np.testing.assert_array_equal(table, [[1, 1, 0], [0, 1, 0], [1, 0, 0]])


def test_precision_and_recall_by_hand() -> None:
    yes, no, unknown = scores_of(HAND).per_class()
    assert (yes.clips, yes.recall, yes.precision) == (10, 0.8, pytest.approx(8 / 9))
    assert (no.recall, no.precision) == (0.6, 0.75)
    assert (unknown.recall, unknown.precision) == (1.0, pytest.approx(10 / 13))


def test_class_never_seen_and_never_said_scores_zero() -> None:
    last = scores_of([[5, 0, 0], [0, 5, 0], [0, 0, 0]]).per_class()[2]
    assert (last.clips, last.precision, last.recall) == (0, 0.0, 0.0)


def test_report_says_the_numbers(tmp_path: Path) -> None:
    path = write_report(scores_of(HAND), "python -m train evaluate x", tmp_path / "report")
    text = path.read_text()
    assert "| mean | **80.0%** | **70.0%** | **60.0%** | **55.0%** | **50.0%** |" in text
    assert "| no | 10 | 75.0% | 60.0% | 66.7% |" in text
    assert "- no taken for unknown: 3" in text
    assert "taken for one of them: 12.5%" in text
    assert "python -m train evaluate x" in text
    picture = (tmp_path / "report" / "confusion.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


def test_pool_adds_confusions_and_averages_rates(tmp_path: Path) -> None:
    folds = [scores_of(HAND), scores_of([[10, 0, 0], [0, 10, 0], [0, 0, 10]])]
    mean = pool(folds, "both")
    assert mean.accuracy == pytest.approx(0.9)
    assert mean.confusion == [[18, 2, 0], [1, 16, 3], [0, 0, 20]]
    assert mean.at(10) == pytest.approx(0.6)
    report = write_report(mean, "command", tmp_path, folds).read_text()
    assert "| 2 groups | 30 | 80.0% |" in report
    assert "| 2 groups | 30 | 100.0% |" in report


def test_scores_survive_the_file(tmp_path: Path) -> None:
    save_scores(scores_of(HAND), tmp_path / "scores.json")
    assert read_scores(tmp_path / "scores.json", Scores) == scores_of(HAND)
    with pytest.raises(DataError, match="cannot read scores"):
        read_scores(tmp_path / "absent.json", Scores)


@pytest.mark.parametrize("kind", NOISES)
def test_evaluation_noise_has_unit_power_and_never_changes(kind: str) -> None:
    talkers = np.random.default_rng(1).standard_normal((6, 4_000)).astype(np.float32)
    noise = make_noise(kind, 5, 4_000, talkers, np.random.default_rng(0))
    again = make_noise(kind, 5, 4_000, talkers, np.random.default_rng(0))
    np.testing.assert_array_equal(noise, again)
    power_db = 10 * np.log10(np.mean(np.square(noise), axis=1))
    np.testing.assert_allclose(power_db, 0, atol=0.01)


def test_clip_power_is_the_mean_square(clips: Clips) -> None:
    first = clips.audio[: clips.length[0]].astype(float) / 32768
    assert clip_power(clips)[0] == pytest.approx(np.mean(first**2), rel=1e-5)


def test_temperature_undoes_what_was_done_to_the_logits() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (4_000, 5))
    truth = np.array([rng.choice(5, p=row / row.sum()) for row in np.exp(logits)])
    for wrong in (0.5, 1.0, 2.0):
        scaled = np.exp(logits / wrong)
        probabilities = (scaled / scaled.sum(axis=1, keepdims=True)).astype(np.float32)
        # Logits divided by ``wrong`` have to be multiplied by it again.
        assert fit_temperature(probabilities, np.eye(5, dtype=bool)[truth]) == pytest.approx(
            1 / wrong, rel=0.06
        )


def test_files_without_tallies_are_counted_from_confusions() -> None:
    scores = scores_of(HAND)
    assert msgspec.structs.replace(scores, tallies={}).count_by_label() == scores.tallies


def test_several_labels_are_scored_by_map(tmp_path: Path) -> None:
    scores = msgspec.structs.replace(
        scores_of(HAND), task="multi-label", confusion=[], average_precision={"yes": 0.5, "no": 1.0}
    )
    assert scores.headline == "mAP"
    text = write_report(scores, "command", tmp_path).read_text()
    assert "## mAP by signal-to-noise ratio" in text
    assert "| mean | | | | 79.3% | 0.750 |" in text
    assert not (tmp_path / "confusion.png").exists()
