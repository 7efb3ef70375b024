"""Stream evaluation: scenes as asked for, the daemon's own events, counts by hand."""

import json
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
import soundfile as sf

from streamcls.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from streamcls.header import read_header
from streamcls.postprocess.settings import EventSettings
from streamcls.types import EventState
from train.cli import main
from train.data import Clips
from train.errors import DataError
from train.recipes.digits import DIGITS
from train.stream.hearing import Hearing, detect, to_detection
from train.stream.psds import PsdsSettings, Rates, measure_point, overlap_s, psds
from train.stream.scenes import Material, SceneSettings, Sound, make_scene, sort_clips, write_scene
from train.stream.scoring import Counts, add_up, count, match, overlaps, pool_counts, within_collars
from train.stream.thresholds import GRID, choose

SHORT = SceneSettings(scene_s=30.0, gap_s=1.0, background_min_dbfs=-50, background_max_dbfs=-45)
UNKNOWN = ["unknown", "silence"]


@pytest.fixture
def material(clips: Clips) -> Material:
    return sort_clips(clips, UNKNOWN)


@pytest.fixture(scope="module")
def eager_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped digits with thresholds so low that it reports a lot, also of chirps."""
    digits = load_checkpoint(find_checkpoint("digits"))
    path = tmp_path_factory.mktemp("model") / "eager.safetensors"
    eager = msgspec.structs.replace(digits.header, thresholds=dict.fromkeys(DIGITS, 0.1))
    save_checkpoint(path, digits.model, eager)
    return path


def test_clips_are_sorted_by_what_should_be_made_of_them(material: Material) -> None:
    assert {material.targets.labels[i] for i in material.targets.label} == {"rise", "fall"}
    assert {material.distractors.labels[i] for i in material.distractors.label} == {"unknown"}
    assert {material.noises.labels[i] for i in material.noises.label} == {"silence"}


def test_scene_is_the_same_for_the_same_seed_and_holds_what_it_says(material: Material) -> None:
    scene = make_scene("a", material, SHORT, seed=3)
    again = make_scene("a", material, SHORT, seed=3)
    np.testing.assert_array_equal(scene.audio, again.audio)
    assert scene.truth == again.truth
    assert make_scene("a", material, SHORT, seed=4).truth != scene.truth
    assert scene.audio.dtype == np.float32
    assert scene.seconds == 30.0
    assert {s.label for s in scene.truth} == {"rise", "fall"}
    assert {s.label for s in scene.distractors} == {"unknown"}
    sounds = sorted([*scene.truth, *scene.distractors])
    assert all(a.offset_s < b.onset_s for a, b in pairwise(sounds))
    power = np.square(scene.audio.astype(np.float64))

    def level_db(first_s: float, last_s: float) -> float:
        return 10 * np.log10(power[int(first_s * 8_000) : int(last_s * 8_000)].mean())

    assert -51 < level_db(0.0, 3.0) < -44
    for sound in sounds:
        # 5 to 30 dB above the background in its active span.
        assert level_db(sound.onset_s, sound.offset_s) > level_db(0.0, 3.0) + 4


def test_halves_share_no_group_if_they_can(material: Material, clips: Clips) -> None:
    *halves, apart = material.halve()
    groups = [set(half.targets.group.tolist()) for half in halves]
    assert apart
    assert groups[0] | groups[1] == set(clips.group.tolist())
    assert not groups[0] & groups[1]
    one = sort_clips(clips.take(np.flatnonzero(clips.group == clips.group[0])), UNKNOWN)
    *halves, apart = one.halve()
    assert not apart
    paths = [set(half.targets.path.tolist()) for half in halves]
    assert not paths[0] & paths[1]
    single = sort_clips(clips.take(np.array([0])), UNKNOWN)
    with pytest.raises(DataError, match="held out in one clip only"):
        single.halve()
    with pytest.raises(DataError, match="no held-out clip of a class that gives events"):
        sort_clips(clips.take(clips.label == 3), UNKNOWN)


def test_written_scene_is_audio_and_annotation(material: Material, tmp_path: Path) -> None:
    scene = make_scene("street", material, SHORT, seed=0)
    write_scene(scene, tmp_path)
    audio, rate_hz = sf.read(tmp_path / "street.flac", dtype="float32")
    assert rate_hz == 8_000
    np.testing.assert_allclose(audio, scene.audio, atol=1 / 32_000)
    lines = (tmp_path / "street.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["filename", "onset", "offset", "event_label"]
    first = scene.truth[0]
    assert lines[1] == f"street.flac\t{first.onset_s:.4f}\t{first.offset_s:.4f}\t{first.label}"


def test_detections_are_the_events_of_the_daemons_path(
    material: Material, eager_model: Path
) -> None:
    header = read_header(eager_model)
    scene = make_scene("a", material, SHORT, seed=1)
    heard, events = Hearing(eager_model, hop_ms=80.0).listen(scene)
    detections = detect(heard, header, header.thresholds, EventSettings())
    ended = [event for event in events if event.state is EventState.OFFSET]
    assert len(ended) > 3
    expected = sorted(to_detection(event, 0.0) for event in ended)
    assert [(d.onset_s, d.offset_s, d.label, d.peak_score) for d in detections] == [
        (d.onset_s, d.offset_s, d.label, d.peak_score) for d in expected
    ]
    # An onset is published when half a window more has been heard, or at the end of the audio.
    assert all(d.published_s >= d.onset_s for d in detections)
    fewer = detect(heard, header, dict.fromkeys(header.labels, 0.99), EventSettings())
    assert len(fewer) < len(detections)


def sounds(*spans: tuple[float, float], label: str = "a") -> list[Sound]:
    return [Sound(onset_s, offset_s, label) for onset_s, offset_s in spans]


def test_each_sound_is_found_once() -> None:
    truth = sounds((1, 2), (3, 4), (5, 6))
    counts = count(truth, sounds((0.9, 1.4), (1.5, 2.5), (3.5, 5.5), (8, 9)), 3600.0)["a"]
    # Two events of the first sound, one that covers the other two, one of nothing.
    assert (counts.found, counts.made_up, counts.sounds) == (2, 2, 3)
    assert counts.f1 == pytest.approx(2 * 2 / (3 + 4))
    assert counts.missed_share == pytest.approx(1 / 3)
    assert counts.made_up_per_hour == 2.0


def test_as_many_pairs_as_possible() -> None:
    # Greedy from the left gives the first detection to the first sound and leaves the second none.
    pairs = match(sounds((0, 2), (1, 1.5)), sounds((1.2, 1.4), (1.8, 2)), overlaps)
    assert sorted(pairs) == [(0, 1), (1, 0)]


@pytest.mark.parametrize(
    ("detection", "onset_only", "with_offset"),
    [((1.2, 9.0), True, False), ((1.2, 2.4), True, True), ((1.3, 2.0), False, False)],
)
def test_collars(detection: tuple[float, float], onset_only: bool, with_offset: bool) -> None:
    sound, said = sounds((1, 2))[0], sounds(detection)[0]
    assert within_collars(0.25)(sound, said) is onset_only
    assert within_collars(0.25, 0.2, 0.5)(sound, said) is with_offset


def test_counts_of_scenes_and_labels_add_up() -> None:
    scenes = [{"a": Counts(2, 1, 1, 0.5)}, {"a": Counts(1, 1, 0, 0.5), "b": Counts(1, 0, 3, 0.5)}]
    totals = add_up(scenes, hours=1.0)
    assert totals == {"a": Counts(3, 2, 1, 1.0), "b": Counts(1, 0, 3, 1.0)}
    assert pool_counts(totals) == Counts(4, 2, 4, 1.0)


def test_threshold_without_enough_events_is_above_all_that_make_up_too_much() -> None:
    def point(a: int, b: int) -> dict[str, Counts]:
        return {"a": Counts(9, 9, a, 2.0), "b": Counts(9, 9, b, 2.0)}

    points = {0.3: point(1, 2), 0.5: point(2, 2), 0.7: point(1, 2), 0.9: point(0, 2)}
    assert choose(points, ["a", "b", "c"], per_hour=0.5) == {"a": 0.7, "b": 0.9, "c": 0.3}


def test_threshold_is_where_the_rate_is_expected() -> None:
    # Events whose scores have an odds tail: a score above t with probability 0.2 (1 - t) / t.
    hours, per_hour = 4.0, 100.0
    rng = np.random.default_rng(0)
    chosen = []
    for _ in range(50):
        odds = 0.2 / rng.random(rng.poisson(per_hour * hours))
        scores = odds / (1 + odds)
        points = {t: {"a": Counts(1, 1, int((scores >= t).sum()), hours)} for t in GRID if t >= 0.2}
        chosen.append(choose(points, ["a"], per_hour=0.5)["a"])
    wanted = 0.2 * per_hour / 0.5  # odds at which half an event an hour is expected
    assert np.median(chosen) == pytest.approx(wanted / (1 + wanted), abs=0.004)
    rates = 0.2 * per_hour * (1 - np.array(chosen)) / np.array(chosen)
    assert np.quantile(rates, 0.9) < 1.2


def test_psds_by_hand() -> None:
    assert overlap_s(Sound(0, 4, "a"), sounds((1, 2), (1.5, 3), (3.5, 9))) == pytest.approx(2.5)
    settings = PsdsSettings(dtc=0.5, gtc=0.5, cttc=0.5, alpha_ct=1.0, alpha_st=1.0)
    truth = [*sounds((0, 2), (10, 12)), *sounds((20, 21), label="b")]
    said = [*sounds((0.5, 2.5), (20, 21)), *sounds((20.2, 21), label="b")]
    rates = measure_point([(truth, said)], ["a", "b"], 360.0, settings)
    # One of two found; one false alarm in a tenth of an hour, on the whole second of b.
    assert rates["a"].found == 0.5
    assert rates["a"].false_per_hour == pytest.approx(10.0 + 3600.0)
    assert rates["b"] == Rates(1.0, 0.0)
    points = [
        {"a": Rates(0.5, 0.0), "b": Rates(0.5, 0.0)},
        {"a": Rates(1.0, 50.0), "b": Rates(1.0, 50.0)},
    ]
    assert psds(points, settings) == pytest.approx(0.75)
    # The mean over labels less their spread: (1 + 0) / 2 - 0.5.
    assert psds([{"a": Rates(1.0, 0.0), "b": Rates(0.0, 0.0)}], settings) == pytest.approx(0.0)


def test_command_measures_chooses_and_exports(
    eager_model: Path,
    data_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, run = tmp_path / "out", tmp_path / "run"
    folder = data_root / "chirps"
    manifest = (folder / "manifest.csv").read_text()
    manifest = manifest.replace(",rise,", ",one,").replace(",fall,", ",two,")
    (folder / "manifest.csv").write_text(manifest)
    places = ["--work", str(tmp_path / "work"), "--out", str(out)]
    command = ["evaluate-stream", str(eager_model), "--hours", "0.01", *places]
    assert main(command) == 2
    assert "name a folder of clips with --clips" in capsys.readouterr().err
    scenes = ["--keep-scenes", str(tmp_path / "scenes")]
    given = ["--clips", str(folder), "--distractors", str(folder)]
    assert main([*command, *given, *scenes]) == 0
    text = (out / "stream.md").read_text()
    assert "| two |" in text
    assert "Distractors: chirps." in text
    assert (out / "stream-det.png").stat().st_size > 5_000
    assert (out / "stream-example.png").stat().st_size > 5_000
    assert len(list((tmp_path / "scenes").glob("*.flac"))) == 1
    thresholds = json.loads((out / "stream.json").read_text())["thresholds"]
    assert set(thresholds) == {"one", "two"}

    run.mkdir()
    (run / "model.safetensors").write_bytes(eager_model.read_bytes())
    shipped = tmp_path / "shipped.safetensors"
    exported = ["export", str(run), "--out", str(shipped), "--stream", str(out / "stream.json")]
    assert main(exported) == 0
    header = load_checkpoint(shipped).header
    assert header.thresholds == thresholds
    assert header.metrics["stream"]["target_per_hour_and_label"] == 0.5
