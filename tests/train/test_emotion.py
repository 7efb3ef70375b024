"""The recipe for emotions, on real clips of the set that it names."""

from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from streamcls.models import build_model
from train.data import load_clips, read_manifest, write_manifest
from train.recipes import load_recipe
from train.split import N_HASH_FOLDS, split_fold


@pytest.mark.shared_data
def test_every_actor_is_held_out_once_and_never_trained_on_then(
    shared_data: Path, tmp_path: Path
) -> None:
    """One clip of each actor stands for all of his."""
    recipe = load_recipe("emotion")
    rows = read_manifest(shared_data / "ravdess")
    assert {row.label for row in rows} == set(recipe.labels)
    folder = tmp_path / "ravdess"
    folder.mkdir()
    (folder / "audio").symlink_to(shared_data / "ravdess" / "audio")
    write_manifest({row.group: row for row in rows}.values(), folder / "manifest.csv")
    rate_hz = recipe.front_end.sample_rate_hz
    clips = load_clips(recipe.sources, recipe.labels, rate_hz, tmp_path, tmp_path / "work")
    held_out = []
    for fold in range(N_HASH_FOLDS):
        split = split_fold(clips, fold, recipe.leave_one_out, recipe.validate, recipe.fold_by)
        assert not np.intersect1d(clips.group[split.train], clips.group[split.test]).size
        held_out += clips.group[split.test].tolist()
    assert sorted(held_out) == [f"ravdess/actor_{n:02d}" for n in range(1, 21)]


def test_a_daemon_can_step_it_and_it_hears_a_sentence_at_once() -> None:
    recipe = load_recipe("emotion")
    front_end = recipe.front_end
    model = nnx.eval_shape(
        lambda: build_model(
            recipe.architecture,
            recipe.model,
            front_end.n_mels,
            len(recipe.labels),
            nnx.Rngs(0),
        )
    )
    assert model.time_valid
    # Nine in ten of the set's sentences are no longer.
    assert front_end.samples_for(model.window_frames) >= 2.5 * front_end.sample_rate_hz
