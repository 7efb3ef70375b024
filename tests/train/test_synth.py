"""Synthetic speakers: planned the same every time, rendered for real where espeak-ng is."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from train.data import read_manifest
from train.errors import DataError
from train.synth import plan_renderings, render_words


def test_plan_is_reproducible_and_varied() -> None:
    programs = ["espeak-ng", "flite", "festival"]
    plan = plan_renderings("seven", 60, programs)
    assert plan == plan_renderings("seven", 60, programs)
    assert plan != plan_renderings("eight", 60, programs)
    assert len({how.group for how in plan}) > 30
    assert {how.program for how in plan} == set(programs)
    assert {how.program for how in plan_renderings("seven", 60, ["espeak-ng"])} == {"espeak-ng"}


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_rendered_words_are_listed_and_heard(tmp_path: Path) -> None:
    assert render_words(["yes", "no"], 3, tmp_path) == 6
    assert render_words(["yes", "no", "go"], 3, tmp_path) == 3
    rows = read_manifest(tmp_path)
    assert [row.label for row in rows] == ["yes"] * 3 + ["no"] * 3 + ["go"] * 3
    for row in rows:
        audio, rate_hz = sf.read(tmp_path / row.path)
        assert 0.05 < len(audio) / rate_hz < 2.0
        assert np.abs(audio).max() == pytest.approx(0.9, abs=0.01)


def test_without_espeak_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(DataError, match="--no-synth"):
        render_words(["yes"], 1, tmp_path)
