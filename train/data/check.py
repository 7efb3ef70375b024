"""What is wrong with a data set, found before anything is trained on it.

Reads every file once, as it is. *Problems* would spoil a training or make its score a lie: files
that cannot be decoded, the same audio on two sides or under two labels, a group on two sides.
*Remarks* are what a person should look at: silence, clipping, odd lengths, rare classes, what seems
to be the same recording in another file.
"""

import hashlib
import os
import textwrap
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from train.data.decode import read_audio
from train.data.layouts import Listing, read_folder
from train.data.manifest import ManifestRow
from train.errors import DataError
from train.split import side_of

SILENT_DBFS = -65.0
"""A clip whose loudest 10 ms are below this holds nothing."""
FULL_SCALE = 0.999
CLIPPED_SHARE = 0.001
"""A clip is clipped if this share of its samples is at full scale."""
RARE_SHARE = 0.1
"""A class is rare if it has less than this share of the clips of the largest."""
NEAR_COSINE = 0.97
"""Two clips seem the same recording if their spectrograms are as similar as this: above 0.977 for
95 % of the clips of our sets and their Ogg Vorbis copies, below 0.957 for different speakers."""
_PRINT_BANDS, _PRINT_STEPS = 24, 32
_FLOOR_DB = -120.0
_SHOWN = 8
_WIDTH = 100
_MAX_SPLITS = 6


class ClipFacts(msgspec.Struct, frozen=True):
    """What was found in one file."""

    seconds: float
    rate_hz: int
    channels: int
    peak_dbfs: float
    loudest_dbfs: float
    """RMS of the loudest 10 ms."""
    clipped_share: float
    digest: str
    """SHA-256 of the decoded samples."""


class Finding(msgspec.Struct, frozen=True):
    """One kind of problem or remark with the places where it is found."""

    kind: str
    text: str
    where: list[str]
    """Each a path, a group or a set of paths."""


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """Everything `check_folder` found; ``--json`` prints it."""

    folder: str
    layout: str
    clips: int
    groups: int
    hours: float
    seconds: list[float]
    """Shortest, median, longest clip."""
    rates_hz: dict[int, int]
    """Rate -> clips."""
    channels: dict[int, int]
    """Channels -> clips."""
    loudest_dbfs: list[float]
    """Quietest, median, loudest clip, by the RMS of its loudest 10 ms."""
    classes: dict[str, dict[str, int]]
    """Label -> split -> clips."""
    class_groups: dict[str, int]
    """Label -> groups."""
    problems: list[Finding]
    remarks: list[Finding]


def check_folder(folder: Path, layout: str | None = None) -> CheckResult:
    """Read every clip of a data set and say what is wrong with it.

    Args:
        folder: Of the data set.
        layout: Name of its layout; None recognises it.

    Raises:
        DataError: If the folder has no clips in a known layout.
    """
    listing = read_folder(folder, layout)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        inspected = list(pool.map(lambda row: _inspect(folder / row.path), listing.rows))
    broken = [str(one) for one in inspected if isinstance(one, DataError)]
    good = [
        (row, facts, print_)
        for row, one in zip(listing.rows, inspected, strict=True)
        if not isinstance(one, DataError)
        for facts, print_ in [one]
    ]
    rows = [row for row, _, _ in good]
    facts = [one for _, one, _ in good]
    problems = [Finding("broken", "files that cannot be used", broken)] if broken else []
    problems += _find_shared_groups(rows)
    same, sides = _find_duplicates(rows, facts)
    problems += sides
    remarks = [Finding("layout", note, []) for note in listing.notes]
    remarks += [*_find_odd_levels(rows, facts), *same]
    remarks += _find_near_duplicates(rows, facts, np.array([p for _, _, p in good], np.float32))
    remarks += _find_rare_classes(listing)
    seconds = [one.seconds for one in facts]
    loudest = [one.loudest_dbfs for one in facts]
    return CheckResult(
        folder=str(folder),
        layout=listing.layout,
        clips=len(listing.rows),
        groups=len({row.group for row in listing.rows}),
        hours=round(sum(seconds) / 3600, 3),
        seconds=_quantiles(seconds, 3),
        rates_hz=dict(sorted(Counter(one.rate_hz for one in facts).items())),
        channels=dict(sorted(Counter(one.channels for one in facts).items())),
        loudest_dbfs=_quantiles(loudest, 1),
        classes=_count_classes(listing),
        class_groups={
            label: len({row.group for row in listing.rows if label in row.labels})
            for label in _labels(listing)
        },
        problems=problems,
        remarks=remarks,
    )


