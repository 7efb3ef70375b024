"""The clips of a recipe: several data sets at one rate, laid end to end in one int16 array.

The training step cuts its batches out of that array on the device, so that nothing is read, decoded
or copied while training runs. A clip belongs to a *group* (speaker, voice, recording); every split
in `train.split` is by group.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from train.data.cache import decode_once
from train.data.layouts import read_folder
from train.data.manifest import LABEL_SEPARATOR, ManifestRow
from train.errors import DataError

Task = Literal["single-label", "multi-label"]
Relabel = Callable[[ManifestRow], str | None]
"""Gives a row's label in a recipe (several joined by ``;``); None leaves the clip out."""


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
    """Its folder, relative to the data root (rendered: to the work folder)."""
    layout: str | None = None
    """How the folder is laid out (`train.data.layouts`); None recognises it."""
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
        label: ``[clips]`` int32, index into ``labels``; of a clip with several, the first.
        targets: ``[clips, labels]`` bool, all labels of each clip.
        word: ``[clips]`` int32, index into ``words``.
        source: ``[clips]`` int32, index into ``sources``.
        split: ``[clips]`` str, the data set's own word for the side or fold.
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
    targets: NDArray[np.bool_]
    word: NDArray[np.int32]
    source: NDArray[np.int32]
    split: NDArray[np.str_]
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
        index = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else np.asarray(chosen, np.intp)
        own = self.pick(index)
        spans = [self.audio[s : s + n] for s, n in zip(own.start, own.length, strict=True)]
        audio = np.concatenate(spans) if spans else np.zeros(0, np.int16)
        return replace(own, audio=audio, start=lay_end_to_end(own.length))

    def pick(self, index: NDArray[np.intp]) -> "Clips":
        """Return the clips of these numbers, each as often as it is named, in the same audio."""
        return replace(
            self,
            start=self.start[index],
            length=self.length[index],
            active=self.active[index],
            label=self.label[index],
            targets=self.targets[index],
            word=self.word[index],
            source=self.source[index],
            split=self.split[index],
            group=self.group[index],
            path=self.path[index],
        )


def load_clips(
    sources: Sequence[Source],
    labels: Sequence[str],
    sample_rate_hz: int,
    data_root: Path,
    work: Path,
    task: Task = "single-label",
) -> Clips:
    """Load all clips of the sources at one rate.

    Args:
        sources: Data sets in order.
        labels: Label names in the model's order.
        sample_rate_hz: The model's rate.
        data_root: Folder the sources' folders are relative to.
        work: Folder of rendered sources and, in ``cache/``, of the decoded memory maps.
        task: Whether a clip may have several labels.

    Raises:
        DataError: If a source cannot be read, a row has a label that is not in ``labels``, or
            several of which the task allows one.
    """
    parts: list[Clips] = []
    for number, source in enumerate(sources):
        folder = (work if source.rendered else data_root) / source.folder
        rows = read_folder(folder, source.layout).rows
        names = [source.relabel(row) for row in rows]
        kept = [(row, name) for row, name in zip(rows, names, strict=True) if name is not None]
        rows = [row for row, _ in kept]
        targets = _mark_labels(folder, kept, labels, source.name, task)
        audio, length, active = decode_once(folder, rows, sample_rate_hz, work / "cache")
        words, word = np.unique([source.spell(row) for row in rows], return_inverse=True)
        parts.append(
            Clips(
                audio=audio,
                start=lay_end_to_end(length),
                length=length,
                active=active,
                label=targets.argmax(axis=1).astype(np.int32),
                targets=targets,
                word=word.astype(np.int32),
                source=np.full(len(rows), number, np.int32),
                split=np.array([row.split for row in rows], dtype=np.str_),
                group=np.array([f"{source.name}/{row.group}" for row in rows], dtype=np.str_),
                path=np.array([str(folder / row.path) for row in rows], dtype=np.str_),
                labels=tuple(labels),
                words=tuple(words.tolist()),
                sources=tuple(sources),
                sample_rate_hz=sample_rate_hz,
            )
        )
    return join_clips(parts)


def _mark_labels(
    folder: Path,
    kept: Sequence[tuple[ManifestRow, str]],
    labels: Sequence[str],
    source: str,
    task: Task,
) -> NDArray[np.bool_]:
    """Return ``[clips, labels]``, which labels each clip has in the recipe."""
    order = {name: i for i, name in enumerate(labels)}
    targets = np.zeros((len(kept), len(labels)), np.bool_)
    for row, (clip, name) in zip(targets, kept, strict=True):
        own = name.split(LABEL_SEPARATOR)
        for one in own:
            if one not in order:
                raise DataError(
                    f"{folder / clip.path}: label {one!r} is none of {', '.join(labels)}; "
                    f"map or drop it in the recipe's source {source!r}"
                )
            row[order[one]] = True
        if len(own) > 1 and task == "single-label":
            raise DataError(
                f"{folder / clip.path}: has {len(own)} labels ({name}), the task is "
                f"single-label; train with --set task=multi-label or map it to one"
            )
    return targets


def join_clips(parts: Sequence[Clips]) -> Clips:
    """Lay several sets end to end; labels and sources are those of the first."""
    if len({part.sample_rate_hz for part in parts}) > 1:
        raise ValueError("clips of different rates cannot be joined")
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
        targets=np.concatenate([p.targets for p in parts]),
        word=word.astype(np.int32),
        words=tuple(words.tolist()),
        source=np.concatenate([p.source for p in parts]),
        split=np.concatenate([p.split for p in parts]),
        group=np.concatenate([p.group for p in parts]),
        path=np.concatenate([p.path for p in parts]),
    )


def lay_end_to_end(length: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where clips of these lengths begin, one behind the other."""
    return (np.cumsum(length) - length).astype(np.int64)


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


def window_starts(
    length: int, active: tuple[int, int], window_samples: int
) -> NDArray[np.intp] | None:
    """Return where a long clip is heard: half a window apart, evenly over its active span.

    Args:
        length: Of the clip, in samples.
        active: Where something is heard in it, first and last sample.
        window_samples: Length of a window.

    Returns:
        First sample of each window, ascending; None for a clip of up to one and a half windows,
        which is heard in one.
    """
    if 2 * length <= 3 * window_samples:
        return None
    begin, end = active
    last = max(begin, end - window_samples)
    n_windows = 1 + -(-2 * int(last - begin) // window_samples)
    return np.minimum(np.linspace(begin, last, n_windows).astype(int), length - window_samples)


def spread_windows(
    clips: Clips, window_samples: int
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Return the windows in which every clip is heard, and the clip of each.

    A clip that `window_starts` leaves alone is centred in one.

    Returns:
        (``[windows, window_samples]`` float32 in [-1, 1], ``[windows]`` int, ascending).
    """
    whole, owner = centre_in_windows(clips, window_samples), []
    rows = []
    for number, (start, length, active) in enumerate(
        zip(clips.start, clips.length, clips.active, strict=True)
    ):
        firsts = window_starts(length, active, window_samples)
        if firsts is None:
            rows.append(whole[number : number + 1])
            owner.append(number)
            continue
        for at in start + firsts:
            rows.append(clips.audio[None, at : at + window_samples] / np.float32(32768))
            owner.append(number)
    return np.concatenate(rows), np.array(owner)
