"""Labelled clips: ``manifest.csv`` -> decoded once into a memory map -> one array in memory.

First stage of training. All clips lie end to end in one int16 array with an offset each; the
training step cuts its batches out of it on the device, so that nothing is read, decoded or
copied while training runs. A clip belongs to a *group* (speaker, voice, recording); every split
in `train.split` is by group.
"""

import csv
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

from train.errors import DataError

MANIFEST_FIELDS = ("path", "label", "split", "group")
CACHE_VERSION = 1
"""Part of the cache key: raise it when what is stored about a clip changes."""
_ACTIVE_RANGE_DB = 28.0
_ACTIVE_MARGIN_S = 0.04
_ENERGY_FRAME_S = 0.01


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One line of a manifest."""

    path: str
    label: str
    split: str
    group: str


Relabel = Callable[[ManifestRow], str | None]
"""Gives a row's label in a recipe; None leaves the clip out."""


Spelling = Callable[[ManifestRow], str]
"""Gives what is really said in a row's clip, finer than its label."""


def keep_label(row: ManifestRow) -> str:
    """Use the manifest's own label."""
    return row.label


@dataclass(frozen=True)
class Source:
    """One data set of a recipe."""

    name: str
    """Prefix of its groups: ``fsdd/george``."""
    folder: str
    """Folder with ``manifest.csv``, relative to the data root (rendered: to the work folder)."""
    relabel: Relabel = keep_label
    spell: Spelling = keep_label
    weight: float = 1.0
    """How often a clip is drawn, relative to clips of the same label in other sources."""
    rendered: bool = False
    """Made by `train.synth`."""
    train_only: bool = False
    """Never evaluate on it (synthetic voices, borrowed noise)."""
    scored: bool = True
    """Counts in the headline accuracy; otherwise reported apart."""
    always_trained: tuple[str, ...] = ()
    """Groups that are trained on in every fold: the only one of its kind, it cannot be divided."""


@dataclass(frozen=True)
class Clips:
    """Decoded clips at one rate, laid end to end.

    Attributes:
        audio: ``[total_samples]`` int16.
        start: ``[clips]`` int64, first sample of each clip.
        length: ``[clips]`` int64, samples of each clip.
        active: ``[clips, 2]`` int64, where in the clip something is heard (start, end).
        label: ``[clips]`` int32, index into ``labels``.
        word: ``[clips]`` int32, index into ``words``.
        source: ``[clips]`` int32, index into ``sources``.
        group: ``[clips]`` str, prefixed by the source's name.
        path: ``[clips]`` str, for messages and error lists.
        labels: Label names in the model's order.
        words: What is said in the clips, sorted: finer than the labels.
        sources: The recipe's sources.
        sample_rate_hz: Rate of ``audio``.
    """

    audio: NDArray[np.int16]
    start: NDArray[np.int64]
    length: NDArray[np.int64]
    active: NDArray[np.int64]
    label: NDArray[np.int32]
    word: NDArray[np.int32]
    source: NDArray[np.int32]
    group: NDArray[np.str_]
    path: NDArray[np.str_]
    labels: tuple[str, ...]
    words: tuple[str, ...]
    sources: tuple[Source, ...]
    sample_rate_hz: int

    def __len__(self) -> int:
        return len(self.start)

    def take(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> "Clips":
        """Return the chosen clips (mask or indices), audio packed again."""
        index = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen
        spans = [
            self.audio[s : s + n]
            for s, n in zip(self.start[index], self.length[index], strict=True)
        ]
        length = self.length[index]
        return replace(
            self,
            audio=np.concatenate(spans) if spans else np.zeros(0, np.int16),
            start=np.concatenate([[0], np.cumsum(length)[:-1]]).astype(np.int64)[: len(index)],
            length=length,
            active=self.active[index],
            label=self.label[index],
            word=self.word[index],
            source=self.source[index],
            group=self.group[index],
            path=self.path[index],
        )


def read_manifest(folder: Path) -> list[ManifestRow]:
    """Read ``folder/manifest.csv``.

    Raises:
        DataError: If the file is missing, lacks a column, or has an empty or repeated path.
    """
    path = folder / "manifest.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [f for f in MANIFEST_FIELDS if f not in (reader.fieldnames or [])]
            if missing:
                raise DataError(
                    f"{path}: no column {', '.join(missing)}; the first line must be "
                    f"{','.join(MANIFEST_FIELDS)}"
                )
            rows = [ManifestRow(**{f: line[f] or "" for f in MANIFEST_FIELDS}) for line in reader]
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror}; give the folder of data sets with --data"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start})") from error
    seen: set[str] = set()
    for number, row in enumerate(rows, start=2):
        if not row.path or not row.label or not row.group:
            raise DataError(f"{path}:{number}: path, label and group must not be empty")
        if row.path in seen:
            raise DataError(f"{path}:{number}: {row.path} is listed twice; remove one line")
        seen.add(row.path)
    if not rows:
        raise DataError(f"{path}: no clips listed")
    return rows


