"""The wire format: what goes in comes out, and nothing else gets in."""

import io

import msgspec
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from streamcls.capture.packets import (
    MAX_HEADER_BYTES,
    MAX_PACKET_SAMPLES,
    MAX_PAYLOAD_BYTES,
    SCHEMA,
    AudioPacket,
    Beat,
    Codec,
    PacketError,
    decode_from_daemon,
    decode_from_sender,
    decode_samples,
    encode_message,
    encode_samples,
    speaks_other_version,
)


def audio(**changes) -> AudioPacket:
    fields = {
        "stream": "porch",
        "session": "0123456789abcdef",
        "seq": 3,
        "codec": "s16",
        "sample_rate_hz": 16_000,
        "sample_start": 1920,
        "samples": 640,
        "t_start_ns": 1_700_000_000_000_000_000,
    }
    return AudioPacket(**{**fields, **changes})


@pytest.mark.parametrize("codec", ["s16", "flac"])
@pytest.mark.parametrize("n_samples", [1, 2, 640, MAX_PACKET_SAMPLES])
def test_samples_survive_exactly_and_fit(codec: Codec, n_samples: int) -> None:
    noise = np.random.default_rng(1).integers(-32768, 32768, n_samples).astype(np.int16)
    payload = encode_samples(noise, codec, 16_000)
    packet = audio(codec=codec, samples=n_samples)
    header = decode_from_sender([encode_message(packet), payload])
    assert header == packet
    np.testing.assert_array_equal(decode_samples(packet, payload), noise)
    assert decode_samples(packet, payload).flags.writeable


def test_flac_is_shorter_where_there_is_something_to_save() -> None:
    t_s = np.arange(640) / 16_000
    tone = (3000 * np.sin(2 * np.pi * 440 * t_s)).astype(np.int16)
    assert len(encode_samples(tone, "flac", 16_000)) < 0.6 * len(encode_samples(tone, "s16", 1))


def raw(**changes) -> bytes:
    fields = msgspec.to_builtins(audio())
    fields.update(changes)
    return msgspec.msgpack.encode({key: value for key, value in fields.items() if value != ...})


def test_unknown_fields_are_ignored() -> None:
    assert decode_from_sender([raw(colour="blue"), bytes(1280)]) == audio()


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xc1",
        b"\x91" * 100_000,
        raw(type="gossip"),
        raw(schema="streamcls-audio/2"),
        raw(stream="a b"),
        raw(stream="porch\n"),
        raw(stream="x" * 65),
        raw(session="0123"),
        raw(seq=-1),
        raw(seq=1 << 63),
        raw(seq=1.0),
        raw(samples=0),
        raw(samples=MAX_PACKET_SAMPLES + 1),
        raw(sample_rate_hz=0),
        raw(codec="mp3"),
        raw(t_start_ns=...),
        raw(padding="x" * MAX_HEADER_BYTES),
    ],
)
def test_malformed_headers_are_refused(header: bytes) -> None:
    with pytest.raises(PacketError):
        decode_from_sender([header, bytes(1280)])


def test_frames_have_to_be_as_many_as_announced() -> None:
    header = encode_message(audio())
    beat = Beat(stream="porch", session="0" * 16, sent_ns=1)
    for frames in ([header], [header, b"", b""], [encode_message(beat), b""]):
        with pytest.raises(PacketError, match="frames"):
            decode_from_sender(frames)
    with pytest.raises(PacketError, match="payload of"):
        decode_from_sender([header, bytes(MAX_PAYLOAD_BYTES + 1)])


def flac(samples: np.ndarray, channels: int = 1, subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples.reshape(-1, channels), 16_000, format="FLAC", subtype=subtype)
    return file.getvalue()


BOMB = flac(np.zeros(10_000_000, np.int16))


@pytest.mark.parametrize(
    ("codec", "payload"),
    [
        ("s16", bytes(1279)),
        ("flac", b""),
        ("flac", b"RIFF" + bytes(100)),
        ("flac", b"fLaC" + bytes(100)),
        ("flac", flac(np.zeros(639, np.int16))),
        ("flac", flac(np.zeros(1280, np.int16), channels=2)),
        ("flac", flac(np.zeros(640, np.int16), subtype="PCM_24")),
        ("flac", flac(np.arange(640, dtype=np.int16))[:-20]),
        ("flac", BOMB),
    ],
)
def test_payloads_that_are_not_what_they_say_are_refused(codec: Codec, payload: bytes) -> None:
    with pytest.raises(PacketError):
        decode_samples(audio(codec=codec), payload)


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=3))
@settings(max_examples=300)
def test_noise_is_refused_and_nothing_else_happens(frames: list[bytes]) -> None:
    with pytest.raises(PacketError):
        decode_from_sender(frames)
    with pytest.raises(PacketError):
        decode_from_daemon(frames[0])
    assert speaks_other_version(frames[0]) is None


@given(st.integers(0, 2000), st.integers(0, 255), st.sampled_from(["s16", "flac"]))
@settings(max_examples=300)
def test_one_wrong_byte_is_refused_or_decoded_within_the_limits(
    at: int, value: int, codec: Codec
) -> None:
    packet = audio(codec=codec)
    payload = encode_samples(np.arange(640, dtype=np.int16), codec, 16_000)
    message = bytearray(encode_message(packet) + payload)
    message[at % len(message)] = value
    split = len(encode_message(packet))
    frames = [bytes(message[:split]), bytes(message[split:])]
    try:
        header = decode_from_sender(frames)
        assert isinstance(header, AudioPacket)
        samples = decode_samples(header, frames[1])
    except PacketError:
        return
    assert samples.shape == (header.samples,)


def test_other_versions_are_told_apart_from_noise() -> None:
    assert speaks_other_version(raw(schema="streamcls-audio/7", type="x")) == "streamcls-audio/7"
    assert speaks_other_version(raw(schema=SCHEMA)) is None
    assert speaks_other_version(raw(schema=3)) is None
