"""A recipe for any folder of clips: ``python -m train fit --data FOLDER``.

What a recipe decides by hand is decided here by the clips: labels by the folder, rate and window by
what the files are, folds by the groups. It is a start that works; a recipe of your own (see
`train.recipes`) or ``--set`` changes any of it.
"""

import re
from pathlib import Path

import numpy as np
import soundfile as sf

from streamcls.features import FrontEnd
from train.augment import Augment
from train.data import ManifestRow, Source, write_manifest
from train.data.layouts import Listing, read_folder
from train.errors import DataError
from train.recipes import Recipe
from train.split import FoldBy

UNKNOWN_NAMES = ("unknown", "_unknown_", "other", "others")
SILENCE_NAMES = ("silence", "_silence_", "background", "_background_noise_", "nothing")
"""Classes of these names mean "nothing I know"; a model without silence is given made silence."""
SILENCE_FOLDER = "synth/silence"
_SILENCE_LABEL = "silence"
_N_SILENCES = 16
_N_PROBED = 100
_FEW_GROUPS = 10
"""With fewer, each is a fold of its own."""
_MANY_GROUPS = 40
"""From here on a tenth of them can be spared for choosing the best weights."""
_LONGEST_WINDOW_S = 2.0


def recipe_for_folder(folder: Path, layout: str | None = None) -> Recipe:
    """Return a recipe for the clips of a folder.

    Args:
        folder: In any layout of `train.data.layouts`.
        layout: Its name; None recognises it.

    Raises:
        DataError: If the folder holds no clips, or fewer than two classes.
    """
    listing = read_folder(folder, layout)
    labels = sorted({label for row in listing.rows for label in row.labels})
    unknown = next((name for name in labels if name.lower() in UNKNOWN_NAMES), None)
    silence = next((name for name in labels if name.lower() in SILENCE_NAMES), None)
    known = [name for name in labels if name not in (unknown, silence)]
    if not known or (len(known) == 1 and listing.multi_label):
        raise DataError(f"{folder}: needs a class to tell from others, found {', '.join(labels)}")
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", folder.resolve().name).strip("-") or "clips"
    sources = [Source(name, str(folder.resolve()), layout=layout)]
    task = "multi-label" if listing.multi_label else "single-label"
    if task == "single-label" and silence is None:
        silence = _SILENCE_LABEL
        sources.append(Source("made", SILENCE_FOLDER, rendered=True, train_only=True))
    rate_hz, seconds = _probe(folder, listing)
    front_end = _choose_front_end(rate_hz)
    window_s = float(np.clip(seconds, 1.0, _LONGEST_WINDOW_S))
    leave_one_out, fold_by = _choose_folds(listing, name)
    return Recipe(
        name=name,
        title=f"{len(known)} classes from {folder.resolve().name}",
        labels=(*known, *(n for n in (unknown, silence) if n is not None)),
        unknown=unknown if task == "single-label" else None,
        silence=silence if task == "single-label" else None,
        task=task,
        sources=tuple(sources),
        leave_one_out=leave_one_out,
        fold_by=fold_by,
        validate=len({row.group for row in listing.rows}) >= _MANY_GROUPS,
        noise_labels=() if silence is None or task == "multi-label" else (silence,),
        front_end=front_end,
        architecture="tc_resnet_8",
        model={
            "width": 2.0,
            "min_window_frames": round(window_s * front_end.sample_rate_hz / front_end.hop_samples),
        },
        # Loud noise alone may well be a class here (rain, a fan), so only quiet noise is silence.
        augment=Augment(
            snr_min_db=0.0, snr_max_db=35.0, babble_probability=0.15, silence_max_dbfs=-45.0
        ),
        word_weight=0.0,
        licence="not stated; say it with --set licence=...",
    )


def _probe(folder: Path, listing: Listing) -> tuple[int, float]:
    """Return the most frequent rate and the median duration in seconds of some of the clips."""
    chosen = np.linspace(0, len(listing.rows) - 1, min(_N_PROBED, len(listing.rows))).astype(int)
    rates, seconds = [], []
    for index in chosen:
        path = folder / listing.rows[index].path
        try:
            info = sf.info(path)
        except (OSError, sf.LibsndfileError) as error:
            raise DataError(
                f"cannot decode {path}: {error}; 'python -m train data check {folder}' lists "
                f"every file that cannot be used"
            ) from error
        rates.append(info.samplerate)
        seconds.append(info.frames / info.samplerate)
    return int(np.bincount(rates).argmax()), float(np.median(seconds))


def _choose_front_end(rate_hz: int) -> FrontEnd:
    """Return 16 kHz as the shipped models hear, or 8 kHz for telephone recordings."""
    if rate_hz >= 16_000:
        return FrontEnd()
    return FrontEnd(
        sample_rate_hz=8_000, frame_samples=200, hop_samples=80, n_fft=256, fmax_hz=3_800.0
    )


def _choose_folds(listing: Listing, source: str) -> tuple[str | None, FoldBy]:
    """Return (leave_one_out, fold_by): the set's own folds, single groups, or hashed groups."""
    splits = {row.split for row in listing.rows}
    if len(splits) > 1 and all(re.fullmatch(r"fold[_ -]?\d+", split) for split in splits):
        return source, "split"
    if 1 < len({row.group for row in listing.rows}) < _FEW_GROUPS:
        return source, "group"
    return None, "group"


def make_silence(folder: Path, sample_rate_hz: int = 16_000) -> int:
    """Write clips of a quiet converter (its last bit trembles) with a manifest, once.

    The augmentation adds quiet noise of all colours to them.

    Returns:
        Number of clips written.
    """
    if (folder / "manifest.csv").exists():
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(_N_SILENCES):
        name = f"{number:02d}.flac"
        audio = rng.integers(-1, 2, 2 * sample_rate_hz).astype(np.int16)
        sf.write(folder / name, audio, sample_rate_hz, subtype="PCM_16")
        rows.append(ManifestRow(name, _SILENCE_LABEL, "train", f"made-{number:02d}"))
    write_manifest(rows, folder / "manifest.csv")
    return len(rows)
