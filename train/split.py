"""Group-disjoint splits: who is trained on, who validates, who is held out.

Between `train.data` and `train.loop`. A group is hashed (SHA-256, so for ever the same) into one
of ten buckets; fold ``k`` of five holds out two buckets and validates on a third. Sources with a
handful of speakers use leave-one-group-out instead. A group on two sides is an error.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.data import Clips
from train.errors import DataError

N_BUCKETS = 10
N_HASH_FOLDS = 5


@dataclass(frozen=True)
class Split:
    """Masks over the clips, ``[clips]`` bool each, disjoint by group."""

    train: NDArray[np.bool_]
    validation: NDArray[np.bool_]
    test: NDArray[np.bool_]


def bucket_of(group: str) -> int:
    """Return the bucket, 0..9, that a group always falls into."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") % N_BUCKETS


def check_disjoint(groups: NDArray[np.str_], split: Split) -> None:
    """Refuse a split that has one group on two sides.

    Raises:
        DataError: Naming the groups that leak.
    """
    sides = {
        "train": set(groups[split.train].tolist()),
        "validation": set(groups[split.validation].tolist()),
        "test": set(groups[split.test].tolist()),
    }
    names = list(sides)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            shared = sorted(sides[first] & sides[second])
            if shared:
                raise DataError(
                    f"{len(shared)} group(s) in both {first} and {second}: "
                    f"{', '.join(shared[:5])}; a speaker or recording may stand on one side only"
                )


def fold_groups(clips: Clips, leave_one_out: str | None) -> list[str]:
    """Return the groups that are held out one at a time (sorted), or [] for hashed folds."""
    if leave_one_out is None:
        return []
    prefix = f"{leave_one_out}/"
    return sorted({g for g in clips.group.tolist() if g.startswith(prefix)})


def split_all(clips: Clips) -> Split:
    """Train on everything; for a checkpoint to ship once the recipe is fixed."""
    nothing = np.zeros(len(clips), np.bool_)
    return Split(train=~nothing, validation=nothing, test=nothing)


def split_fold(clips: Clips, fold: int, leave_one_out: str | None, validate: bool) -> Split:
    """Hold out fold ``fold``.

    Args:
        clips: All clips of the recipe.
        fold: 0-based number.
        leave_one_out: Source whose groups are held out one at a time; the other sources are
            split by bucket. None splits every source by bucket.
        validate: Keep one bucket for choosing the best checkpoint; otherwise it is trained on.

    Raises:
        DataError: If there is no such fold, or a group leaks.
    """
    singles = fold_groups(clips, leave_one_out)
    n_folds = len(singles) or N_HASH_FOLDS
    if not 0 <= fold < n_folds:
        raise DataError(f"no fold {fold}; this recipe has folds 0 to {n_folds - 1}")
    bucket = np.array([bucket_of(g) for g in clips.group.tolist()])
    held = (fold % N_HASH_FOLDS) * 2
    test = (bucket == held) | (bucket == held + 1)
    validation = (bucket == (held + 2) % N_BUCKETS) & validate
    if singles:
        one_of_them = np.isin(clips.group, singles)
        test = np.where(one_of_them, clips.group == singles[fold], test)
        validation &= ~one_of_them
    for source in clips.sources:
        kept = np.isin(clips.group, [f"{source.name}/{g}" for g in source.always_trained])
        test &= ~kept
        validation &= ~kept
    return _finish(clips, validation, test)


def split_hold_out(clips: Clips, groups: list[str]) -> Split:
    """Hold out the named groups (``george`` or ``fsdd/george``) and train on all others.

    Raises:
        DataError: If a group does not exist.
    """
    test = np.zeros(len(clips), np.bool_)
    bare = np.array([g.split("/", 1)[-1] for g in clips.group.tolist()])
    for group in groups:
        match = (clips.group == group) | (bare == group)
        if not match.any():
            known = sorted(set(clips.group.tolist()))
            raise DataError(
                f"no group {group!r} to hold out; there are {len(known)}, such as "
                f"{', '.join(known[:5])}"
            )
        test |= match
    return _finish(clips, np.zeros(len(clips), np.bool_), test)


def _finish(clips: Clips, validation: NDArray[np.bool_], test: NDArray[np.bool_]) -> Split:
    """Keep train-only sources out of validation and test, then check for leaks."""
    train_only = np.array([s.train_only for s in clips.sources])[clips.source]
    split = Split(
        train=train_only | ~(validation | test),
        validation=validation & ~train_only,
        test=test & ~train_only,
    )
    check_disjoint(clips.group, split)
    return split