def _inspect(path: Path) -> tuple[ClipFacts, NDArray[np.float32]] | DataError:
    try:
        audio, rate_hz = read_audio(path)
    except DataError as error:
        return error
    mono = audio.mean(axis=1)
    frame = max(1, rate_hz // 100)
    padded = np.pad(mono, (0, -len(mono) % frame)).reshape(-1, frame)
    loudest = float(np.sqrt(np.square(padded).mean(axis=1).max()))
    size = np.abs(audio)
    facts = ClipFacts(
        seconds=len(audio) / rate_hz,
        rate_hz=rate_hz,
        channels=audio.shape[1],
        peak_dbfs=_to_db(float(size.max())),
        loudest_dbfs=_to_db(loudest),
        clipped_share=float((size >= FULL_SCALE).mean()),
        digest=hashlib.sha256(f"{rate_hz} {audio.shape}".encode() + audio.tobytes()).hexdigest(),
    )
    return facts, _fingerprint(mono)


def _to_db(amplitude: float) -> float:
    return max(_FLOOR_DB, 20 * float(np.log10(max(amplitude, 1e-12))))


def _fingerprint(mono: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a coarse log spectrogram of the whole clip as one vector of length 1.

    Its mean is removed, so that it does not depend on the level; a copy that was encoded again or
    made louder keeps it. ``[_PRINT_BANDS * _PRINT_STEPS]`` float32.
    """
    step = max(64, -(-len(mono) // _PRINT_STEPS))
    padded = np.pad(mono, (0, step * _PRINT_STEPS - len(mono))).reshape(_PRINT_STEPS, step)
    power = np.square(np.abs(np.fft.rfft(padded * np.hanning(step).astype(np.float32), axis=1)))
    # Bands of equal width in the logarithm, from the second bin on: the first is the offset.
    edges = np.geomspace(1, power.shape[1], _PRINT_BANDS + 1).astype(int)
    edges = np.maximum(edges, np.arange(_PRINT_BANDS + 1) + 1).clip(max=power.shape[1])
    sums = np.concatenate([np.zeros((_PRINT_STEPS, 1)), power.cumsum(axis=1)], axis=1)
    bands = sums[:, edges[1:]] - sums[:, edges[:-1]]
    # What lies 60 dB below the loudest is noise of the encoding.
    levels = np.log10(bands + 1e-6 * bands.max() + 1e-12)
    levels -= levels.mean()
    return (levels / (np.linalg.norm(levels) + 1e-9)).astype(np.float32).ravel()


def _find_shared_groups(rows: Sequence[ManifestRow]) -> list[Finding]:
    sides: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        sides[row.group].add(side_of(row.split))
    shared = [
        f"{group}: {', '.join(sorted(own))}" for group, own in sorted(sides.items()) if len(own) > 1
    ]
    text = (
        "groups on several sides of the data set's own split; a score on it tells nothing about "
        "new speakers or recordings: hold out whole groups (--fold, --hold-out)"
    )
    return [Finding("shared-groups", text, shared)] if shared else []


def _find_duplicates(
    rows: Sequence[ManifestRow], facts: Sequence[ClipFacts]
) -> tuple[list[Finding], list[Finding]]:
    """Return (remarks, problems) about clips with the same samples."""
    by_digest: dict[str, list[ManifestRow]] = defaultdict(list)
    for row, one in zip(rows, facts, strict=True):
        by_digest[one.digest].append(row)
    twins = [own for own in by_digest.values() if len(own) > 1]
    kinds: dict[str, list[str]] = {"labels": [], "splits": [], "groups": [], "harmless": []}
    for own in twins:
        if len({row.label for row in own}) > 1:
            kind = "labels"
        elif len({side_of(row.split) for row in own}) > 1:
            kind = "splits"
        else:
            kind = "groups" if len({row.group for row in own}) > 1 else "harmless"
        kinds[kind].append(" = ".join(f"{row.path}" for row in own))
    texts = {
        "labels": "the same audio under different labels; correct one or remove both",
        "splits": "the same audio on different sides of the split; remove one",
        "groups": "the same audio in different groups, so that a split may part them; remove one",
    }
    problems = [
        Finding(f"duplicates-across-{kind}", text, kinds[kind])
        for kind, text in texts.items()
        if kinds[kind]
    ]
    text = "the same audio twice in one group"
    return ([Finding("duplicates", text, kinds["harmless"])] if kinds["harmless"] else []), problems


def _find_near_duplicates(
    rows: Sequence[ManifestRow], facts: Sequence[ClipFacts], prints: NDArray[np.float32]
) -> list[Finding]:
    """Find pairs of different groups whose spectrograms are alike, but not their samples."""
    pairs = []
    block = 1024
    for first in range(0, len(rows), block):
        alike = prints[first : first + block] @ prints.T
        for i, j in np.argwhere(alike > NEAR_COSINE):
            i += first
            same = rows[i].group == rows[j].group or facts[i].digest == facts[j].digest
            quiet = min(facts[i].loudest_dbfs, facts[j].loudest_dbfs) < SILENT_DBFS
            if i < j and not same and not quiet:
                pairs.append(f"{rows[i].path} ~ {rows[j].path}")
    text = "clips of different groups that sound like one recording; listen, then give one group"
    return [Finding("near-duplicates", text, pairs)] if pairs else []


def _find_odd_levels(rows: Sequence[ManifestRow], facts: Sequence[ClipFacts]) -> list[Finding]:
    pairs = list(zip(rows, facts, strict=True))
    silent = [row.path for row, one in pairs if one.loudest_dbfs < SILENT_DBFS]
    clipped = [row.path for row, one in pairs if one.clipped_share >= CLIPPED_SHARE]
    findings = []
    if silent:
        text = f"silent clips (nothing above {SILENT_DBFS:g} dBFS); is their label right?"
        findings.append(Finding("silent", text, silent))
    if clipped:
        text = f"clipped clips (over {CLIPPED_SHARE:.1%} of the samples at full scale)"
        findings.append(Finding("clipped", text, clipped))
    if len({one.rate_hz for one in facts}) > 1:
        text = "clips of several rates: all are resampled to the model's"
        findings.append(Finding("rates", text, []))
    return findings


def _find_rare_classes(listing: Listing) -> list[Finding]:
    counts = {label: sum(own.values()) for label, own in _count_classes(listing).items()}
    most = max(counts.values())
    rare = [f"{label}: {n} clips" for label, n in counts.items() if n < RARE_SHARE * most]
    single = [
        label
        for label in counts
        if len({row.group for row in listing.rows if label in row.labels}) == 1
    ]
    findings = []
    if rare:
        text = f"classes with less than {RARE_SHARE:.0%} of the largest one's {most} clips"
        findings.append(Finding("rare-classes", f"{text}; they are drawn more often", rare))
    if single:
        text = "classes of one group only: on it a model can be trained or measured, not both"
        findings.append(Finding("one-group-classes", text, single))
    return findings


def _labels(listing: Listing) -> list[str]:
    return sorted({label for row in listing.rows for label in row.labels})


def _count_classes(listing: Listing) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {label: Counter() for label in _labels(listing)}
    for row in listing.rows:
        for label in row.labels:
            counts[label][row.split] += 1
    return {label: dict(sorted(own.items())) for label, own in counts.items()}


def _quantiles(values: Sequence[float], digits: int) -> list[float]:
    if not values:
        return []
    return [round(float(v), digits) for v in np.quantile(values, [0, 0.5, 1])]


def format_result(result: CheckResult) -> str:
    """Return the result as text for people."""
    splits = sorted({split for own in result.classes.values() for split in own})
    lines = [
        f"{result.folder}: {result.clips} clips of {len(result.classes)} classes and "
        f"{result.groups} groups, {result.hours:.2f} h, layout {result.layout}",
    ]
    if result.seconds:
        shortest, median, longest = result.seconds
        quietest, typical, loudest = result.loudest_dbfs
        level = f"{quietest:.0f} to {loudest:.0f} dBFS, median {typical:.0f}"
        lines += [
            f"durations  {shortest:.2f} s to {longest:.2f} s, median {median:.2f} s",
            f"rates      {_format_counts(result.rates_hz, 'Hz')}",
            f"channels   {_format_counts(result.channels, '')}",
            f"levels     {level} (RMS of the loudest 10 ms)",
        ]
    if len(splits) > _MAX_SPLITS:  # a speaker each, say: the sums are enough
        columns = [("clips", lambda own: sum(own.values()))]
    else:
        columns = [(split or "(no split)", lambda own, s=split: own.get(s, 0)) for split in splits]
    width = max(5, *(len(label) for label in result.classes))
    lines += ["", "  ".join([f"{'class':<{width}}", *(f"{n:>8}" for n, _ in columns), "  groups"])]
    for label, own in result.classes.items():
        counts = [f"{count(own):>{max(8, len(name))}}" for name, count in columns]
        lines.append("  ".join([f"{label:<{width}}", *counts, f"{result.class_groups[label]:>8}"]))
    for title, findings in (("PROBLEM", result.problems), ("remark", result.remarks)):
        for one in findings:
            number = f" ({len(one.where)})" if one.where else ""
            heading = f"{title} {one.kind}{number}: {one.text}"
            lines += ["", *textwrap.wrap(heading, _WIDTH)]
            lines += [f"  {place}" for place in one.where[:_SHOWN]]
            if len(one.where) > _SHOWN:
                lines.append(f"  ... and {len(one.where) - _SHOWN} more (all with --json)")
    n = len(result.problems)
    lines += ["", "no problems" if n == 0 else f"{n} problem{'s' * (n > 1)}"]
    return "\n".join(lines)


def _format_counts(counts: dict[int, int], unit: str) -> str:
    return ", ".join(f"{value} {unit}".strip() + f" ({n} clips)" for value, n in counts.items())