def decode_clip(path: Path, sample_rate_hz: int) -> NDArray[np.int16]:
    """Decode one file to mono int16 at ``sample_rate_hz``.

    Raises:
        DataError: If the file is missing, unreadable, empty or not finite.
    """
    try:
        audio, native_hz = sf.read(path, dtype="float32", always_2d=True)
    except (OSError, sf.LibsndfileError) as error:
        raise DataError(
            f"cannot decode {path}: {error}; repair it or remove it from the manifest"
        ) from error
    mono = audio.mean(axis=1)
    if mono.size == 0 or not np.isfinite(mono).all():
        raise DataError(f"{path}: empty or with non-finite samples; remove it from the manifest")
    if native_hz != sample_rate_hz:
        mono = soxr.resample(mono, native_hz, sample_rate_hz)
    return np.round(np.clip(mono, -1, 1) * 32767).astype(np.int16)


def find_active_span(audio: NDArray[np.int16], sample_rate_hz: int) -> tuple[int, int]:
    """Return where the clip is within 28 dB of its loudest 10 ms, with a small margin.

    A clip of steady noise is active from end to end; a word in a quiet room is cut close.
    """
    frame = max(1, round(_ENERGY_FRAME_S * sample_rate_hz))
    margin = round(_ACTIVE_MARGIN_S * sample_rate_hz)
    n_frames = -(-len(audio) // frame)
    padded = np.zeros(n_frames * frame, np.float64)
    padded[: len(audio)] = audio
    energy = np.square(padded).reshape(n_frames, frame).mean(axis=1)
    loud = np.flatnonzero(energy >= energy.max() * 10 ** (-_ACTIVE_RANGE_DB / 10))
    return (
        max(0, int(loud[0]) * frame - margin),
        min(len(audio), (int(loud[-1]) + 1) * frame + margin),
    )


def _cached_audio(
    folder: Path, rows: Sequence[ManifestRow], sample_rate_hz: int, cache: Path
) -> tuple[NDArray[np.int16], NDArray[np.int64], NDArray[np.int64]]:
    """Return (audio memory map, lengths, active spans) of all rows, decoding them only once."""
    digest = hashlib.sha256(f"{CACHE_VERSION} {sample_rate_hz} {folder.resolve()}".encode())
    for row in rows:
        file = folder / row.path
        try:
            stat = file.stat()
        except OSError as error:
            raise DataError(f"{file}: listed in the manifest but {error.strerror}") from error
        digest.update(f"{row.path} {stat.st_size} {stat.st_mtime_ns}".encode())
    stem = f"{folder.name}-{sample_rate_hz}-{digest.hexdigest()[:16]}"
    audio_path, index_path = cache / f"{stem}.audio.npy", cache / f"{stem}.index.npz"
    if not (audio_path.exists() and index_path.exists()):
        cache.mkdir(parents=True, exist_ok=True)
        clips = [decode_clip(folder / row.path, sample_rate_hz) for row in rows]
        spans = [find_active_span(clip, sample_rate_hz) for clip in clips]
        # Complete files only: each is written beside its name and renamed, the index last.
        part = cache / f"{stem}.part.npy"
        np.save(part, np.concatenate(clips), allow_pickle=False)
        part.rename(audio_path)
        part = cache / f"{stem}.part.npz"
        np.savez(part, length=np.array([len(c) for c in clips]), active=np.array(spans))
        part.rename(index_path)
    with np.load(index_path, allow_pickle=False) as index:
        length, active = index["length"], index["active"]
    return np.load(audio_path, mmap_mode="r", allow_pickle=False), length, active


def load_clips(
    sources: Sequence[Source],
    labels: Sequence[str],
    sample_rate_hz: int,
    data_root: Path,
    work: Path,
) -> Clips:
    """Load all clips of the sources at one rate.

    Args:
        sources: Data sets in order.
        labels: Label names in the model's order.
        sample_rate_hz: The model's rate.
        data_root: Folder the sources' folders are relative to.
        work: Folder of rendered sources and, in ``cache/``, of the decoded memory maps.

    Raises:
        DataError: If a source cannot be read or a row has a label that is not in ``labels``.
    """
    order = {name: i for i, name in enumerate(labels)}
    parts: list[Clips] = []
    for number, source in enumerate(sources):
        folder = (work if source.rendered else data_root) / source.folder
        rows = read_manifest(folder)
        audio, length, active = _cached_audio(folder, rows, sample_rate_hz, work / "cache")
        names = [source.relabel(row) for row in rows]
        for row, name in zip(rows, names, strict=True):
            if name is not None and name not in order:
                raise DataError(
                    f"{folder / row.path}: label {name!r} is none of {', '.join(labels)}; "
                    f"map or drop it in the recipe's source {source.name!r}"
                )
        words = sorted({source.spell(row) for row in rows})
        clips = Clips(
            audio=audio,
            start=np.concatenate([[0], np.cumsum(length)[:-1]]).astype(np.int64),
            length=length,
            active=active,
            label=np.array([order.get(name or "", 0) for name in names], np.int32),
            word=np.array([words.index(source.spell(row)) for row in rows], np.int32),
            source=np.full(len(rows), number, np.int32),
            group=np.array([f"{source.name}/{row.group}" for row in rows], dtype=np.str_),
            path=np.array([str(folder / row.path) for row in rows], dtype=np.str_),
            labels=tuple(labels),
            words=tuple(words),
            sources=tuple(sources),
            sample_rate_hz=sample_rate_hz,
        )
        parts.append(clips.take(np.array([name is not None for name in names])))
    return _join(parts)


def _join(parts: Sequence[Clips]) -> Clips:
    spellings = np.concatenate([np.array(p.words, np.str_)[p.word] for p in parts])
    words, word = np.unique(spellings, return_inverse=True)
    shifts = np.concatenate([[0], np.cumsum([len(p.audio) for p in parts])[:-1]])
    return replace(
        parts[0],
        audio=np.concatenate([p.audio for p in parts]),
        start=np.concatenate([p.start + shift for p, shift in zip(parts, shifts, strict=True)]),
        length=np.concatenate([p.length for p in parts]),
        active=np.concatenate([p.active for p in parts]),
        label=np.concatenate([p.label for p in parts]),
        word=word.astype(np.int32),
        words=tuple(words.tolist()),
        source=np.concatenate([p.source for p in parts]),
        group=np.concatenate([p.group for p in parts]),
        path=np.concatenate([p.path for p in parts]),
    )


def centre_in_windows(clips: Clips, window_samples: int) -> NDArray[np.float32]:
    """Return every clip centred in one window; longer clips lose both ends, shorter get zeros.

    Returns:
        ``[clips, window_samples]`` float32 in [-1, 1].
    """
    windows = np.zeros((len(clips), window_samples), np.float32)
    for row, start, length in zip(windows, clips.start, clips.length, strict=True):
        clip = clips.audio[start : start + length]
        surplus = length - window_samples
        if surplus > 0:
            clip = clip[surplus // 2 : surplus // 2 + window_samples]
        first = (window_samples - len(clip)) // 2
        row[first : first + len(clip)] = clip
    return windows / np.float32(32768)
