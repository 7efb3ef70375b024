"""Layouts in which people keep labelled audio, each read into the rows of a manifest.

A layout is recognised by its files or named. Readers decode nothing. What a reader had to guess or
leave out it says in `Listing.notes`.
"""

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from train.data.decode import AUDIO_SUFFIXES
from train.data.manifest import (
    LABEL_SEPARATOR,
    MANIFEST_FILE,
    ManifestRow,
    read_manifest,
)
from train.errors import DataError

_SPLIT_FOLDERS = ("train", "training", "val", "valid", "validation", "test", "testing")
_RAVDESS_NAME = re.compile(r"(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)")
_RAVDESS_EMOTIONS = (
    "neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised",
)  # fmt: skip
_RAVDESS_AUDIO_ONLY = "03"
_GTZAN_FOLDERS = ("genres", "genres_original")
_SPEAKER_MARK = "_nohash_"


@dataclass(frozen=True)
class Listing:
    """What a folder holds."""

    layout: str
    rows: list[ManifestRow]
    notes: tuple[str, ...] = ()
    """What was guessed or left out, for people."""

    @property
    def multi_label(self) -> bool:
        """Some clip has several labels."""
        return any(LABEL_SEPARATOR in row.label for row in self.rows)


@dataclass(frozen=True)
class Layout:
    """One way to keep a data set."""

    name: str
    signs: str
    """How it is recognised, for messages."""
    recognise: Callable[[Path], bool]
    read: Callable[[Path], tuple[list[ManifestRow], list[str]]]


def read_folder(folder: Path, layout: str | None = None) -> Listing:
    """List the clips of a data set.

    Args:
        folder: Of the data set.
        layout: Name of its layout; None recognises it.

    Raises:
        DataError: If the folder is missing, empty or damaged, or of no known layout.
    """
    if not folder.is_dir():
        raise DataError(f"cannot read {folder}: no such folder; name the data set with --data")
    chosen = _find(layout) if layout else detect_layout(folder)
    rows, notes = chosen.read(folder)
    if not rows:
        raise DataError(
            f"{folder}: no clips found in layout {chosen.name!r} ({chosen.signs}); name another "
            f"with --layout: {', '.join(one.name for one in LAYOUTS)}"
        )
    return Listing(chosen.name, rows, tuple(notes))


def detect_layout(folder: Path) -> Layout:
    """Return the first layout whose signs the folder shows; folders of classes if none."""
    return next((one for one in LAYOUTS if one.recognise(folder)), LAYOUTS[-1])


def _find(name: str) -> Layout:
    for one in LAYOUTS:
        if one.name == name:
            return one
    known = ", ".join(one.name for one in LAYOUTS)
    raise DataError(f"unknown layout {name!r}; known are {known}")


def _audio_files(folder: Path) -> Iterator[Path]:
    """Yield all audio files below a folder, sorted; hidden ones are not data."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in AUDIO_SUFFIXES and not hidden and path.is_file():
            yield path


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a CSV file that must have these columns."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [c for c in columns if c not in (reader.fieldnames or [])]
            if missing:
                raise DataError(f"{path}: no column {', '.join(missing)}")
            lines = list(reader)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start})") from error
    for number, line in enumerate(lines, start=2):
        if any(not line[column] for column in columns):
            raise DataError(f"{path}:{number}: {', '.join(columns)} must not be empty")
    return lines


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _read_plain_manifest(folder: Path) -> tuple[list[ManifestRow], list[str]]:
    return read_manifest(folder), []


def _is_speech_commands(folder: Path) -> bool:
    return (folder / "testing_list.txt").is_file() and (folder / "validation_list.txt").is_file()


def _read_speech_commands(folder: Path) -> tuple[list[ManifestRow], list[str]]:
    """Warden, "Speech Commands", arXiv 1804.03209: the speaker is in the file's name."""
    listed = {}
    for split in ("validation", "testing"):
        for line in (folder / f"{split}_list.txt").read_text(encoding="utf-8").split():
            listed[line] = split
    rows = []
    for path in _audio_files(folder):
        name = _relative(path, folder)
        word = name.split("/", 1)[0]
        if word == "_background_noise_":
            rows.append(ManifestRow(name, "silence", "", f"{word}/{path.stem}"))
        elif "/" in name:
            speaker = path.name.split(_SPEAKER_MARK, 1)[0]
            rows.append(ManifestRow(name, word, listed.pop(name, "training"), speaker))
    # Nothing of the lists may be lost without a word: a part of the set is a common mistake.
    notes = [f"{len(listed)} files of the lists are absent"] if listed else []
    return rows, notes


