"""The commands of ``python -m train`` from clips to file, and what they say to wrong input."""

from pathlib import Path

import jax.numpy as jnp
import msgspec
import numpy as np
import pytest

import train.recipes
import train.runs
from streamcls.checkpoint import load_checkpoint
from streamcls.features import log_mel
from train.cli import main
from train.data import Clips, ManifestRow, centre_in_windows
from train.folder import SILENCE_FOLDER
from train.recipes import Recipe, load_recipe
from train.scores import Scores, read_scores


@pytest.fixture
def chirps(recipe: Recipe, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the recipe known by the name ``chirps``; return the folder of data sets."""

    def find(name: str, overrides: dict[str, str] | None = None) -> Recipe:
        assert name == "chirps"
        return train.recipes.apply_overrides(recipe, overrides or {})

    monkeypatch.setattr(train.runs, "load_recipe", find)
    return data_root


def test_fit_evaluate_export(chirps: Path, clips: Clips, tmp_path: Path) -> None:
    places = ["--data", str(chirps), "--work", str(tmp_path / "work")]
    run = tmp_path / "run"
    assert main(["fit", "chirps", "--hold-out", "speaker1", "--out", str(run), *places]) == 0
    assert main(["evaluate", str(run), *places]) == 0
    scores = read_scores(run / "scores.json", Scores)
    assert scores.groups == ["chirps/speaker1"]
    assert np.sum(scores.confusion) == 12
    assert "--hold-out speaker1" in (run / "report.md").read_text()
    assert (run / "confusion.png").is_file()

    out = tmp_path / "chirps.safetensors"
    assert main(["export", str(run), "--out", str(out), "--scores", str(run / "scores.json")]) == 0
    exported, trained = load_checkpoint(out), load_checkpoint(run / "model.safetensors")
    assert exported.header.labels == ["rise", "fall", "unknown", "silence"]
    assert exported.header.unknown_labels == ["unknown", "silence"]
    assert exported.header.metrics["accuracy_clean"] == pytest.approx(scores.accuracy, abs=1e-4)
    assert exported.header.training["held_out"] == ["chirps/speaker1"]
    samples = exported.front_end.samples_for(exported.model.window_frames)
    mel = log_mel(jnp.array(centre_in_windows(clips, samples)), exported.front_end)
    np.testing.assert_array_equal(exported.model(mel), trained.model(mel))

    # The exported file is evaluated on any folder of clips.
    command = [
        "evaluate",
        str(out),
        "--clips",
        str(chirps / "chirps"),
        "--out",
        str(tmp_path / "e"),
    ]
    assert main([*command, *places]) == 0
    assert np.sum(read_scores(tmp_path / "e" / "scores.json", Scores).confusion) == 48


def test_cross_validation_measures_each_speaker(chirps: Path, tmp_path: Path) -> None:
    places = ["--data", str(chirps), "--work", str(tmp_path / "work")]
    out = tmp_path / "cv"
    command = ["cross-validate", "chirps", "--folds", "1", "3", "--out", str(out)]
    assert main([*command, *places]) == 0
    mean = read_scores(out / "scores.json", Scores)
    assert mean.groups == ["chirps/speaker1", "chirps/speaker3"]
    assert np.sum(mean.confusion) == 24
    singles = [read_scores(out / f"fold-{i}" / "scores.json", Scores).accuracy for i in (1, 3)]
    assert mean.accuracy == pytest.approx(np.mean(singles))
    # Finished folds are not trained again.
    before = (out / "fold-1" / "log.jsonl").read_text()
    assert main([*command, *places]) == 0
    assert (out / "fold-1" / "log.jsonl").read_text() == before


def test_another_plan_in_the_same_folder_is_refused(
    chirps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_bytes(msgspec.json.encode(train.runs.Plan("chirps", fold=1)))
    command = ["fit", "chirps", "--fold", "2", "--out", str(run), "--data", str(chirps)]
    assert main(command) == 2
    assert "holds another training (python -m train fit chirps --fold 1)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["fit", "nonsense"], "unknown recipe 'nonsense'; known are commands, digits"),
        (["fit", "digits", "--set", "epochs"], "must be key=value"),
        (["fit", "digits", "--set", "epoch=3"], "no such setting; known are"),
        (["fit", "digits", "--set", "epochs=many"], "--set epochs=many: Expected `int`"),
        (["fit", "digits", "--set", "epochs=0"], "epochs = 0, must be positive"),
        (["fit", "digits", "--set", "views=3"], "must divide batch_size"),
        (["fit", "digits", "--set", "seed.x=1"], "seed has no settings of its own"),
        (["fit", "digits", "--no-synth", "--data", "nowhere"], "cannot read nowhere/fsdd"),
        (["evaluate", "nowhere.safetensors", "--clips", "x"], "no such file"),
        (["export", "nowhere", "--out", "x.safetensors"], "has no model.safetensors"),
    ],
)
def test_wrong_input_is_one_message(
    command: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error


def test_overrides_reach_nested_settings() -> None:
    recipe = load_recipe("digits", {"augment.mixup_probability": "0", "model.width": "1.5"})
    assert recipe.augment.mixup_probability == 0.0
    assert recipe.model["width"] == 1.5


def test_another_architecture_starts_from_its_own_settings() -> None:
    assert "min_window_frames" in load_recipe("commands").model
    other = load_recipe("commands", {"model.head": "max", "architecture": "smales_cnn"})
    assert (other.architecture, other.model) == ("smales_cnn", {"head": "max"})


def test_digit_words_of_the_commands_set_are_digits() -> None:
    relabel = load_recipe("digits").sources[1].relabel
    assert (
        relabel(ManifestRow("audio/unknown/eight_0c_nohash_0.wav.flac", "unknown", "", "0c"))
        == "eight"
    )
    assert (
        relabel(ManifestRow("audio/unknown/tree_0c_nohash_0.wav.flac", "unknown", "", "0c"))
        == "unknown"
    )
    assert relabel(ManifestRow("audio/yes/0c_nohash_0.flac", "yes", "", "0c")) == "unknown"
    assert relabel(ManifestRow("audio/silence/1.flac", "silence", "", "noise")) == "silence"


def test_every_recipe_is_complete() -> None:
    for name in train.recipes.recipe_names():
        recipe = load_recipe(name)
        assert recipe.name == name
        assert "CC BY" in recipe.licence
        rendered = {s.folder for s in recipe.sources if s.rendered}
        # Silence is made for whichever recipe asks for it, without a synthesis of its own.
        assert rendered - {SILENCE_FOLDER} == {s.folder for s in recipe.synthesis}
        assert not recipe.without_synthesis().synthesis
