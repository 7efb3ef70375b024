"""Training itself: it learns, and a killed run ends with the weights of an uninterrupted one."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from train.bank import draw_weights
from train.data import Clips, centre_in_windows
from train.errors import DataError, RunError
from train.loop import fit
from train.parallel import make_mesh
from train.recipes import Precision, Recipe
from train.step import make_predict, mel_centres_hz


def nothing(clips: Clips) -> Clips:
    return clips.take(np.zeros(len(clips), np.bool_))


def leaves(*trees: object) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(trees)]


def run_folder(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    return folder


def test_resumed_equals_uninterrupted(recipe: Recipe, clips: Clips, tmp_path: Path) -> None:
    lines: list[str] = []
    whole = run_folder(tmp_path, "whole")
    _, *expected = fit(recipe, clips, nothing(clips), whole, lines.append)
    broken = run_folder(tmp_path, "broken")
    fit(recipe, clips, nothing(clips), broken, lines.append, stop_after_epochs=1)
    lines.clear()
    _, *resumed = fit(recipe, clips, nothing(clips), broken, lines.append)
    assert lines[0] == "resuming after epoch 1/2"
    for ours, theirs in zip(leaves(resumed), leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    log = [json.loads(line) for line in (broken / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in log] == [1, 2]
    assert log[0]["clips_per_s"] > 0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_learns_and_keeps_the_best(
    precision: Precision, recipe: Recipe, clips: Clips, tmp_path: Path
) -> None:
    held = np.char.endswith(clips.group, "speaker3")
    longer = replace(recipe, epochs=6, steps_per_epoch=15, batch_size=32, precision=precision)
    network, params, stats = fit(
        longer, clips.take(~held), clips.take(held), run_folder(tmp_path, "run"), lambda _: None
    )
    test = clips.take(held)
    windows = centre_in_windows(test, network.window_samples)
    accuracy = (make_predict(network, make_mesh(1))(params, stats, windows) == test.label).mean()
    log = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    validated = [json.loads(line)["validation_accuracy"] for line in log]
    assert accuracy == pytest.approx(max(validated), abs=1e-4)
    # Chance is 0.25.
    assert accuracy >= 0.75


def test_snapshot_of_another_model_is_refused(recipe: Recipe, clips: Clips, tmp_path: Path) -> None:
    run = run_folder(tmp_path, "run")
    fit(recipe, clips, nothing(clips), run, lambda _: None, stop_after_epochs=1)
    wider = replace(recipe, model={**recipe.model, "width": 1.0})
    with pytest.raises(RunError, match="choose another --out"):
        fit(wider, clips, nothing(clips), run, lambda _: None)


def test_class_without_clips_is_an_error(recipe: Recipe, clips: Clips, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no clip to train on for fall"):
        fit(
            recipe,
            clips.take(clips.label != 1),
            nothing(clips),
            run_folder(tmp_path, "run"),
            lambda _: None,
        )


def test_clips_are_drawn_by_class_and_source_weight(clips: Clips) -> None:
    uneven = clips.take(np.arange(len(clips)) > 5)
    chances = np.diff(np.concatenate([[0], draw_weights(uneven, {"unknown": 3.0})]))
    per_class = np.bincount(uneven.label, chances)
    np.testing.assert_allclose(per_class, [1 / 6, 1 / 6, 3 / 6, 1 / 6], atol=1e-5)


def test_mel_centres_rise_between_the_limits(recipe: Recipe) -> None:
    centres = np.asarray(mel_centres_hz(recipe.front_end))
    assert centres.shape == (24,)
    assert (np.diff(centres) > 0).all()
    assert centres[0] > recipe.front_end.fmin_hz
    assert centres[-1] < recipe.front_end.fmax_hz
