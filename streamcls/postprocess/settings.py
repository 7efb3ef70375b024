"""What decides when a score becomes an event: the ``[events]`` table, in seconds and probabilities.

Nothing here counts predictions, so that the hop can change without changing the events. The
dataclasses are plain data for the configuration to read and print; `rules` turns them into one
set of numbers per class. A key that is None is inherited (see `EventSettings`). In the file
``class_`` is written ``class``.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from msgspec import Meta

# No control characters. A look-ahead, because `$` would let a final newline through.
Label = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^(?![\s\S]*[\x00-\x1f\x7f])")]
Labels = Annotated[tuple[Label, ...], Meta(max_length=10_000)]

OnsetProbability = Annotated[float, Meta(ge=0.01, le=1)]
"""From 0 on everything would be a sound."""
OnsetThreshold = Annotated[
    OnsetProbability | None,
    Meta(description="Probability from which a sound begins (default: the model's own, or 0.6)."),
]
OffsetThreshold = Annotated[
    Annotated[float, Meta(ge=0, le=1)] | None,
    Meta(description="Probability below which it ends (default: 2/3 of the onset threshold)."),
]
Smoothing = Annotated[
    float, Meta(ge=0, le=10_000, description="Time constant of the score's low-pass; 0 is none.")
]
MinDuration = Annotated[
    float, Meta(ge=0, le=60_000, description="A sound must last this long to be an event.")
]
MinGap = Annotated[
    float, Meta(ge=0, le=60_000, description="A shorter pause does not end a sound.")
]
Cooldown = Annotated[
    float, Meta(ge=0, le=86_400, description="Quiet time after an event of the same class.")
]
Confirm = Annotated[
    float,
    Meta(ge=0, le=60_000, description="Time above the onset threshold needed within the window."),
]
ConfirmWindow = Annotated[
    float, Meta(ge=0, le=60_000, description="The window in which confirm_ms must come together.")
]
UpdateInterval = Annotated[
    float, Meta(ge=0, le=86_400, description="Time between updates of a long event; 0 is never.")
]
Allow = Annotated[
    Labels, Meta(description="Only these classes and groups give events; empty allows all.")
]
Deny = Annotated[Labels, Meta(description="These give none (wins over allow).")]


@dataclass(frozen=True, slots=True)
class ClassSettings:
    """``[events.class.LABEL]``: what is different for one class; None inherits."""

    onset_threshold: OnsetThreshold = None
    offset_threshold: OffsetThreshold = None
    smoothing_ms: Smoothing | None = None
    min_duration_ms: MinDuration | None = None
    min_gap_ms: MinGap | None = None
    cooldown_s: Cooldown | None = None
    confirm_ms: Confirm | None = None
    confirm_window_ms: ConfirmWindow | None = None
    update_interval_s: UpdateInterval | None = None


@dataclass(frozen=True, slots=True)
class GroupSettings(ClassSettings):
    """``[events.group.NAME]``: several classes reported as one, under the group's name."""

    labels: Annotated[Labels, Meta(description="The classes that make up the group.")] = ()


@dataclass(frozen=True, slots=True)
class NoiseFloorSettings:
    """``[events.noise_floor]``: raise the thresholds of classes that are never quiet here."""

    enabled: Annotated[bool, Meta(description="Adapt the onset thresholds to this place.")] = False
    quantile: Annotated[
        float, Meta(ge=0.5, le=0.999, description="The floor is this quantile of the score.")
    ] = 0.9
    memory_s: Annotated[
        float, Meta(ge=1, le=86_400, description="Time constant with which scores are forgotten.")
    ] = 30.0
    margin: Annotated[
        float, Meta(ge=0, le=1, description="A sound must rise this far above the floor.")
    ] = 0.2
    ceiling: Annotated[
        float, Meta(ge=0.01, le=1, description="Adaptation raises no threshold beyond this.")
    ] = 0.95


@dataclass(frozen=True, slots=True)
class StreamEventSettings(ClassSettings):
    """``[streams.NAME.events]``: what is different for one stream; None inherits."""

    allow: Allow | None = None
    deny: Deny | None = None
    class_: Mapping[Label, ClassSettings] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EventSettings:
    """``[events]``: how scores become events.

    The nearest word wins: class table of the stream, class table, stream, this table, the
    model's own threshold, default.
    """

    onset_threshold: OnsetThreshold = None
    offset_threshold: OffsetThreshold = None
    smoothing_ms: Smoothing = 0.0
    min_duration_ms: MinDuration = 160.0
    min_gap_ms: MinGap = 240.0
    cooldown_s: Cooldown = 0.0
    confirm_ms: Confirm = 0.0
    confirm_window_ms: ConfirmWindow = 1000.0
    update_interval_s: UpdateInterval = 1.0
    allow: Allow = ()
    deny: Deny = ()
    near_miss_margin: Annotated[
        float,
        Meta(ge=0, le=1, description="Report scores that stay this little below the onset."),
    ] = 0.1
    near_miss_interval_s: Annotated[
        float, Meta(ge=0, le=86_400, description="At most one near miss per class in this time.")
    ] = 10.0
    noise_floor: NoiseFloorSettings = field(default_factory=NoiseFloorSettings)
    class_: Mapping[Label, ClassSettings] = field(default_factory=dict)
    group: Mapping[Label, GroupSettings] = field(default_factory=dict)


_Settings = TypeVar("_Settings", EventSettings, ClassSettings)
_CLASS_KEYS = tuple(one.name for one in dataclasses.fields(ClassSettings))


def override(settings: _Settings, nearer: ClassSettings) -> _Settings:
    """Return ``settings`` with every key of `ClassSettings` that ``nearer`` sets."""
    found = {key: value for key in _CLASS_KEYS if (value := getattr(nearer, key)) is not None}
    return dataclasses.replace(settings, **found) if found else settings


def settle_for_stream(settings: EventSettings, stream: StreamEventSettings) -> EventSettings:
    """Return what holds for one stream.

    Example:
        >>> porch = StreamEventSettings(cooldown_s=5.0, class_={"dog": ClassSettings(0.8)})
        >>> settled = settle_for_stream(EventSettings(smoothing_ms=100.0), porch)
        >>> settled.smoothing_ms, settled.cooldown_s, settled.class_["dog"].onset_threshold
        (100.0, 5.0, 0.8)
    """
    classes = dict(settings.class_)
    for label, nearer in stream.class_.items():
        classes[label] = override(classes.get(label, ClassSettings()), nearer)
    return dataclasses.replace(
        override(settings, stream),
        allow=settings.allow if stream.allow is None else stream.allow,
        deny=settings.deny if stream.deny is None else stream.deny,
        class_=classes,
    )


def change_thresholds(
    events: EventSettings, label: str | None, onset: float | None, offset: float | None
) -> EventSettings:
    """Return settings with other thresholds, of one label or all without their own; None: same."""
    changes = {"onset_threshold": onset, "offset_threshold": offset}
    changes = {key: value for key, value in changes.items() if value is not None}
    if label is None:
        return dataclasses.replace(events, **changes)
    nearer = dataclasses.replace(events.class_.get(label, ClassSettings()), **changes)
    return dataclasses.replace(events, class_={**events.class_, label: nearer})
