"""The records that travel between the stages: capture -> ring -> engine -> postprocess -> publish.

Plain frozen dataclasses without behaviour, so that every stage can import them and none of
the stages has to import another for a type.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Block:
    """What a source delivers in one read: native rate, native channels.

    Attributes:
        samples: ``[frames, channels]`` float32 in [-1, 1] or int16, owned by the receiver.
        t_first_ns: Time of the first sample by the source's clock, on this machine's monotonic
            clock, ns. It becomes UTC only when somebody asks (`Ring.time_ns`), so that setting the
            system clock neither tears the stream nor leaves it behind.
        lost_frames: Frames (native rate) known lost immediately before this block.
        xruns: Driver overflows reported since the previous block.
    """

    samples: NDArray[np.float32] | NDArray[np.int16]
    t_first_ns: int
    lost_frames: int = 0
    xruns: int = 0


class Hop(NamedTuple):
    """One hop of consecutive audio as read from a stream's ring, at the model's rate."""

    sample_start: int
    """Absolute index of the first sample (counts lost samples too)."""
    n_real: int
    """Samples that are real audio; fewer than the hop only at the end of a finite stream."""
    lost_samples: int
    """Samples lost (by driver or overrun) between the previous hop and this one; 0 = contiguous.
    When positive the receiver starts a new epoch."""
    nonfinite: bool = False
    """NaN or infinite samples arrived within the hop (and were replaced by zeros)."""


class Flag(StrEnum):
    """What a subscriber should know about the audio behind a prediction."""

    CLIPPED = "clipped"
    """At least one sample of the window reached full scale."""
    SILENT = "silent"
    """The whole window is below the silence floor (-80 dBFS RMS in every hop)."""
    NONFINITE = "nonfinite"
    """NaN or infinite samples arrived; they were replaced by zeros."""
    PADDED = "padded"
    """The stream ended inside this window; the rest was filled with zeros."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One window's posterior with everything needed to place it in the stream and in time.

    Attributes:
        stream: Name of the stream.
        epoch: Increases by one whenever audio was lost and the state was reset.
        sample_start: Absolute index of the first sample of the window.
        sample_end: Index one past the last real sample of the window.
        sample_rate_hz: Rate the indices count in (the model's).
        t_start_ns: UTC of ``sample_start`` by the capture clock, ns since the epoch.
        t_end_ns: UTC of ``sample_end``.
        level_dbfs: RMS level of the newest hop; full-scale square wave = 0, floor -120.
        flags: What the audio of the window suffered.
        probabilities: ``[classes]`` float32 in [0, 1], in the order of the model's labels.
    """

    stream: str
    epoch: int
    sample_start: int
    sample_end: int
    sample_rate_hz: int
    t_start_ns: int
    t_end_ns: int
    level_dbfs: float
    flags: tuple[Flag, ...]
    probabilities: FloatArray


class EventState(StrEnum):
    """Where in its life an event is."""

    ONSET = "onset"
    UPDATE = "update"
    OFFSET = "offset"


@dataclass(frozen=True, slots=True)
class Event:
    """What is to be said about one detected sound; every onset is followed by one offset.

    Attributes:
        stream: Name of the stream.
        id: The same in all records of one sound, never used again, not even after a restart.
        state: First, intermediate or last record of the sound.
        label: Class or group that sounded.
        onset_ns: UTC when it began, ns since the epoch; the same in all records of the sound.
        offset_ns: UTC when it ended, >= `onset_ns`; None until the offset.
        peak_score: Largest smoothed probability since the onset.
        mean_score: Mean over time of the smoothed probability since the onset.
        reason: Of an offset, why the sound ended: ``score`` (fell below the offset threshold) or
            why it was cut short: ``lost``, ``ended``, ``reload``, ``removed``, ``shutdown``.
            Empty before.
    """

    stream: str
    id: str
    state: EventState
    label: str
    onset_ns: int
    offset_ns: int | None
    peak_score: float
    mean_score: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A detection that was held back, reported once, when it is over.

    Attributes:
        stream: Name of the stream.
        label: Class or group that would have been reported.
        reason: ``below_threshold``, ``too_short``, ``not_confirmed``, ``cooldown`` or ``denied``.
        detail: The value and the limit it failed, for people.
        onset_ns: UTC when it began, ns since the epoch.
        offset_ns: UTC when it was over.
        peak_score: Largest smoothed probability in between.
        threshold: Onset threshold in force.
    """

    stream: str
    label: str
    reason: str
    detail: str
    onset_ns: int
    offset_ns: int
    peak_score: float
    threshold: float


class HealthState(StrEnum):
    """Liveness of a stream's source."""

    STARTING = "starting"
    LIVE = "live"
    SILENT = "silent"
    """Audio arrives, but has been digital silence for long (muted or dead microphone)."""
    LOST = "lost"
    RECOVERING = "recovering"
    FAILED = "failed"
    """Gave up (a source that cannot come back, such as a corrupt file)."""
    ENDED = "ended"
    """A finite source was read to its end."""


@dataclass(frozen=True, slots=True)
class Health:
    """A stream's state with its running totals since start (samples at the model's rate)."""

    stream: str
    state: HealthState
    captured_samples: int
    dropped_samples: int
    """All samples lost, whatever the cause: driver, ring overrun, source outage where known."""
    xruns: int
    overruns: int
    nonfinite_samples: int
    reason: str
    drift_ppm: float | None = None
    """How much faster than this machine's the source's clock runs, in millionths; None: unknown."""
