"""From the settings and the model's labels to one set of numbers for everything that is reported.

A *track* is one name that can be reported: a group, or a class outside every group. Runs once per
detector, on whatever thread builds it.
"""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from streamcls.errors import ConfigError
from streamcls.postprocess.settings import ClassSettings, EventSettings, override
from streamcls.units import NS_PER_S

DEFAULT_ONSET_THRESHOLD = 0.6
OFFSET_PER_ONSET = 2 / 3
"""Offset threshold where none is set, as a share of the onset threshold."""

_NS_PER_MS = NS_PER_S // 1000


@dataclass(frozen=True, slots=True)
class TrackRules:
    """Everything that decides about one track; probabilities and nanoseconds."""

    label: str
    members: tuple[int, ...]
    """Indices of its classes in the model's posterior."""
    onset_threshold: float
    offset_threshold: float
    near_threshold: float
    smoothing_ns: int
    min_duration_ns: int
    min_gap_ns: int
    cooldown_ns: int
    confirm_ns: int
    confirm_window_ns: int
    update_interval_ns: int
    near_miss_interval_ns: int
    denied: bool


def resolve_rules(
    settings: EventSettings,
    labels: Sequence[str],
    thresholds: Mapping[str, float],
    unknown_labels: Sequence[str],
) -> list[TrackRules]:
    """Return the rules of all tracks: groups in order of the settings, then classes as in labels.

    A class that means "nothing I know" has no track unless it is in `allow`, in a group or has
    its own table.

    Args:
        settings: As they hold for the stream.
        labels: The model's classes in posterior order.
        thresholds: The model's own onset thresholds, where it has any.
        unknown_labels: Classes that mean "nothing I know".

    Raises:
        ConfigError: With every problem found: names that the model does not have, thresholds
            that contradict each other.
    """
    problems = list(_find_stranger_problems(settings, labels))
    alike: list[TrackRules] = []  # of the classes without a table of their own
    index = {label: position for position, label in enumerate(labels)}
    grouped = {label for group in settings.group.values() for label in group.labels}
    wanted = {*settings.allow, *settings.class_}
    rules = []
    for name, group in settings.group.items():
        members = tuple(sorted({index[label] for label in group.labels if label in index}))
        own = [thresholds[labels[i]] for i in members if labels[i] in thresholds]
        rules.append(_track_rules(name, members, settings, group, min(own, default=None)))
        problems += _find_threshold_problems(f"events.group.{_key(name)}", rules[-1:], settings)
    for position, label in enumerate(labels):
        if label in grouped or (label in unknown_labels and label not in wanted):
            continue
        nearest = settings.class_.get(label, ClassSettings())
        own_threshold = thresholds.get(label)
        rules.append(_track_rules(label, (position,), settings, nearest, own_threshold))
        if label in settings.class_:
            where = f"events.class.{_key(label)}"
            problems += _find_threshold_problems(where, rules[-1:], settings)
        else:
            alike.append(rules[-1])
    if alike:
        problems += _find_threshold_problems("events", alike, settings)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return rules


def find_rule_problems(
    settings: EventSettings,
    labels: Sequence[str],
    thresholds: Mapping[str, float],
    unknown_labels: Sequence[str],
) -> list[str]:
    """Return what `resolve_rules` would refuse; nothing where it would not."""
    try:
        resolve_rules(settings, labels, thresholds, unknown_labels)
    except ConfigError as error:
        return error.problems
    return []


def _track_rules(
    name: str,
    members: tuple[int, ...],
    settings: EventSettings,
    nearest: ClassSettings,
    own_threshold: float | None,
) -> TrackRules:
    merged = override(settings, nearest)
    onset = merged.onset_threshold
    if onset is None:
        onset = DEFAULT_ONSET_THRESHOLD if own_threshold is None else own_threshold
    offset = merged.offset_threshold
    if offset is None:
        offset = onset * OFFSET_PER_ONSET
    return TrackRules(
        label=name,
        members=members,
        onset_threshold=onset,
        offset_threshold=offset,
        near_threshold=max(offset, onset - settings.near_miss_margin),
        smoothing_ns=round(merged.smoothing_ms * _NS_PER_MS),
        min_duration_ns=round(merged.min_duration_ms * _NS_PER_MS),
        min_gap_ns=round(merged.min_gap_ms * _NS_PER_MS),
        cooldown_ns=round(merged.cooldown_s * NS_PER_S),
        confirm_ns=round(merged.confirm_ms * _NS_PER_MS),
        confirm_window_ns=round(merged.confirm_window_ms * _NS_PER_MS),
        update_interval_ns=round(merged.update_interval_s * NS_PER_S),
        near_miss_interval_ns=round(settings.near_miss_interval_s * NS_PER_S),
        denied=name in settings.deny or bool(settings.allow and name not in settings.allow),
    )


