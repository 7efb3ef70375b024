"""The wire contract ``streamcls/1``: message structs, topics, and their encodings.

Imported by the publisher on one side and by every client on the other, so it depends on
msgspec only (no numpy, no jax, no sockets). `docs/protocol.md` is the prose to this file and
`docs/protocol.schema.json` is generated from it: ``python -m streamcls.publish.schema``.

Compatibility: within version 1 fields are only ever added, with defaults here, and decoding
ignores fields it does not know. Open sets (`flags`, health `state`) are therefore plain
strings on the wire.
"""

import json
import re
import secrets
import time
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from streamcls.errors import PublishError, StreamclsError
from streamcls.units import NS_PER_S

SCHEMA = "streamcls/1"
HEARTBEAT_TOPIC = "heartbeat/"
DATA_TYPES = ("prediction", "event", "health")
"""What a subscriber hears unless it says otherwise."""
STREAM_TYPES = (*DATA_TYPES, "rejected")
"""The message types that belong to a stream and carry its sequence numbers."""

MESSAGE_LIMIT_BYTES = 16 * 1024 * 1024
"""What a subscriber must be ready to take; libzmq ends the connection at more. A heartbeat is the
longest message: it names every sequence of its daemon, thousands where there are many streams."""
LABEL_LIMIT_CHARS = 128
_STREAM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Encoding = Literal["json", "msgpack"]
StreamType = Literal["prediction", "event", "health", "rejected"]
Count = Annotated[int, Meta(ge=0)]
Probability = Annotated[float, Meta(ge=0, le=1)]
# Numbers have limits where what shows them has some; any limit refuses NaN, too.
UtcNs = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]


class ProtocolError(StreamclsError):
    """The other side speaks another version of the protocol."""


class Envelope(Struct, frozen=True, kw_only=True, tag_field="type"):
    """What every message carries, besides ``type``."""

    schema: Annotated[Literal["streamcls/1"], Meta(description="protocol and version")] = SCHEMA
    run: Annotated[str, Meta(description="id of this daemon start; a new one restarts every seq")]
    stream: Annotated[str, Meta(description="name of the stream; empty in a heartbeat")]
    seq: Annotated[int, Meta(ge=0, description="per run, stream and type: 0, 1, 2, ...")]
    published_ns: Annotated[UtcNs, Meta(description="UTC when the publisher encoded it, ns")]
    recovered: Annotated[
        bool | UnsetType,
        Meta(description="true where a client fetched it by replay; never sent by the daemon"),
    ] = UNSET

    def age_s(self, now_ns: int | None = None) -> float:
        """Return the seconds since the daemon encoded it, by the clocks of both machines.

        Args:
            now_ns: UTC to compare with, ns since the epoch; None: now.
        """
        return ((time.time_ns() if now_ns is None else now_ns) - self.published_ns) / NS_PER_S


class PredictionMessage(Envelope, frozen=True, kw_only=True, tag="prediction"):
    """One window of audio and what the model makes of it."""

    model: Annotated[str, Meta(description="name of the model")]
    epoch: Annotated[int, Meta(ge=0, description="grows by one whenever audio was lost")]
    sample_start: Annotated[int, Meta(description="absolute index of the window's first sample")]
    sample_end: Annotated[int, Meta(description="index one past the window's last real sample")]
    sample_rate_hz: Annotated[int, Meta(gt=0, description="rate the indices count in, Hz")]
    t_start_ns: Annotated[UtcNs, Meta(description="UTC of sample_start by the capture clock, ns")]
    t_end_ns: Annotated[UtcNs, Meta(description="UTC of sample_end by the capture clock, ns")]
    level_dbfs: Annotated[float, Meta(ge=-120, description="RMS level of the newest hop, dBFS")]
    flags: Annotated[
        tuple[str, ...], Meta(description="open set: clipped, silent, nonfinite, padded, ...")
    ]
    scores: Annotated[
        dict[str, Probability], Meta(description="label -> probability, the top_k, best first")
    ]


