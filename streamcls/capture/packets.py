"""The wire format of remote audio, ``streamcls-audio/1``: what `send` and `ingest` exchange.

Stateless and shared by both ends; the specification for others is ``docs/remote-audio.md``. A
message is one msgpack map, and behind `AudioPacket` a second frame with the encoded samples.
Whatever comes in is checked against the types below, limits included, before anyone looks at it.
"""

import io
from typing import Annotated, Literal, TypeVar

import msgspec
import numpy as np
import soundfile
from msgspec import Meta
from numpy.typing import NDArray

SCHEMA = "streamcls-audio/1"
MAX_PACKET_SAMPLES = 16_384
MAX_PAYLOAD_BYTES = 40_000
"""FLAC of noise is a little longer than the samples themselves."""
MAX_HEADER_BYTES = 4096
DEFAULT_ENDPOINT = "tcp://127.0.0.1:5572"

Codec = Literal["s16", "flac"]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")]
Session = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]
Text = Annotated[str, Meta(max_length=256)]
Count = Annotated[int, Meta(ge=0, le=(1 << 62) - 1)]
TimeNs = Annotated[int, Meta(ge=0, le=(1 << 62) - 1)]
SpanNs = Annotated[int, Meta(ge=-(1 << 62), le=(1 << 62))]
Pcm16 = NDArray[np.int16]


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Any message; fields that a reader does not know are ignored."""

    schema: Literal["streamcls-audio/1"] = SCHEMA


class SenderMessage(Message, frozen=True, kw_only=True):
    """What all messages of a sender say about it."""

    stream: Name
    """The name by which the daemon knows the stream: ``remote:NAME``."""
    session: Session
    """Random, new with each start of the sender; numbers start afresh with it."""


class AudioPacket(SenderMessage, frozen=True, kw_only=True, tag="audio"):
    """Consecutive mono audio; the samples follow in the second frame."""

    seq: Count
    """Of the packets handed to the network, from 0, no holes."""
    codec: Codec
    sample_rate_hz: Annotated[int, Meta(ge=4_000, le=384_000)]
    sample_start: Count
    """Absolute index of the first sample; counts what the sender has lost, too."""
    samples: Annotated[int, Meta(ge=1, le=MAX_PACKET_SAMPLES)]
    t_start_ns: TimeNs
    """UTC of the first sample by the sender's clock."""
    lost_samples: Count = 0
    """Lost by the sender (driver, outage of its source, full buffer) just before this packet."""
    xruns: Count = 0
    """Driver overflows since the sender's start."""


class Beat(SenderMessage, frozen=True, kw_only=True, tag="beat"):
    """Introduces the sender, then keeps the connection and the clock alive."""

    sent_ns: TimeNs
    """UTC by the sender's clock, for the daemon to echo."""
    host: Text = ""
    source: Text = ""
    state: Text = ""
    """Of the source: ``live``, ``lost``, ... as in health messages."""
    reason: Text = ""
    dropped_samples: Count = 0
    """Since the sender's start, whatever the cause, at the sent rate."""
    clock_offset_ns: SpanNs | None = None
    """What to add to the sender's clock to get the daemon's; absent until measured."""
    round_trip_ns: Count = 0
    """Of the exchange it was measured with; the offset is right to half of it."""


class End(SenderMessage, frozen=True, kw_only=True, tag="end"):
    """The sender stops for good."""

    next_seq: Count
    reason: Text = ""


class Answer(Message, frozen=True, kw_only=True, tag="answer"):
    """The daemon's reply to a beat: audio is welcome."""

    sent_ns: TimeNs
    """Echo of the beat's."""
    received_ns: TimeNs
    """UTC by the daemon's clock when the beat arrived ..."""
    answered_ns: TimeNs
    """... and when this answer left."""


class Refusal(Message, frozen=True, kw_only=True, tag="refusal"):
    """The daemon's reply to a beat of someone it does not want audio from."""

    code: Literal["unknown_stream", "taken", "schema"]
    reason: Text


FromSender = AudioPacket | Beat | End
FromDaemon = Answer | Refusal

_T = TypeVar("_T")
_encoder = msgspec.msgpack.Encoder()
_from_sender = msgspec.msgpack.Decoder(FromSender)
_from_daemon = msgspec.msgpack.Decoder(FromDaemon)


class PacketError(Exception):
    """A message that is none; for counting, never shown to a user as it is."""


def encode_message(message: Message) -> bytes:
    """Return the message as one frame."""
    return _encoder.encode(message)


def decode_from_sender(frames: list[bytes]) -> FromSender:
    """Return the message of a sender.

    Args:
        frames: Header, and the payload in case of audio.

    Raises:
        PacketError: It is malformed or beyond a limit.
    """
    message = _decode(_from_sender, frames[0])
    wanted = 2 if isinstance(message, AudioPacket) else 1
    if len(frames) != wanted:
        raise PacketError(f"{len(frames)} frames instead of {wanted}")
    if wanted == 2 and len(frames[1]) > MAX_PAYLOAD_BYTES:
        raise PacketError(f"payload of {len(frames[1])} bytes (limit {MAX_PAYLOAD_BYTES})")
    return message


def decode_from_daemon(frame: bytes) -> FromDaemon:
    """Return the message of a daemon.

    Raises:
        PacketError: It is malformed or beyond a limit.
    """
    return _decode(_from_daemon, frame)


def speaks_other_version(frame: bytes) -> str | None:
    """Return the version of a message that is ours but for its version."""
    if len(frame) > MAX_HEADER_BYTES:
        return None
    try:
        schema = msgspec.msgpack.decode(frame, type=dict).get("schema")
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    if not isinstance(schema, str) or not schema.startswith("streamcls-audio/") or schema == SCHEMA:
        return None
    return schema[:64]


def _decode(decoder: msgspec.msgpack.Decoder[_T], frame: bytes) -> _T:
    if len(frame) > MAX_HEADER_BYTES:
        raise PacketError(f"header of {len(frame)} bytes (limit {MAX_HEADER_BYTES})")
    try:
        return decoder.decode(frame)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise PacketError(str(error)) from error


def encode_samples(samples: Pcm16, codec: Codec, sample_rate_hz: int) -> bytes:
    """Return ``[n]`` int16 samples as a payload."""
    if codec == "s16":
        return samples.astype("<i2").tobytes()
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate_hz, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def decode_samples(packet: AudioPacket, payload: bytes) -> Pcm16:
    """Return the ``[samples]`` int16 samples of a packet.

    Raises:
        PacketError: The payload is damaged or of another length than announced.
    """
    if packet.codec == "s16":
        if len(payload) != 2 * packet.samples:
            raise PacketError(f"{len(payload)} bytes for {packet.samples} samples")
        return np.frombuffer(payload, "<i2").astype(np.int16)
    if payload[:4] != b"fLaC":
        raise PacketError("the payload is not FLAC")
    try:
        with soundfile.SoundFile(io.BytesIO(payload)) as file:
            if (file.channels, file.subtype) != (1, "PCM_16"):
                raise PacketError(f"FLAC of {file.channels} channels, {file.subtype}")
            # One more than announced, and not all that a few bytes can be inflated to.
            samples = np.asarray(file.read(packet.samples + 1, dtype="int16"), np.int16)
    except soundfile.LibsndfileError as error:
        raise PacketError(f"damaged FLAC: {error.error_string}") from error
    if samples.shape != (packet.samples,):
        raise PacketError(f"FLAC of {samples.size} samples, announced {packet.samples}")
    return samples