def _find_stranger_problems(settings: EventSettings, labels: Sequence[str]) -> Iterator[str]:
    """Yield each name in the settings that means nothing to the model."""
    known = set(labels)
    grouped: set[str] = set()
    for name, group in settings.group.items():
        where = f"events.group.{_key(name)}"
        if not name.isprintable():  # as labels must be; a space that does not break is not
            yield f"{where}: {name!a} has a sign that cannot be printed; rename the group"
        if not group.labels:
            yield f"{where}.labels: empty; name the classes that the group is made of"
        if name in known and name not in group.labels:
            yield f"{where}: there is a class of that name outside the group; rename the group"
        for label in group.labels:
            if label not in known:
                yield _stranger(f"{where}.labels", label, labels, "class")
        grouped.update(group.labels)
    for label in settings.class_:
        if label not in known:
            yield _stranger(f"events.class.{_key(label)}", label, labels, "class")
        elif label in grouped:
            yield (
                f"events.class.{_key(label)}: the class is reported as part of a group; "
                f"set the key in the group's table"
            )
    reported = [*settings.group, *(label for label in labels if label not in grouped)]
    for key, names in (("allow", settings.allow), ("deny", settings.deny)):
        for name in names:
            if name not in reported:
                yield _stranger(f"events.{key}", name, reported, "class or group")


def _stranger(where: str, name: str, known: Sequence[str], what: str) -> str:
    near = difflib.get_close_matches(name, known, 1)
    shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    remedy = f"did you mean {near[0]!r}?" if near else f"there are: {shown}"
    return f"{where}: {name!r} is no {what} that this model reports; {remedy}"


def _find_threshold_problems(
    where: str, rules: Sequence[TrackRules], settings: EventSettings
) -> Iterator[str]:
    """Yield what contradicts itself in the tracks of one table, which differ in the onset only.

    The worst stands for all of them: the same sentence for each of 521 classes helps nobody.
    """
    lowest = min(rules, key=lambda track: track.onset_threshold)
    highest = max(rules, key=lambda track: track.onset_threshold)
    if lowest.offset_threshold > lowest.onset_threshold:
        whose = _whose(lowest, rules, "lowest")
        yield (
            f"{where}: offset_threshold = {lowest.offset_threshold:g} is above onset_threshold = "
            f"{lowest.onset_threshold:g}{whose}; a sound would end before it begins: "
            f"lower the one or raise the other"
        )
    if lowest.confirm_ns > lowest.confirm_window_ns:
        yield (
            f"{where}: confirm_ms = {lowest.confirm_ns / _NS_PER_MS:g} does not fit into "
            f"confirm_window_ms = {lowest.confirm_window_ns / _NS_PER_MS:g}; raise the window"
        )
    ceiling = settings.noise_floor.ceiling
    if settings.noise_floor.enabled and highest.onset_threshold > ceiling:
        whose = _whose(highest, rules, "highest")
        yield (
            f"events.noise_floor.ceiling = {ceiling:g} is below onset_threshold = "
            f"{highest.onset_threshold:g}{whose}; raise the ceiling"
        )


def _whose(track: TrackRules, rules: Sequence[TrackRules], rank: str) -> str:
    """Say which track's onset threshold it is, if not that of all."""
    if len(rules) == 1:
        return f" of {track.label!r}"
    is_shared = all(one.onset_threshold == track.onset_threshold for one in rules)
    return "" if is_shared else f" of {track.label!r}, the {rank}"


def _key(name: str) -> str:
    return name if name.replace("-", "_").isidentifier() else json.dumps(name)