class EventMessage(Envelope, frozen=True, kw_only=True, tag="event"):
    """One sound from onset to offset; every onset gets exactly one offset."""

    id: Annotated[str, Meta(description="the same in all messages of one event")]
    state: Annotated[
        Literal["onset", "update", "offset"], Meta(description="where in its life the event is")
    ]
    label: Annotated[str, Meta(description="the class or group that sounded")]
    onset_ns: Annotated[UtcNs, Meta(description="UTC when it began, ns")]
    offset_ns: Annotated[
        UtcNs | None, Meta(description="UTC when it ended, ns; null until the offset")
    ] = None
    peak_score: Annotated[float, Meta(ge=0, le=1, description="largest probability so far")]
    mean_score: Annotated[float, Meta(ge=0, le=1, description="mean probability so far")]
    clip: Annotated[
        str | None, Meta(description="name of the saved recording; null when none is kept")
    ] = None
    reason: Annotated[
        str,
        Meta(
            description="why it ended, empty before; open set: "
            "score, lost, ended, reload, removed, shutdown"
        ),
    ] = ""


class RejectedMessage(Envelope, frozen=True, kw_only=True, tag="rejected"):
    """A detection that was held back, told once, when it is over."""

    label: Annotated[str, Meta(description="the class or group that would have been reported")]
    reason: Annotated[
        str,
        Meta(description="open set: below_threshold, too_short, not_confirmed, cooldown, denied"),
    ]
    detail: Annotated[str, Meta(description="the value and the limit it failed, for people")]
    onset_ns: Annotated[UtcNs, Meta(description="UTC when it began, ns")]
    offset_ns: Annotated[UtcNs, Meta(description="UTC when it was over, ns")]
    peak_score: Annotated[float, Meta(ge=0, le=1, description="largest probability in between")]
    threshold: Annotated[float, Meta(ge=0, le=1, description="onset threshold in force")]


class HealthMessage(Envelope, frozen=True, kw_only=True, tag="health"):
    """A stream's liveness, with its running totals since the daemon started."""

    state: Annotated[
        str,
        Meta(description="open set: starting, live, silent, lost, recovering, failed, ended"),
    ]
    dropped_samples: Annotated[int, Meta(ge=0, description="samples lost, whatever the cause")]
    xruns: Annotated[int, Meta(ge=0, description="losses reported by the audio driver")]
    overruns: Annotated[int, Meta(ge=0, description="losses because the daemon fell behind")]
    reason: Annotated[str, Meta(description="why, for people; may be empty")]
    captured_samples: Annotated[
        int, Meta(ge=0, description="samples received, at the model's rate")
    ] = 0
    nonfinite_samples: Annotated[
        int, Meta(ge=0, description="NaN or infinite samples replaced by zero")
    ] = 0
    drift_ppm: Annotated[
        float | None,
        Meta(description="how much faster than the daemon's the source's clock runs, millionths"),
    ] = None


class HeartbeatMessage(Envelope, frozen=True, kw_only=True, tag="heartbeat"):
    """Proof of life, with all that a subscriber needs to know whether it missed something."""

    interval_s: Annotated[float, Meta(gt=0, description="time between two heartbeats, s")]
    uptime_s: Annotated[
        float, Meta(ge=0, le=1e10, description="time since the publisher started, s")
    ]
    last_seq: Annotated[
        dict[str, Count],
        Meta(description="sequence topic -> last seq sent, or dropped unsent, before this"),
    ]
    dropped: Annotated[
        dict[str, Count],
        Meta(description="sequence topic -> messages this daemon dropped unsent; only if > 0"),
    ]
    model: Annotated[str, Meta(description="name of the model in force")] = ""
    reloads: Annotated[Count, Meta(description="configuration or model reloads carried out")] = 0
    reload_error: Annotated[
        str, Meta(description="why the last reload failed and all stayed as it was; else empty")
    ] = ""


DataMessage = PredictionMessage | EventMessage | HealthMessage | RejectedMessage
Message = DataMessage | HeartbeatMessage