def _read_esc(folder: Path, only_esc10: bool) -> tuple[list[ManifestRow], list[str]]:
    """Piczak, "ESC: dataset for environmental sound classification": the group is src_file."""
    columns = ("filename", "fold", "category", "esc10", "src_file")
    rows = [
        ManifestRow(
            f"audio/{line['filename']}", line["category"], f"fold_{line['fold']}", line["src_file"]
        )
        for line in _read_csv(folder / "meta" / "esc50.csv", columns)
        if not only_esc10 or line["esc10"].lower() == "true"
    ]
    return _keep_present(folder, rows)


def _read_urbansound(folder: Path) -> tuple[list[ManifestRow], list[str]]:
    """Salamon et al., "A dataset and taxonomy for urban sound research": the group is fsID."""
    columns = ("slice_file_name", "fsID", "fold", "class")
    rows = [
        ManifestRow(
            f"audio/fold{line['fold']}/{line['slice_file_name']}",
            line["class"],
            f"fold_{line['fold']}",
            line["fsID"],
        )
        for line in _read_csv(folder / "metadata" / "UrbanSound8K.csv", columns)
    ]
    return _keep_present(folder, rows)


def _keep_present(folder: Path, rows: list[ManifestRow]) -> tuple[list[ManifestRow], list[str]]:
    present = [row for row in rows if (folder / row.path).is_file()]
    absent = len(rows) - len(present)
    return present, [f"{absent} listed files are absent and left out"] if absent else []


def _find_gtzan(folder: Path) -> Path | None:
    return next((folder / n for n in _GTZAN_FOLDERS if (folder / n).is_dir()), None)


def _read_gtzan(folder: Path) -> tuple[list[ManifestRow], list[str]]:
    """Tzanetakis & Cook, "Musical genre classification of audio signals"."""
    genres = _find_gtzan(folder) or folder
    rows = [
        ManifestRow(_relative(path, folder), path.parent.name, "", path.stem)
        for path in _audio_files(genres)
        if path.parent != genres
    ]
    return rows, [
        "the set does not name its artists: each excerpt is its own group, and excerpts of one "
        "artist may stand on both sides of a split (arXiv 1306.1461 lists them)"
    ]


def _is_ravdess(folder: Path) -> bool:
    return any(
        _RAVDESS_NAME.fullmatch(path.stem)
        for actor in folder.glob("Actor_*")
        for path in actor.iterdir()
    )


def _read_ravdess(folder: Path) -> tuple[list[ManifestRow], list[str]]:
    """Livingstone & Russo, doi 10.1371/journal.pone.0196391.

    A name is modality-channel-emotion-intensity-statement-repetition-actor.
    """
    rows, other = [], 0
    for path in _audio_files(folder):
        fields = _RAVDESS_NAME.fullmatch(path.stem)
        emotion = int(fields[3]) if fields else 0
        if not fields or fields[1] != _RAVDESS_AUDIO_ONLY or not 1 <= emotion <= 8:
            other += 1
            continue
        label = _RAVDESS_EMOTIONS[emotion - 1]
        rows.append(ManifestRow(_relative(path, folder), label, "", f"actor_{fields[7]}"))
    return rows, [f"{other} files have no name of this set and are left out"] if other else []


_FSD_PARTS = (("dev", "FSD50K.dev_audio"), ("eval", "FSD50K.eval_audio"))


def _read_fsd50k(folder: Path) -> tuple[list[ManifestRow], list[str]]:
    """Fonseca et al., "FSD50K", arXiv 2010.00475: several labels; the group is who sent it."""
    rows, anonymous = [], 0
    for part, audio in _FSD_PARTS:
        table = folder / "FSD50K.ground_truth" / f"{part}.csv"
        if part == "eval" and not table.is_file():
            continue
        info_file = folder / "FSD50K.metadata" / f"{part}_clips_info_FSD50K.json"
        try:
            info = json.loads(info_file.read_text(encoding="utf-8")) if info_file.is_file() else {}
        except ValueError as error:
            raise DataError(f"{info_file}: not JSON ({error})") from error
        for line in _read_csv(table, ("fname", "labels")):
            clip = line["fname"]
            sender = info.get(clip, {}).get("uploader")
            anonymous += sender is None
            rows.append(
                ManifestRow(
                    f"{audio}/{clip}.wav",
                    line["labels"].replace(",", LABEL_SEPARATOR),
                    line.get("split") or "test",
                    f"uploader/{sender}" if sender else f"clip/{clip}",
                )
            )
    present, notes = _keep_present(folder, rows)
    if anonymous:
        notes.append(
            f"{anonymous} clips have no uploader in FSD50K.metadata: each is its own group"
        )
    return present, notes


