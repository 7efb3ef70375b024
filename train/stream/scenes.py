"""Long noisy recordings with known onsets, spliced from clips; the same for the same seed.

A scene is a background (coloured noise and recorded noise, a level of its own) with clips strewn
over it one after another: those the model should report and those it should not (*distractors*).
Nothing overlaps but the background. The truth of a clip is its active span.
"""

import csv
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from train.data import Clips, join_clips
from train.errors import DataError

_FADE_S = 0.01
_LOUDEST = 0.95
_STEADY_SHARE = 0.9
"""Active for this share of its length, a clip without a word is background."""
_EDGE_S = 3.0
"""No clip in the first and last seconds: the window has to fill and to empty."""


@dataclass(frozen=True)
class SceneSettings:
    """How scenes are made; part of every report."""

    scene_s: float = 300.0
    gap_s: float = 4.0
    """Mean of the random pause between two clips, beyond half a second."""
    target_share: float = 0.5
    """Share of the clips that the model should report."""
    background_min_dbfs: float = -60.0
    background_max_dbfs: float = -35.0
    snr_min_db: float = 5.0
    snr_max_db: float = 30.0
    """Power of a clip's active span over the background's."""


@dataclass(frozen=True, order=True)
class Sound:
    """Something that is to be heard, or was: times in seconds of its scene."""

    onset_s: float
    offset_s: float
    label: str


@dataclass(frozen=True)
class Scene:
    """One recording.

    Attributes:
        name: Of the file it would be written to.
        audio: ``[samples]`` float32 in [-1, 1].
        sample_rate_hz: Its rate.
        truth: What the model should report, by onset.
        distractors: What it should not, by onset; labels are those of the data set.
    """

    name: str
    audio: NDArray[np.float32]
    sample_rate_hz: int
    truth: list[Sound]
    distractors: list[Sound]

    @property
    def seconds(self) -> float:
        """Length."""
        return len(self.audio) / self.sample_rate_hz


@dataclass(frozen=True)
class Material:
    """What scenes are made of: clips by what the model should make of them."""

    targets: Clips
    distractors: Clips
    noises: Clips

    def halve(self) -> tuple["Material", "Material", bool]:
        """Part the clips: what is chosen on one half is reported on the other.

        Returns:
            The halves, and whether they share no group. Where a label was held out in one group
            only, the halves share groups but no clip.

        Raises:
            DataError: If some label has a single clip.
        """
        everything = (self.targets, self.distractors, self.noises)
        for by_group in (True, False):
            second: set[str] = set()
            taken: set[str] = set()
            for clips in everything:
                names = clips.group if by_group else clips.path
                # By label first, so that each label's groups go to both halves in turn.
                first_label = dict(
                    zip(names[::-1].tolist(), clips.label[::-1].tolist(), strict=True)
                )
                fresh = sorted(
                    set(first_label) - taken,
                    key=lambda n: (first_label[n], hashlib.sha256(n.encode()).digest()),
                )
                second.update(fresh[1::2])
                taken.update(fresh)
            halves = []
            for number in (False, True):
                parts = []
                for clips in everything:
                    names = clips.group if by_group else clips.path
                    chosen = np.flatnonzero([(n in second) == number for n in names.tolist()])
                    parts.append(clips.take(chosen))
                halves.append(Material(*parts))
            if all(half._labels() == self._labels() for half in halves):
                return halves[0], halves[1], by_group
        raise DataError(
            "a label is held out in one clip only, too few to choose thresholds and to report; "
            "hold out more"
        )

    def _labels(self) -> list[int]:
        return np.flatnonzero(self.targets.targets.any(axis=0)).tolist()


def sort_clips(clips: Clips, unknown: Sequence[str], extra: Sequence[Clips] = ()) -> Material:
    """Sort held-out clips by what the model should make of them.

    Args:
        clips: Held out from training, labels in the model's order.
        unknown: The model's labels that mean "nothing I know", other words before silence. Of
            those, clips that are active throughout are background, the others distractors.
        extra: More distractors with the same labels, whatever they say.

    Raises:
        DataError: If there is nothing to report.
    """
    known = [i for i, label in enumerate(clips.labels) if label not in unknown]
    wanted = clips.targets[:, known].any(axis=1)
    if not wanted.any():
        raise DataError("no held-out clip of a class that gives events; nothing to evaluate")
    steady = (clips.active[:, 1] - clips.active[:, 0]) > _STEADY_SHARE * clips.length
    if unknown:
        steady &= clips.targets[:, clips.labels.index(unknown[-1])]
    noises = np.flatnonzero(~wanted & steady)
    others = [clips.take(np.flatnonzero(~wanted & ~steady)), *extra]
    return Material(clips.take(np.flatnonzero(wanted)), join_clips(others), clips.take(noises))


