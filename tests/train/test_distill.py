"""A student that learns a teacher's scores on audio without labels."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from streamcls.checkpoint import load_checkpoint
from tests.train.conftest import RATE_HZ, chirp
from train.cli import main
from train.distill import ask, load_unlabelled
from train.transfer import read_origin


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    """Chirps in a folder and a folder below it, no label anywhere; the last is long."""
    folder = tmp_path / "found"
    (folder / "more").mkdir(parents=True)
    for number in range(6):
        clip = chirp(("rise", "fall", "unknown")[number % 3], number, 0)
        where = folder if number % 2 else folder / "more"
        sf.write(where / f"{number}.wav", np.tile(clip, 8 if number == 5 else 1), RATE_HZ)
    return folder


def test_student_learns_what_the_teacher_says(audio: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.safetensors"
    command = ["distill", "--teacher", "digits", "--data", str(audio), "--softening", "2"]
    command += ["--out", str(out), "--work", str(tmp_path / "work")]
    for setting in (
        "model.width=0.5", "model.dropout=0", "epochs=3", "steps_per_epoch=8", "batch_size=16",
        "augment.reverb_max_s=0.1",
    ):  # fmt: skip
        command += ["--set", setting]
    assert main(command) == 0
    student, teacher = load_checkpoint(out), read_origin("digits")
    assert student.header.labels == teacher.checkpoint.header.labels
    assert student.header.unknown_labels == teacher.checkpoint.header.unknown_labels
    assert student.header.temperature == 0.5
    assert student.header.training["teacher"]["sha256"] == teacher.sha256
    assert student.model.time_valid
    run = tmp_path / "work" / "distill-small"
    losses = [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.9 * losses[0]
    # The same command has nothing left to do; another one is not mixed up with it.
    assert main(command) == 0
    assert len((run / "log.jsonl").read_text().splitlines()) == 3
    assert main([*command, "--softening", "3"]) == 2


def test_teacher_hears_all_files_and_its_scores_are_softened(audio: Path, tmp_path: Path) -> None:
    teacher = read_origin("digits")
    pieces = load_unlabelled(audio, teacher, tmp_path / "work")
    assert len(pieces) > 6
    assert len(set(pieces.path.tolist())) == 6
    hard, soft = ask(teacher, pieces, 1.0), ask(teacher, pieces, 4.0)
    np.testing.assert_allclose(soft.sum(axis=1), 1, atol=1e-4)
    np.testing.assert_array_equal(hard.argmax(axis=1), soft.argmax(axis=1))
    assert (soft.max(axis=1) <= hard.max(axis=1) + 1e-6).all()


def test_wrong_input_is_refused(
    audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["distill", "--out", str(tmp_path / "x.safetensors"), "--work", str(tmp_path / "work")]
    right = ["--teacher", "digits", "--data", str(audio)]
    (tmp_path / "empty").mkdir()
    for more, message in (
        (["--teacher", "nobody", "--data", str(audio)], "unknown model 'nobody'"),
        (["--teacher", "digits", "--data", str(tmp_path / "none")], "no such folder"),
        (["--teacher", "digits", "--data", str(tmp_path / "empty")], "no audio file below it"),
        ([*right, "--set", "front_end.sample_rate_hz=16000"], "must be 8000"),
        ([*right, "--set", "labels=a"], "its teacher's"),
        ([*right, "--softening", "0.5"], "must be 1 or more"),
    ):
        assert main([*base, *more]) == 2
        assert message in capsys.readouterr().err