def _audioset_tables(folder: Path) -> list[Path]:
    tables = []
    for path in sorted(folder.glob("*.csv")):
        with path.open(encoding="utf-8", errors="replace") as file:
            if "YTID" in file.read(2_000):
                tables.append(path)
    return tables


def _read_audioset(folder: Path) -> tuple[list[ManifestRow], list[str]]:
    """Gemmeke et al., "Audio Set": ``# YTID, start_seconds, end_seconds, positive_labels``."""
    names = {}
    classes = folder / "class_labels_indices.csv"
    if classes.is_file():
        names = {r["mid"]: r["display_name"] for r in _read_csv(classes, ("mid", "display_name"))}
    files: dict[str, Path] = {}
    for path in _audio_files(folder):
        # Downloaders write ID, ID_START, YID: the id has 11 characters, itself with _ and -.
        stem = path.stem
        files.setdefault(stem[1:12] if len(stem) == 12 and stem[0] == "Y" else stem[:11], path)
    rows, absent = [], 0
    for table in _audioset_tables(folder):
        with table.open(newline="", encoding="utf-8") as file:
            lines = [line for line in file if not line.startswith("#")]
        split = "test" if "eval" in table.name else "train"
        for number, fields in enumerate(csv.reader(lines, skipinitialspace=True), start=1):
            if len(fields) < 4:
                raise DataError(f"{table}: clip {number} has {len(fields)} of 4 fields: {fields}")
            path = files.get(fields[0])
            if path is None:
                absent += 1
                continue
            labels = [names.get(mid, mid) for mid in fields[3].split(",")]
            label = LABEL_SEPARATOR.join(labels)
            rows.append(ManifestRow(_relative(path, folder), label, split, fields[0]))
    notes = [f"{absent} listed clips have no audio here and are left out"] if absent else []
    return rows, notes


def _read_classes(folder: Path) -> tuple[list[ManifestRow], list[str]]:
    """``[SPLIT/]CLASS/[GROUP/]clip.wav``: what a person sorts into folders."""
    tops = _subfolders(folder)
    if tops and all(top.name.lower() in _SPLIT_FOLDERS for top in tops):
        sides = [(top.name.lower(), top) for top in tops]
    else:
        sides = [("", folder)]
    rows, ungrouped, loose = [], 0, 0
    for split, side in sides:
        for path in _audio_files(side):
            label, *deeper = PurePosixPath(_relative(path, side)).parts[:-1] or ("",)
            if not label:
                loose += 1
                continue
            name = _relative(path, folder)
            ungrouped += not deeper
            rows.append(ManifestRow(name, label, split, "/".join(deeper) or name))
    notes = []
    if ungrouped:
        notes.append(
            f"{ungrouped} clips do not say who or what they are of, so each is its own group: "
            f"sort clips of one speaker or recording into CLASS/GROUP/, or write {MANIFEST_FILE}"
        )
    if loose:
        notes.append(f"{loose} files outside the folders of classes are left out")
    return rows, notes


LAYOUTS = (
    Layout(
        "manifest",
        MANIFEST_FILE,
        lambda folder: (folder / MANIFEST_FILE).is_file(),
        _read_plain_manifest,
    ),
    Layout(
        "speech-commands",
        "testing_list.txt and validation_list.txt beside folders of words",
        _is_speech_commands,
        _read_speech_commands,
    ),
    Layout(
        "esc50",
        "meta/esc50.csv",
        lambda folder: (folder / "meta" / "esc50.csv").is_file(),
        lambda folder: _read_esc(folder, only_esc10=False),
    ),
    Layout(
        "esc10",
        "the clips that meta/esc50.csv marks esc10",
        lambda _: False,
        lambda folder: _read_esc(folder, only_esc10=True),
    ),
    Layout(
        "urbansound8k",
        "metadata/UrbanSound8K.csv",
        lambda folder: (folder / "metadata" / "UrbanSound8K.csv").is_file(),
        _read_urbansound,
    ),
    Layout(
        "gtzan",
        f"a folder {' or '.join(_GTZAN_FOLDERS)}",
        lambda folder: _find_gtzan(folder) is not None,
        _read_gtzan,
    ),
    Layout("ravdess", "Actor_NN/03-01-EMOTION-...-NN.wav", _is_ravdess, _read_ravdess),
    Layout(
        "fsd50k",
        "FSD50K.ground_truth/dev.csv",
        lambda folder: (folder / "FSD50K.ground_truth" / "dev.csv").is_file(),
        _read_fsd50k,
    ),
    Layout(
        "audioset",
        "a CSV file with YTID in its first lines",
        lambda folder: bool(_audioset_tables(folder)),
        _read_audioset,
    ),
    Layout("classes", "[SPLIT/]CLASS/[GROUP/]clip.wav", lambda _: True, _read_classes),
)
"""In the order in which they are tried."""