class ReplayPage(Struct, frozen=True, kw_only=True):
    """The result of the control method ``replay``: a part of one sequence's recent messages."""

    run: Annotated[str, Meta(description="id of the daemon start that the numbers belong to")]
    first_seq: Annotated[Count | None, Meta(description="oldest that is still kept")]
    last_seq: Annotated[Count | None, Meta(description="newest that was sent")]
    next_seq: Annotated[
        Count | None, Meta(description="ask on from here; null when there is no more")
    ]
    messages: Annotated[
        tuple[DataMessage, ...], Meta(description="in order; a hole in seq was never sent")
    ]


_json_decoder = msgspec.json.Decoder(Message)
_msgpack_decoder = msgspec.msgpack.Decoder(Message)
_encoders = {"json": msgspec.json.Encoder().encode, "msgpack": msgspec.msgpack.Encoder().encode}


def encode(message: Message, encoding: Encoding = "json") -> bytes:
    """Return the payload frame for ``message``."""
    return _encoders[encoding](message)


def decode(payload: bytes) -> Message:
    """Return the message in a payload frame, JSON or msgpack (told apart by its first byte).

    Raises:
        ProtocolError: It is a message of another protocol version.
        msgspec.DecodeError: It is damaged, or of a type this version does not know.
    """
    is_json = payload[:1] == b"{"
    try:
        try:
            return (_json_decoder if is_json else _msgpack_decoder).decode(payload)
        except msgspec.ValidationError:
            _refuse_other_version(payload, is_json)
            raise
    except (RecursionError, UnicodeDecodeError) as error:  # of what is skipped, as of the rest
        raise msgspec.DecodeError(str(error)) from error


def _refuse_other_version(payload: bytes, is_json: bool) -> None:
    anything = (msgspec.json if is_json else msgspec.msgpack).decode(payload)
    found = anything.get("schema") if isinstance(anything, dict) else None
    if isinstance(found, str) and found != SCHEMA and found.startswith("streamcls/"):
        raise ProtocolError(
            f"the daemon speaks {found[:32]!r}, this client {SCHEMA!r}: "
            "install the streamcls version that matches the daemon"
        )


def sequence_topic(message_type: str, stream: str) -> str:
    """Return the prefix under which one sequence of ``seq`` numbers runs: ``type/stream/``."""
    return f"{message_type}/{stream}/"


def message_sequence(message: Message) -> str:
    """Return the `sequence_topic` of ``message``."""
    return sequence_topic(str(message.__struct_config__.tag), message.stream)


def split_topic(topic: str) -> tuple[str, str]:
    """Return ``(type, stream)`` of any topic; the stream is empty for ``heartbeat/``."""
    message_type, _, rest = topic.partition("/")
    return message_type, rest.partition("/")[0]


def message_topic(message: Message) -> str:
    """Return the topic frame of ``message`` as text.

    In a label ``%`` and ``/`` are written ``%25`` and ``%2F``, so that a label
    can never look like two levels of the topic.
    """
    if isinstance(message, HeartbeatMessage):
        return HEARTBEAT_TOPIC
    topic = message_sequence(message)
    if isinstance(message, EventMessage | RejectedMessage):
        topic += message.label.replace("%", "%25").replace("/", "%2F") + "/"
    return topic


def check_stream_name(name: str) -> None:
    """Refuse a stream name that could not be part of a topic.

    Raises:
        PublishError: It is empty, too long, or has characters outside ``A-Z a-z 0-9 . _ -``.
    """
    if not _STREAM_NAME.fullmatch(name):
        raise PublishError(
            f"stream name {name[:80]!r} is not allowed: 1 to 64 of A-Z a-z 0-9 . _ -, beginning "
            "with a letter or digit; rename the stream"
        )


def check_label(label: str) -> None:
    """Refuse a class label that could not be published.

    Raises:
        PublishError: It is empty, longer than 128 characters or not printable.
    """
    if not (0 < len(label) <= LABEL_LIMIT_CHARS and label.isprintable()):
        raise PublishError(
            f"label {label[:80]!r} is not allowed: 1 to {LABEL_LIMIT_CHARS} printable "
            "characters; rename the class in the model"
        )


def new_run_id() -> str:
    """Return an id for one daemon start: 16 random hexadecimal digits."""
    return secrets.token_hex(8)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of every message."""
    schema = msgspec.json.schema(Message)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{SCHEMA}: the payload of a message",
        **schema,
    }


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2))