def make_scene(name: str, material: Material, settings: SceneSettings, seed: int) -> Scene:
    """Make one scene.

    Args:
        name: Of the scene.
        material: What to make it of.
        settings: How.
        seed: The same gives the same scene.
    """
    rng = np.random.default_rng(seed)
    rate_hz = material.targets.sample_rate_hz
    samples = round(settings.scene_s * rate_hz)
    audio = _make_background(rng, material.noises, samples)
    level_dbfs = rng.uniform(settings.background_min_dbfs, settings.background_max_dbfs)
    rms = 10 ** (level_dbfs / 20)
    audio *= rms / _rms(audio)
    truth, distractors = [], []
    # Classes are drawn evenly, then a clip of the class: all have the same say in the scores.
    targets = material.targets
    classes = [np.flatnonzero(column) for column in targets.targets.T if column.any()]
    share = settings.target_share if len(material.distractors) else 1.0
    at = round((_EDGE_S + rng.exponential(settings.gap_s)) * rate_hz)
    while True:
        is_target = rng.random() < share
        clips = targets if is_target else material.distractors
        own = classes[rng.integers(len(classes))] if is_target else np.arange(len(clips))
        index = int(own[rng.integers(len(own))])
        length = int(clips.length[index])
        if at + length > samples - round(_EDGE_S * rate_hz):
            break
        clip = _read_clip(clips, index)
        first, last = (int(n) for n in clips.active[index])
        snr_db = rng.uniform(settings.snr_min_db, settings.snr_max_db)
        gain = rms * 10 ** (snr_db / 20) / _rms(clip[first:last])
        gain = min(gain, _LOUDEST / float(np.abs(clip).max(initial=1e-6)))
        audio[at : at + length] += gain * clip
        onset_s, offset_s = (at + first) / rate_hz, (at + last) / rate_hz
        if is_target:
            names = [clips.labels[i] for i in np.flatnonzero(clips.targets[index])]
            truth += [Sound(onset_s, offset_s, label) for label in names]
        else:
            distractors.append(Sound(onset_s, offset_s, clips.words[clips.word[index]]))
        at += length + round((0.5 + rng.exponential(settings.gap_s)) * rate_hz)
    return Scene(name, np.clip(audio, -1, 1), rate_hz, truth, distractors)


def make_scenes(
    material: Material, settings: SceneSettings, hours: float, seed: int, name: str
) -> Iterator[Scene]:
    """Yield scenes of ``hours`` in all, one in memory at a time."""
    for number in range(max(1, round(hours * 3600 / settings.scene_s))):
        scene_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        yield make_scene(f"{name}-{number:03d}", material, settings, scene_seed)


def write_scene(scene: Scene, folder: Path) -> None:
    """Write ``NAME.flac`` and, in the format of DCASE, ``NAME.tsv`` (onset, offset, label)."""
    folder.mkdir(parents=True, exist_ok=True)
    sf.write(folder / f"{scene.name}.flac", scene.audio, scene.sample_rate_hz, subtype="PCM_16")
    with (folder / f"{scene.name}.tsv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(("filename", "onset", "offset", "event_label"))
        for sound in scene.truth:
            times = (f"{sound.onset_s:.4f}", f"{sound.offset_s:.4f}")
            writer.writerow((f"{scene.name}.flac", *times, sound.label))


def _make_background(rng: np.random.Generator, noises: Clips, samples: int) -> NDArray[np.float32]:
    """Return coloured noise with, mostly, a recording looped under it; ``[samples]``."""
    white = rng.standard_normal(samples)
    spectrum = np.fft.rfft(white)
    bins = np.maximum(np.arange(len(spectrum)), samples / 400)
    audio = np.fft.irfft(spectrum * bins ** (-rng.uniform(0, 2) / 2), n=samples)
    audio /= _rms(audio)
    if len(noises):
        clip = _read_clip(noises, int(rng.integers(len(noises))))
        looped = np.resize(clip, samples)
        share = rng.uniform(0, 1)
        audio = (1 - share) * audio + share * looped / _rms(looped)
    return audio.astype(np.float32)


def _read_clip(clips: Clips, index: int) -> NDArray[np.float32]:
    """Return a clip as float32, faded in and out so that its edges do not click."""
    start, length = int(clips.start[index]), int(clips.length[index])
    clip = clips.audio[start : start + length].astype(np.float32) / np.float32(32768)
    fade = min(round(_FADE_S * clips.sample_rate_hz), length // 2)
    ramp = np.linspace(0, 1, fade, dtype=np.float32)
    clip[:fade] *= ramp
    clip[length - fade :] *= ramp[::-1]
    return clip


def _rms(audio: NDArray[np.floating]) -> float:
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))) + 1e-9
