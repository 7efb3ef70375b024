"""Data sets as they come: recognised, read, and checked for what would spoil a training."""

import json
import shutil
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from tests.train.layouts import TREES, real_clips, write_manifest, write_tree
from train.cli import main
from train.data import Source, load_clips, read_manifest
from train.data.check import CheckResult, check_folder
from train.data.layouts import read_folder
from train.errors import DataError
from train.split import count_shared_groups, split_fold, split_official


@pytest.mark.parametrize("layout", TREES)
def test_layouts_are_recognised_and_read(layout: str, tmp_path: Path) -> None:
    files, tables, rows = TREES[layout]
    listing = read_folder(write_tree(tmp_path / "set", files, tables))
    assert listing.layout == layout
    assert sorted(astuple(row) for row in listing.rows) == sorted(rows)
    labels = sorted({label for row in listing.rows for label in row.labels})
    clips = load_clips(
        [Source("set", "set")], labels, 8_000, tmp_path, tmp_path / "work", "multi-label"
    )
    assert [";".join(sorted(np.array(labels)[row].tolist())) for row in clips.targets] == [
        ";".join(sorted(row.labels)) for row in listing.rows
    ]


def test_absent_files_and_guesses_are_told(tmp_path: Path) -> None:
    notes = {}
    for layout in ("speech-commands", "audioset", "ravdess", "classes", "gtzan"):
        notes[layout] = " ".join(
            read_folder(write_tree(tmp_path / layout, *TREES[layout][:2])).notes
        )
    assert "1 files of the lists are absent" in notes["speech-commands"]
    assert "1 listed clips have no audio" in notes["audioset"]
    assert "1 files have no name of this set" in notes["ravdess"]
    assert "1 clips do not say who or what they are of" in notes["classes"]
    assert "does not name its artists" in notes["gtzan"]


def test_esc10_is_a_part_of_esc50_by_name(tmp_path: Path) -> None:
    folder = write_tree(tmp_path, *TREES["esc50"][:2])
    assert [row.label for row in read_folder(folder, "esc10").rows] == ["dog"]
    with pytest.raises(DataError, match="unknown layout 'esc11'; known are manifest, speech"):
        read_folder(folder, "esc11")
    (folder / "meta" / "esc50.csv").write_text("x\n1\n")
    with pytest.raises(DataError, match="no column filename"):
        read_folder(folder)


def test_a_layout_becomes_a_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_tree(tmp_path, *TREES["classes"][:2])
    assert main(["data", "manifest", str(folder)]) == 0
    assert sorted(astuple(row) for row in read_manifest(folder)) == sorted(TREES["classes"][2])
    assert read_folder(folder).layout == "manifest"
    assert main(["data", "manifest", str(folder)]) == 2
    assert "exists" in capsys.readouterr().err


def test_own_splits_are_folds_and_sides(tmp_path: Path) -> None:
    write_tree(tmp_path / "esc", *TREES["esc50"][:2])
    clips = load_clips(
        [Source("esc", "esc")], ["dog", "vacuum_cleaner"], 8_000, tmp_path, tmp_path / "work"
    )
    split = split_fold(clips, 1, "esc", validate=False, fold_by="split")
    assert split.test.tolist() == [False, True]
    with pytest.raises(DataError, match="no clip is in a test split .*found: 'fold_1', 'fold_2'"):
        split_official(clips)
    write_tree(tmp_path / "words", *TREES["speech-commands"][:2])
    words = load_clips(
        [Source("words", "words")], ["yes", "no", "silence"], 8_000, tmp_path, tmp_path / "work"
    )
    with pytest.raises(DataError, match="both train and test: words/0a7c"):
        split_official(words)
    assert count_shared_groups(words, split_official(words, shared_groups=True)) == 1


def spoiled_set(folder: Path) -> Path:
    """Write a data set with one of everything that can be wrong."""
    folder.mkdir()
    names = ("one", "again", "elsewhere", "relabelled", "loud", "quiet", "other", "broken")
    (voice, rate_hz), (other, _) = real_clips(2)
    for name in names:
        sf.write(folder / f"{name}.wav", voice, rate_hz, subtype="FLOAT")
    sf.write(folder / "loud.wav", np.clip(40 * voice, -1, 1), rate_hz, subtype="FLOAT")
    sf.write(folder / "quiet.wav", 1e-4 * voice, rate_hz, subtype="FLOAT")
    sf.write(folder / "other.wav", np.stack([other, other], 1), rate_hz)
    sf.write(folder / "near.ogg", 0.5 * voice, rate_hz)
    (folder / "broken.wav").write_bytes(b"RIFF, but no more")
    write_manifest(
        folder,
        [
            ("one.wav", "dog", "train", "anna"),
            ("again.wav", "dog", "train", "anna"),
            ("elsewhere.wav", "dog", "test", "bert"),
            ("relabelled.wav", "cat", "train", "carl"),
            ("loud.wav", "dog", "train", "anna"),
            ("quiet.wav", "dog", "train", "anna"),
            ("other.wav", "dog", "test", "anna"),
            ("broken.wav", "cat", "train", "carl"),
            ("near.ogg", "dog", "train", "dora"),
        ],
    )
    return folder


def test_check_finds_everything_that_is_wrong(tmp_path: Path) -> None:
    result = check_folder(spoiled_set(tmp_path / "set"))
    problems = {one.kind: one.where for one in result.problems}
    assert list(problems) == ["broken", "shared-groups", "duplicates-across-labels"]
    assert "broken.wav" in problems["broken"][0]
    assert problems["shared-groups"] == ["anna: test, train"]
    assert problems["duplicates-across-labels"] == [
        "one.wav = again.wav = elsewhere.wav = relabelled.wav"
    ]
    remarks = {one.kind: one.where for one in result.remarks}
    assert remarks["silent"] == ["quiet.wav"]
    assert remarks["clipped"] == ["loud.wav"]
    assert remarks["one-group-classes"] == ["cat"]
    assert any("near.ogg" in pair for pair in remarks["near-duplicates"])
    assert result.channels == {1: 7, 2: 1}
    assert result.classes == {"cat": {"train": 2}, "dog": {"test": 2, "train": 5}}


def test_check_tells_splits_from_groups(tmp_path: Path) -> None:
    folder = spoiled_set(tmp_path / "set")
    rows = [("one.wav", "dog", "train", "anna"), ("again.wav", "dog", "train", "anna")]
    write_manifest(folder, rows)
    result = check_folder(folder)
    assert result.problems == []
    assert [one.kind for one in result.remarks] == ["duplicates", "one-group-classes"]
    for last, kind in (
        (("elsewhere.wav", "dog", "test", "bert"), "duplicates-across-splits"),
        (("elsewhere.wav", "dog", "train", "bert"), "duplicates-across-groups"),
    ):
        write_manifest(folder, [*rows, last])
        assert [one.kind for one in check_folder(folder).problems] == [kind]


def test_check_command_prints_and_exits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = spoiled_set(tmp_path / "set")
    assert main(["data", "check", str(folder)]) == 1
    text = capsys.readouterr().out
    assert "9 clips of 2 classes and 4 groups" in text
    assert "PROBLEM broken (1)" in text
    assert main(["data", "check", "--json", str(folder)]) == 1
    assert CheckResult.__struct_fields__[0] in json.loads(capsys.readouterr().out)
    shutil.rmtree(folder)
    assert main(["data", "check", str(folder)]) == 2
    assert "no such folder" in capsys.readouterr().err
