"""Clips that pass through a stream: heard whole, and as the single windows are."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from streamcls.checkpoint import load_checkpoint
from train.data import Clips, centre_in_windows
from train.evaluate import Classify
from train.export import write_model
from train.passing import Passing, place_in_stream
from train.recipes import Recipe
from train.state import take_apart


def test_the_windows_that_hold_a_clip(clips: Clips) -> None:
    one = clips.take(np.array([0]))
    begin, end = one.active[0].tolist()
    window = end - begin + 300
    audio, holds = place_in_stream(one, window, 100)
    assert audio.shape == (1, 2 * window)
    # A span that leaves 300 samples free is whole in the three or four windows 100 apart.
    assert holds.sum() in (3, 4)
    middle = audio[0, window // 2 : window // 2 + window]
    heard = one.audio[begin:end] / np.float32(32768)
    np.testing.assert_array_equal(middle[150 : 150 + len(heard)], heard)
    # Longer than any window: the one in the middle stands for it.
    _, holds = place_in_stream(one, (end - begin) // 2, 100)
    assert holds.sum() == 1


def test_one_window_scores_as_the_window_itself(
    clips: Clips, recipe: Recipe, tmp_path: Path
) -> None:
    network, params, stats = take_apart(recipe)
    path = tmp_path / "model.safetensors"
    write_model(recipe, network, params, stats, {}, path)
    checkpoint = load_checkpoint(path)
    classify, passing = Classify(checkpoint), Passing(checkpoint)
    some = clips.take(np.arange(5))
    some = replace(some, active=np.stack([np.zeros(5, np.int64), some.length], axis=1))
    windows = centre_in_windows(some, classify.window_samples)
    audio = np.pad(windows, ((0, 0), (0, classify.window_samples)))
    holds = np.zeros_like(place_in_stream(some, passing.window_samples, passing.step_samples)[1])
    holds[:, 0] = True
    np.testing.assert_allclose(passing(audio, holds), classify(windows), atol=1e-5)
