"""Manifests, decoding, the cache and the splits."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from train.data import (
    Clips,
    Source,
    centre_in_windows,
    decode_clip,
    find_active_span,
    load_clips,
    read_manifest,
    spread_windows,
)
from train.errors import DataError
from train.recipes import Recipe
from train.split import Split, bucket_of, check_disjoint, split_all, split_fold, split_hold_out


def test_clips_are_the_files(clips: Clips, data_root: Path) -> None:
    assert len(clips) == 4 * 4 * 3
    for i in (0, 17, 47):
        stored, _ = sf.read(clips.path[i], dtype="int16")
        start, length = clips.start[i], clips.length[i]
        # 32767 steps from float: at most one off from the file's own 16 bits.
        difference = clips.audio[start : start + length].astype(int) - stored
        assert np.abs(difference).max() <= 1
        assert clips.labels[clips.label[i]] in clips.path[i]


def test_second_load_decodes_nothing(
    clips: Clips, data_root: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr("train.data.cache.decode_clip", refuse)
    again = load_clips(recipe.sources, recipe.labels, 8_000, data_root, tmp_path / "work")
    np.testing.assert_array_equal(again.audio, clips.audio)
    np.testing.assert_array_equal(again.active, clips.active)


def test_changed_file_is_decoded_again(
    clips: Clips, data_root: Path, recipe: Recipe, tmp_path: Path
) -> None:
    sf.write(clips.path[0], np.full(1000, 0.5), 8_000)
    again = load_clips(recipe.sources, recipe.labels, 8_000, data_root, tmp_path / "work")
    assert again.length[0] == 1000


def test_decode_mixes_down_and_resamples(tmp_path: Path) -> None:
    t_s = np.arange(16_000) / 16_000
    stereo = np.stack([0.5 * np.sin(2 * np.pi * 440 * t_s), np.zeros(16_000)], axis=1)
    sf.write(tmp_path / "stereo.wav", stereo, 16_000)
    audio = decode_clip(tmp_path / "stereo.wav", 8_000)
    assert len(audio) == 8_000
    spectrum = np.abs(np.fft.rfft(audio))
    assert spectrum.argmax() == 440
    assert np.abs(audio).max() == pytest.approx(0.25 * 32767, rel=0.02)


def test_active_span_is_the_loud_part() -> None:
    audio = np.zeros(8_000, np.int16)
    audio[3_000:5_000] = 8_000
    begin, end = find_active_span(audio, 8_000)
    assert 2_600 <= begin <= 3_000
    assert 5_000 <= end <= 5_400


def test_centred_windows() -> None:
    def clips_of(samples: int) -> Clips:
        return Clips(
            audio=np.arange(1, samples + 1, dtype=np.int16),
            start=np.array([0]),
            length=np.array([samples]),
            active=np.array([[0, samples]]),
            label=np.zeros(1, np.int32),
            targets=np.ones((1, 1), bool),
            word=np.zeros(1, np.int32),
            source=np.zeros(1, np.int32),
            split=np.array([""]),
            group=np.array(["a"]),
            path=np.array(["a"]),
            labels=("a",),
            words=("a",),
            sources=(),
            sample_rate_hz=8_000,
        )

    short = centre_in_windows(clips_of(4), 8)[0] * 32768
    np.testing.assert_array_equal(short, [0, 0, 1, 2, 3, 4, 0, 0])
    long = centre_in_windows(clips_of(8), 4)[0] * 32768
    np.testing.assert_array_equal(long, [3, 4, 5, 6])

    # Up to one and a half windows a clip is centred; a longer one is heard half a window on.
    _, clip = spread_windows(clips_of(12), 8)
    assert clip.tolist() == [0]
    windows, clip = spread_windows(clips_of(20), 8)
    assert clip.tolist() == [0, 0, 0, 0]
    np.testing.assert_array_equal(windows[:, 0] * 32768, [1, 5, 9, 13])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.flac,x\n", "no column split, group"),
        ("path,label,split,group\na.flac,,train,g\n", "manifest.csv:2"),
        ("path,label,split,group\na.flac,x,t,g\na.flac,x,t,g\n", "listed twice"),
        ("path,label,split,group\n", "no clips"),
    ],
)
def test_bad_manifests(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_manifest(tmp_path)


def test_missing_manifest_says_where_to_point(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--data"):
        read_manifest(tmp_path / "nowhere")


def test_corrupt_clip_is_named(data_root: Path, recipe: Recipe, tmp_path: Path) -> None:
    broken = data_root / "chirps" / "audio" / "rise-0-0.flac"
    broken.write_bytes(b"not audio")
    with pytest.raises(DataError, match=r"rise-0-0\.flac"):
        load_clips(recipe.sources, recipe.labels, 8_000, data_root, tmp_path / "work")


def test_foreign_label_is_named(data_root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'fall' is none of rise"):
        load_clips([Source("chirps", "chirps")], ["rise"], 8_000, data_root, tmp_path / "work")


def test_leave_one_out_folds_cover_every_speaker_once(clips: Clips) -> None:
    seen: list[str] = []
    for fold in range(4):
        split = split_fold(clips, fold, "chirps", validate=True)
        seen += sorted(set(clips.group[split.test].tolist()))
        assert not split.validation.any()
        np.testing.assert_array_equal(split.train, ~split.test)
    assert seen == [f"chirps/speaker{i}" for i in range(4)]
    with pytest.raises(DataError, match="folds 0 to 3"):
        split_fold(clips, 4, "chirps", validate=True)


def test_hashed_folds_are_disjoint_and_cover_everything(clips: Clips) -> None:
    many = replace(clips, group=np.array([f"chirps/{i}" for i in range(len(clips))]))
    tested = np.zeros(len(clips), int)
    for fold in range(5):
        split = split_fold(many, fold, None, validate=True)
        assert not (split.train & split.test).any()
        assert not (split.validation & (split.train | split.test)).any()
        tested += split.test
    np.testing.assert_array_equal(tested, 1)


def test_bucket_never_changes() -> None:
    assert [bucket_of(g) for g in ("fsdd/george", "a/b", "")] == [3, 1, 2]


def test_train_only_and_always_trained_are_never_tested(clips: Clips) -> None:
    borrowed = replace(clips, sources=(replace(clips.sources[0], train_only=True),))
    assert not split_fold(borrowed, 0, "chirps", validate=True).test.any()
    kept = replace(clips, sources=(replace(clips.sources[0], always_trained=("speaker0",)),))
    split = split_fold(kept, 0, "chirps", validate=True)
    assert split.train[kept.group == "chirps/speaker0"].all()


def test_hold_out_by_bare_name(clips: Clips) -> None:
    split = split_hold_out(clips, ["speaker2"])
    assert set(clips.group[split.test].tolist()) == {"chirps/speaker2"}
    assert split_all(clips).train.all()
    with pytest.raises(DataError, match="no group 'nobody'"):
        split_hold_out(clips, ["nobody"])


def test_leak_is_an_error(clips: Clips) -> None:
    first = np.arange(len(clips)) == 0
    with pytest.raises(DataError, match="both train and test: chirps/speaker0"):
        check_disjoint(clips.group, Split(~first, np.zeros_like(first), first))
