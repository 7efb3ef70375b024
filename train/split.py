"""Group-disjoint splits: who is trained on, who validates, who is held out.

Between `train.data` and `train.loop`. A group is hashed (SHA-256, so for ever the same) into one
of ten buckets; fold ``k`` of five holds out two buckets and validates on a third. Sources with a
handful of speakers use leave-one-group-out instead, sets that come with folds or sides their own. A
group on two sides is an error.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from train.data import Clips
from train.errors import DataError

N_BUCKETS = 10
N_HASH_FOLDS = 5
FoldBy = Literal["group", "split"]
_VALIDATION_NAMES = ("val", "valid", "validation", "dev")
_TEST_NAMES = ("test", "testing", "eval", "evaluation")
"""What data sets call their sides; every other name is trained on."""
_SHOWN_GROUPS = 10


@dataclass(frozen=True)
class Split:
    """Masks over the clips, ``[clips]`` bool each, disjoint by group."""

    train: NDArray[np.bool_]
    validation: NDArray[np.bool_]
    test: NDArray[np.bool_]


def bucket_of(group: str) -> int:
    """Return the bucket, 0..9, that a group always falls into."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") % N_BUCKETS


def side_of(name: str) -> str:
    """Return ``validation`` or ``test`` for what a data set calls so, else the lower-case name."""
    name = name.lower()
    if name in _VALIDATION_NAMES:
        return "validation"
    return "test" if name in _TEST_NAMES else name


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
                    f"{', '.join(shared[:_SHOWN_GROUPS])}"
                    f"{', ...' if len(shared) > _SHOWN_GROUPS else ''}; "
                    f"a speaker or recording may stand on one side only"
                )


def fold_names(clips: Clips, leave_one_out: str | None, fold_by: FoldBy = "group") -> list[str]:
    """Return what is held out one at a time (sorted): groups or splits; [] for hashed folds.

    Args:
        clips: All clips of the recipe.
        leave_one_out: Source that is divided so; None for hashed folds.
        fold_by: Divide it by its groups, or by the folds that the data set itself names.
    """
    if leave_one_out is None:
        return []
    index = [source.name for source in clips.sources].index(leave_one_out)
    names = clips.group if fold_by == "group" else clips.split
    return sorted(set(names[clips.source == index].tolist()))


def split_all(clips: Clips) -> Split:
    """Train on everything; for a checkpoint to ship once the recipe is fixed."""
    nothing = np.zeros(len(clips), np.bool_)
    return Split(train=~nothing, validation=nothing, test=nothing)


def split_fold(
    clips: Clips,
    fold: int,
    leave_one_out: str | None,
    validate: bool,
    fold_by: FoldBy = "group",
) -> Split:
    """Hold out fold ``fold``.

    Args:
        clips: All clips of the recipe.
        fold: 0-based number.
        leave_one_out: Source whose groups or splits are held out one at a time; the other sources
            are split by bucket. None splits every source by bucket.
        validate: Keep one bucket for choosing the best checkpoint; otherwise it is trained on.
        fold_by: What ``leave_one_out`` leaves out, see `fold_names`.

    Raises:
        DataError: If there is no such fold, or a group leaks.
    """
    singles = fold_names(clips, leave_one_out, fold_by)
    n_folds = len(singles) or N_HASH_FOLDS
    if not 0 <= fold < n_folds:
        raise DataError(f"no fold {fold}; this recipe has folds 0 to {n_folds - 1}")
    bucket = np.array([bucket_of(g) for g in clips.group.tolist()])
    held = (fold % N_HASH_FOLDS) * 2
    test = (bucket == held) | (bucket == held + 1)
    validation = (bucket == (held + 2) % N_BUCKETS) & validate
    if singles:
        divided = clips.source == [s.name for s in clips.sources].index(leave_one_out or "")
        names = clips.group if fold_by == "group" else clips.split
        test = np.where(divided, names == singles[fold], test)
        if fold_by == "group":
            # A handful of speakers: each is worth more in training than in validation.
            validation &= ~divided
        validation &= ~test
    for source in clips.sources:
        kept = np.isin(clips.group, [f"{source.name}/{g}" for g in source.always_trained])
        test &= ~kept
        validation &= ~kept
    return _finish(clips, validation, test)


def split_official(clips: Clips, shared_groups: bool = False) -> Split:
    """Split as the data sets themselves say; what names no side is trained on.

    Args:
        clips: All clips.
        shared_groups: Accept groups on several sides, as some published splits have them; the
            score then says little of new speakers or recordings.

    Raises:
        DataError: If nothing is held out, or a group leaks.
    """
    side = np.array([side_of(name) for name in clips.split.tolist()], np.str_)
    test = side == "test"
    if not test.any():
        found = ", ".join(repr(n) for n in sorted(set(clips.split.tolist()))[:_SHOWN_GROUPS])
        raise DataError(
            f"no clip is in a test split ({', '.join(_TEST_NAMES)}; found: {found}); hold out "
            f"groups instead, with --fold or --hold-out"
        )
    return _finish(clips, side == "validation", test, shared_groups)


def count_shared_groups(clips: Clips, split: Split) -> int:
    """Return how many groups are both trained and tested on."""
    trained, tested = (set(clips.group[side].tolist()) for side in (split.train, split.test))
    return len(trained & tested)


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


def _finish(
    clips: Clips,
    validation: NDArray[np.bool_],
    test: NDArray[np.bool_],
    shared_groups: bool = False,
) -> Split:
    """Keep train-only sources out of validation and test, then check for leaks."""
    train_only = np.array([s.train_only for s in clips.sources])[clips.source]
    split = Split(
        train=train_only | ~(validation | test),
        validation=validation & ~train_only,
        test=test & ~train_only,
    )
    if not shared_groups:
        check_disjoint(clips.group, split)
    return split
