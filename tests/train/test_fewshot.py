"""Few-shot models: a new head on a shipped trunk, from a handful of clips."""

from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile as sf

import streamcls
from streamcls.checkpoint import find_checkpoint, load_checkpoint
from tests.conftest import SHARED_DATA
from train.cli import main
from train.data import Clips, read_manifest, write_manifest
from train.embedding import Embedded, cut_audible
from train.errors import DataError
from train.head import _N_FOLDS, Material, _divide, fit_head
from train.strangers import make_strangers

WORDS = ("one", "six", "zero")


@pytest.fixture
def few_clips(tmp_path: Path) -> Path:
    """Three words, two takes of each by four of the five speakers of FSDD."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no recordings in {SHARED_DATA}")
    rows = read_manifest(SHARED_DATA / "fsdd")
    folder = tmp_path / "words"
    (folder / "audio").mkdir(parents=True)
    chosen = []
    for word in WORDS:
        for speaker in sorted({row.group for row in rows})[1:]:
            own = [row for row in rows if (row.label, row.group) == (word, speaker)][:2]
            chosen += [replace(row, path=str(SHARED_DATA / "fsdd" / row.path)) for row in own]
    write_manifest(chosen, folder / "manifest.csv")
    return folder


def test_a_few_clips_make_a_servable_model(few_clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "words.safetensors"
    command = ["few-shot", "--data", str(few_clips), "--from", "commands", "--out", str(out)]
    assert main([*command, "--work", str(tmp_path / "work")]) == 0
    made, origin = load_checkpoint(out), load_checkpoint(find_checkpoint("commands"))
    header = made.header
    assert header.name == "words"
    assert header.labels == [*WORDS, "silence", "unknown"]
    assert header.unknown_labels == ["unknown", "silence"]
    assert header.training["from"]["name"] == "commands"
    assert len(header.training["from"]["sha256"]) == 64
    frames = jnp.array(np.random.default_rng(0).normal(size=(1, 99, 40)), jnp.float32)
    np.testing.assert_array_equal(made.model.trunk(frames), origin.model.trunk(frames))

    # A speaker that was never heard, said by the daemon's own code.
    classifier = streamcls.Classifier(out)
    rows = read_manifest(SHARED_DATA / "fsdd")
    stranger = sorted({row.group for row in rows})[0]
    hits = []
    for word in WORDS:
        for row in [row for row in rows if (row.label, row.group) == (word, stranger)][:6]:
            audio, rate_hz = sf.read(SHARED_DATA / "fsdd" / row.path)
            scores = classifier.classify(audio, rate_hz)
            hits.append(max(scores, key=scores.__getitem__) == word)
    assert np.mean(hits) >= 0.6  # chance is 0.2
    scores = classifier.classify(np.zeros(16_000))
    assert sum(scores[word] for word in WORDS) < 0.3


def test_measure_prints_the_table(
    few_clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["few-shot", "--data", str(few_clips), "--from", "commands", "--measure"]
    command += ["--clips-per-class", "2", "--seeds", "1", "--work", str(tmp_path / "work")]
    assert main(command) == 0
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.startswith("| 2 | ")
    assert len(row.split("|")[3].split()) == 4  # speakers


def test_wrong_input_is_refused(
    few_clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["few-shot", "--data", str(few_clips), "--work", str(tmp_path / "work")]
    for more, message in (
        (["--from", "nobody", "--out", "x"], "unknown model 'nobody'"),
        (["--from", "commands"], "name the file to write with --out"),
        (["--from", "commands", "--out", "x", "--clips-per-class", "0"], "must be 1 or more"),
        (["--from", "commands", "--out", "x", "--clips-per-class", "1", "2"], "need --measure"),
    ):
        assert main([*base, *more]) == 2
        assert message in capsys.readouterr().err


def test_pauses_of_long_clips_are_left_out(clips: Clips) -> None:
    rng = np.random.default_rng(0)
    loud = (3_000 * rng.standard_normal(8_000)).astype(np.int16)
    audio = np.concatenate([loud, np.zeros(16_000, np.int16), loud])
    one = replace(
        clips.take(np.arange(1)),
        audio=audio,
        length=np.array([len(audio)]),
        active=np.array([[0, len(audio)]]),
    )
    pieces, owner = cut_audible(one, window_samples=4_000)
    assert set(owner.tolist()) == {0}
    assert set(pieces.length.tolist()) == {4_000}
    # Windows that begin in the pause after at most half a window of sound are kept, others not.
    assert not ((pieces.start >= 8_000) & (pieces.start + 4_000 <= 24_000)).any()
    assert {0, 28_000} <= set(pieces.start.tolist())


def test_folds_keep_groups_whole() -> None:
    group = np.repeat([f"g{i}" for i in range(7)], 4)
    chosen = np.arange(len(group)) % 4 < 3
    fold = _divide(group, chosen, np.random.default_rng(0))
    assert set(fold[chosen].tolist()) == set(range(_N_FOLDS))
    for name in set(group.tolist()):
        assert len(set(fold[chosen & (group == name)].tolist())) == 1


def test_head_tells_classes_apart_and_knows_what_is_far(clips: Clips) -> None:
    rng = np.random.default_rng(0)
    few = clips.take(np.flatnonzero(clips.label != 2))
    vectors = rng.normal(size=(len(few), 6)).astype(np.float32)
    vectors[np.arange(len(few)), few.label] += 6
    copies = Embedded(vectors, np.eye(4, dtype=np.float32)[few.label], np.arange(len(few)))
    strangers = rng.normal(size=(30, 6)).astype(np.float32)
    strangers[:, 4] += 6
    material = Material(few, 2, copies, strangers)
    head = fit_head(material, np.ones(len(few), np.bool_))
    judged = head.judge(np.concatenate([vectors, strangers]), np.arange(len(few) + 30))
    assert (judged[: len(few)].argmax(axis=1) == few.label).mean() > 0.95
    assert (judged[len(few) :].argmax(axis=1) == 2).mean() > 0.95
    with pytest.raises(DataError, match="no clip of silence"):
        fit_head(material, few.label != 3)


def test_strangers_differ_and_fit_the_converter() -> None:
    sounds = make_strangers(8, 8_000, 8_000, np.random.default_rng(0))
    again = make_strangers(8, 8_000, 8_000, np.random.default_rng(0))
    np.testing.assert_array_equal(sounds, again)
    assert np.abs(sounds).max() <= 1.0
    assert (np.abs(sounds).max(axis=1) >= 10**-1.6).all()
    assert np.abs(np.corrcoef(sounds) - np.eye(8)).max() < 0.95
