"""Beginning from another model: what is taken over, what stays as it is, what is refused."""

from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import train.recipes
import train.runs
import train.transfer
from streamcls.checkpoint import load_checkpoint
from train.cli import main
from train.errors import RunError
from train.export import write_model
from train.recipes import Recipe
from train.runs import Plan, read_plan
from train.scores import Scores, read_scores
from train.state import take_apart
from train.transfer import read_origin, take_over

LABELS = ("rise", "hum", "fall", "silence")


@pytest.fixture
def origin(recipe: Recipe, tmp_path: Path) -> Path:
    """A model with random weights, one label of which is not among the recipe's."""
    other = replace(recipe, labels=LABELS, unknown=None, noise_labels=(), seed=7, name="first")
    network, params, stats = take_apart(other)
    path = tmp_path / "first.safetensors"
    write_model(other, network, params, stats, {"by": "a test"}, path)
    return path


@pytest.fixture
def chirps(
    recipe: Recipe, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Make the recipe known, of another size than the origin; return where things are."""
    wider = replace(recipe, model={**recipe.model, "width": 1.0})

    def find(_: str, overrides: dict[str, str] | None = None) -> Recipe:
        return train.recipes.apply_overrides(wider, overrides or {})

    monkeypatch.setattr(train.runs, "load_recipe", find)
    return ["--data", str(data_root), "--work", str(tmp_path / "work")]


def tensors(path: Path, part: str) -> dict[str, np.ndarray]:
    return {name: value for name, value in load_file(path).items() if name.startswith(part)}


def test_rows_of_shared_labels_are_taken_over(recipe: Recipe, origin: Path) -> None:
    _, fresh, _ = take_apart(recipe)
    params, _ = take_over(read_origin(str(origin)), recipe.labels, fresh)
    old = tensors(origin, "head.dense.kernel")["head.dense.kernel"]
    mine = np.asarray(params["head"]["dense"]["kernel"][...])
    theirs = [recipe.labels.index(label) for label in ("rise", "fall", "silence")]
    np.testing.assert_array_equal(mine[:, theirs], old[:, [0, 2, 3]])
    unknown = recipe.labels.index("unknown")
    np.testing.assert_array_equal(
        mine[:, unknown], np.asarray(fresh["head"]["dense"]["kernel"][...])[:, unknown]
    )


def test_frozen_trunk_stays_to_the_bit(chirps: list[str], origin: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ["fit", "chirps", "--hold-out", "speaker1", "--out", str(run), *chirps]
    assert main([*command, "--from", str(origin), "--freeze"]) == 0
    before, after = tensors(origin, "trunk"), tensors(run / "model.safetensors", "trunk")
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name], err_msg=name)
    header = load_checkpoint(run / "model.safetensors").header
    assert header.settings["width"] == 0.5
    assert header.training["from"]["name"] == "first"
    assert header.training["from"]["sha256"] == read_plan(run).origin_sha256
    assert "--from" in header.training["command"]
    # The run knows where it came from: it is measured and resumed without saying it again.
    assert main(["evaluate", str(run), *chirps]) == 0
    assert read_scores(run / "scores.json", Scores).groups == ["chirps/speaker1"]


def test_fine_tuning_moves_the_trunk_a_little(
    chirps: list[str], origin: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = ["fit", "chirps", "--out", str(run), *chirps, "--from", str(origin)]
    assert main([*command, "--set", "trunk_rate=0.001", "--set", "ema_decay=0"]) == 0
    model = run / "model.safetensors"
    before, after = tensors(origin, "trunk"), tensors(model, "trunk")
    trunk = max(np.abs(after[name] - before[name]).max() for name in before if "kernel" in name)
    bias = "head.dense.bias"
    head = np.abs(tensors(model, bias)[bias]).max()  # they begin at zero
    assert 0 < trunk < 0.01 * head


def test_windowed_trunk_can_be_begun_from(recipe: Recipe, tmp_path: Path) -> None:
    other = replace(
        recipe,
        labels=LABELS,
        unknown=None,
        noise_labels=(),
        architecture="mobilenet_v1",
        model={"window_frames": 32, "stem_channels": 4, "channels": (8, 8), "strides": (1, 2)},
    )
    network, params, stats = take_apart(other)
    path = tmp_path / "windowed.safetensors"
    write_model(other, network, params, stats, {}, path)
    begun = read_origin(str(path))
    mine = train.transfer.adopt(recipe, begun, {})
    assert (mine.architecture, mine.trunk_rate) == ("mobilenet_v1", 0.1)
    network, fresh, _ = take_apart(mine)
    weights, stats = take_over(begun, mine.labels, fresh)
    mel = jnp.array(np.random.default_rng(0).normal(size=(2, 32, 24)), jnp.float32)
    model = network.join(weights, stats)
    model.eval()
    expected = begun.checkpoint.model(mel)
    np.testing.assert_allclose(model(mel)[:, 0], expected[:, 0], rtol=1e-5)


def test_contradictions_are_refused(
    chirps: list[str], origin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    base = ["fit", "chirps", "--out", str(run), *chirps]
    for more, message in (
        (["--freeze"], "--freeze keeps the trunk"),
        (["--from", "nobody"], "unknown model 'nobody'"),
        (["--from", str(origin), "--set", "architecture=ds_cnn_s"], "decides the network"),
        (["--from", str(origin), "--set", "model.width=2"], "leave it out"),
        (["--from", str(origin), "--freeze", "--set", "trunk_rate=0.5"], "--freeze makes it 0"),
        (["--from", str(origin), "--set", "trunk_rate=3"], "must be in [0, 1]"),
    ):
        assert main([*base, *more]) == 2
        assert message in capsys.readouterr().err
        assert not (run / "model.safetensors").exists()


def test_another_file_of_the_same_name_is_noticed(chirps: list[str], origin: Path) -> None:
    plan = Plan("chirps", origin=str(origin), origin_sha256="0" * 64)
    with pytest.raises(RunError, match="bring that file back"):
        plan.load_recipe()
