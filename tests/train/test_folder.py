"""From a folder of clips to a checkpoint, without a recipe."""

from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile as sf

from streamcls.checkpoint import load_checkpoint
from tests.train.conftest import RATE_HZ, chirp
from train.cli import main
from train.errors import DataError
from train.folder import SILENCE_FOLDER, make_silence, recipe_for_folder
from train.runs import Plan, Workspace, choose_split, read_plan
from train.scores import Scores, read_scores

SMALL = [
    "--set", "epochs=1", "--set", "steps_per_epoch=2", "--set", "batch_size=4", "--set", "views=1",
    "--set", "model.width=0.5", "--set", "augment.reverb_max_s=0.1",
]  # fmt: skip


@pytest.fixture
def quick_compiler() -> Iterator[None]:
    """Compile without optimising: two steps are trained here, not an epoch."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def sort_into_folders(folder: Path, speakers: int, rate_hz: int = RATE_HZ) -> Path:
    """Write CLASS/SPEAKER/clip.wav of rising and falling tones."""
    for label in ("rise", "fall"):
        for speaker in range(speakers):
            path = folder / label / f"speaker{speaker}" / "clip.wav"
            path.parent.mkdir(parents=True)
            sf.write(path, chirp(label, speaker, take=0), rate_hz)
    return folder


def test_folder_decides_what_a_recipe_decides(tmp_path: Path) -> None:
    recipe = recipe_for_folder(sort_into_folders(tmp_path / "my tones", speakers=4))
    assert recipe.name == "my-tones"
    assert recipe.labels == ("fall", "rise", "silence")
    assert (recipe.unknown, recipe.silence) == (None, "silence")
    assert (recipe.leave_one_out, recipe.fold_by) == ("my-tones", "group")
    assert recipe.front_end.sample_rate_hz == 8_000
    assert not recipe.validate
    many = recipe_for_folder(sort_into_folders(tmp_path / "many", speakers=40, rate_hz=44_100))
    assert many.leave_one_out is None
    assert many.validate
    assert many.front_end.sample_rate_hz == 16_000


def test_own_classes_for_nothing_are_used(tmp_path: Path) -> None:
    folder = sort_into_folders(tmp_path / "tones", speakers=2)
    for name in ("_unknown_", "Background"):
        (folder / name).mkdir()
        sf.write(folder / name / "0.wav", np.zeros(800), RATE_HZ)
    recipe = recipe_for_folder(folder)
    assert recipe.labels == ("fall", "rise", "_unknown_", "Background")
    assert recipe.unknown_labels == ["_unknown_", "Background"]
    assert len(recipe.sources) == 1


def test_nothing_to_tell_apart_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "unknown").mkdir()
    sf.write(tmp_path / "unknown" / "0.wav", np.zeros(800), RATE_HZ)
    with pytest.raises(DataError, match="needs a class to tell from others, found unknown"):
        recipe_for_folder(tmp_path)


def test_folder_without_silence_is_given_some(tmp_path: Path) -> None:
    recipe = recipe_for_folder(sort_into_folders(tmp_path / "tones", speakers=4))
    workspace = Workspace(tmp_path, tmp_path / "work")
    clips = workspace.load(recipe, print)
    silent = clips.label == clips.labels.index("silence")
    assert silent.sum() == 16
    made = clips.take(silent)
    assert 0 < np.abs(made.audio).max() <= 3
    split = choose_split(Plan(None, fold=1), recipe, clips)
    assert set(clips.group[split.test].tolist()) == {"tones/speaker1"}
    assert split.train[silent].all()
    assert make_silence(tmp_path / "work" / SILENCE_FOLDER) == 0


@pytest.mark.usefixtures("quick_compiler")
def test_folder_to_checkpoint_with_several_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = sort_into_folders(tmp_path / "tones", speakers=4)
    labels = {"rise": ("rise", "tone;rise", "tone;rise", "tone"), "fall": ("fall", "tone") * 2}
    rows = [
        f"{name}/speaker{i}/clip.wav,{own[i]},train,speaker{i}"
        for name, own in labels.items()
        for i in range(4)
    ]
    (folder / "manifest.csv").write_text("\n".join(["path,label,split,group", *rows]))
    run, work = tmp_path / "run", ["--work", str(tmp_path / "work")]
    fit = ["fit", "--data", str(folder), "--fold", "1", *SMALL, "--out", str(run), *work]
    assert main(fit) == 0
    assert f"next: python -m train evaluate {run}" in capsys.readouterr().out
    assert read_plan(run).describe().startswith(f"python -m train fit --data {folder} --set")
    assert main(["evaluate", str(run), *work]) == 0
    scores = read_scores(run / "scores.json", Scores)
    assert scores.task == "multi-label"
    assert scores.groups == ["tones/speaker1"]
    assert scores.tallies["tone"][0] == 2
    assert set(scores.average_precision) == {"rise", "tone"}
    assert "## mAP by signal-to-noise ratio" in (run / "report.md").read_text()
    out = tmp_path / "tones.safetensors"
    assert main(["export", str(run), "--out", str(out), "--scores", f"{run}/scores.json"]) == 0
    header = load_checkpoint(out).header
    assert header.task == "multi-label"
    assert header.labels == ["fall", "rise", "tone"]
    assert header.unknown_labels == []
    assert header.training["held_out"] == ["tones/speaker1"]


def test_neither_recipe_nor_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit"]) == 2
    assert "name a recipe" in capsys.readouterr().err
