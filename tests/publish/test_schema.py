"""The wire contract: encodings, versions, topics, names, and that its documents are current."""

import itertools
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcls.errors import PublishError
from streamcls.publish.control import REQUEST_LIMIT_BYTES, REQUESTS_QUEUED, ControlServer
from streamcls.publish.journal import PAGE_LIMIT_BYTES, PAGE_LIMIT_MESSAGES, JournalLimits
from streamcls.publish.methods import MethodTable
from streamcls.publish.outbox import SEQUENCES_LIMIT
from streamcls.publish.publisher import (
    SEND_QUEUE_MESSAGES,
    SUBSCRIPTION_LIMIT_BYTES,
    Publisher,
)
from streamcls.publish.rpc import BATCH_LIMIT, BATCH_REPLY_LIMIT_BYTES
from streamcls.publish.schema import (
    MESSAGE_LIMIT_BYTES,
    EventMessage,
    HealthMessage,
    HeartbeatMessage,
    PredictionMessage,
    ProtocolError,
    RejectedMessage,
    ReplayPage,
    check_label,
    check_stream_name,
    decode,
    encode,
    json_schema,
    message_topic,
    split_topic,
)

DOCS = Path(__file__).parents[2] / "docs"
ENVELOPE = {"run": "0123456789abcdef", "stream": "porch", "seq": 7, "published_ns": 1_700}
MESSAGES = [
    PredictionMessage(
        **ENVELOPE,
        model="commands",
        epoch=1,
        sample_start=0,
        sample_end=16000,
        sample_rate_hz=16000,
        t_start_ns=100,
        t_end_ns=200,
        level_dbfs=-20.5,
        flags=("clipped",),
        scores={"yes": 0.75, "no": 0.25},
    ),
    EventMessage(
        **ENVELOPE,
        id="e1",
        state="onset",
        label="Bark, dog",
        onset_ns=100,
        peak_score=0.9,
        mean_score=0.8,
    ),
    HealthMessage(
        **ENVELOPE, state="lost", dropped_samples=1, xruns=2, overruns=3, reason="unplugged"
    ),
    RejectedMessage(
        **ENVELOPE,
        label="Bark, dog",
        reason="too_short",
        detail="lasted 80 ms; min_duration_ms is 160",
        onset_ns=100,
        offset_ns=200,
        peak_score=0.9,
        threshold=0.6,
    ),
    HeartbeatMessage(
        **{**ENVELOPE, "stream": ""},
        interval_s=1.0,
        uptime_s=3.5,
        last_seq={"prediction/porch/": 7},
        dropped={},
    ),
]


def _type(message) -> str:
    return type(message).__name__


@pytest.mark.parametrize("message", MESSAGES, ids=_type)
def test_both_encodings_say_the_same(message):
    as_json, as_msgpack = encode(message, "json"), encode(message, "msgpack")
    assert decode(as_json) == decode(as_msgpack) == message
    assert json.loads(as_json) == msgspec.msgpack.decode(as_msgpack)


@pytest.mark.parametrize("message", MESSAGES, ids=_type)
def test_fields_added_later_are_ignored(message):
    fields = json.loads(encode(message)) | {"added_in_future": [1, {"a": None}]}
    assert decode(json.dumps(fields).encode()) == message
    assert decode(msgspec.msgpack.encode(fields)) == message


@pytest.mark.parametrize("encoder", [msgspec.json.encode, msgspec.msgpack.encode])
def test_another_version_is_named(encoder):
    fields = msgspec.to_builtins(MESSAGES[0]) | {"schema": "streamcls/2"}
    with pytest.raises(ProtocolError, match=r"streamcls/2.*streamcls/1"):
        decode(encoder(fields))


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"{}", b"[]", b"[" * 50_000, b'{"a":' * 50_000, b"\xff\xfe", b"\x80", b"\xdf"],
)
def test_damage_is_a_decode_error(payload):
    with pytest.raises(msgspec.DecodeError):
        decode(payload)


@pytest.mark.parametrize(
    "payload",
    [
        b'{"type":"unknown","x":' + b"[" * 50_000,
        b'{"type":"unknown","x":"\xff"}',
        b"\x82\xa4type\xa7unknown\xa1x" + b"\x91" * 50_000,
        b"\x82\xa4type\xa7unknown\xa1x\xa1\xff",
    ],
    ids=["deep json", "text in json", "deep msgpack", "text in msgpack"],
)
def test_damage_in_an_unknown_message_is_a_decode_error(payload):
    with pytest.raises(msgspec.DecodeError):
        decode(payload)


@pytest.mark.parametrize(
    ("field", "value"),
    [("seq", -1), ("seq", "1"), ("scores", {"yes": 1.5}), ("type", "unknown"), ("run", None)],
)
def test_wrong_values_are_a_decode_error(field, value):
    fields = msgspec.to_builtins(MESSAGES[0]) | {field: value}
    with pytest.raises(msgspec.DecodeError):
        decode(json.dumps(fields).encode())


@given(st.binary(max_size=200))
def test_decode_survives_any_bytes(payload):
    with pytest.raises((msgspec.DecodeError, ProtocolError)):
        decode(payload)


def test_topics():
    topics = [message_topic(message) for message in MESSAGES]
    assert topics == [
        "prediction/porch/",
        "event/porch/Bark, dog/",
        "health/porch/",
        "rejected/porch/Bark, dog/",
        "heartbeat/",
    ]
    assert [split_topic(topic) for topic in topics] == [
        ("prediction", "porch"),
        ("event", "porch"),
        ("health", "porch"),
        ("rejected", "porch"),
        ("heartbeat", ""),
    ]


def test_a_label_cannot_fake_a_topic_level():
    tricky = msgspec.structs.replace(MESSAGES[1], label="on/off 100%")
    assert message_topic(tricky) == "event/porch/on%2Foff 100%25/"


@pytest.mark.parametrize("name", ["porch", "a", "Cam-2.left_side", "0" * 64])
def test_good_stream_names(name):
    check_stream_name(name)


@pytest.mark.parametrize(
    "name", ["", "a/b", "-a", ".", "a b", "ä", "a\n", "a" * 65, "\x1b[2J", "a\0"]
)
def test_bad_stream_names(name):
    with pytest.raises(PublishError, match="rename"):
        check_stream_name(name)


@pytest.mark.parametrize("label", ["", "a\nb", "\x1b[2J", "x" * 129])
def test_bad_labels(label):
    with pytest.raises(PublishError, match="rename"):
        check_label(label)


def test_the_checked_in_json_schema_is_current():
    command = [sys.executable, "-m", "streamcls.publish.schema"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    written = (DOCS / "protocol.schema.json").read_text()
    assert written == printed, f"run: {' '.join(command)} > docs/protocol.schema.json"
    assert json.loads(written) == json_schema()


@pytest.mark.parametrize("message", MESSAGES, ids=_type)
def test_the_specification_names_every_field(message):
    specification = (DOCS / "protocol.md").read_text()
    missing = [name for name in message.__struct_fields__ if f"| `{name}` |" not in specification]
    assert not missing


def test_the_longest_heartbeat_is_not_too_long_for_a_subscriber():
    names = (f"{index:x}".ljust(64, "x") for index in itertools.count())
    every = {f"prediction/{name}/": 1 << 53 for name in itertools.islice(names, SEQUENCES_LIMIT)}
    beat = {"interval_s": 1.0, "uptime_s": 1e9, "last_seq": every, "dropped": every}
    for encoding in ("json", "msgpack"):
        payload = encode(HeartbeatMessage(**ENVELOPE, **beat), encoding)
        assert len(payload) < MESSAGE_LIMIT_BYTES - 65_536  # for its other fields


def test_the_specification_names_every_limit():
    specification = (DOCS / "protocol.md").read_text()
    for value in (SEND_QUEUE_MESSAGES, SUBSCRIPTION_LIMIT_BYTES):
        assert f"{value} " in specification
    assert f"{MESSAGE_LIMIT_BYTES:,} bytes" in specification
    assert f"{REQUEST_LIMIT_BYTES:,} bytes" in specification
    assert f"1 to\n{BATCH_LIMIT} requests" in specification
    assert f"{BATCH_REPLY_LIMIT_BYTES:,} bytes" in specification
    assert f"{REQUESTS_QUEUED} requests and {REQUESTS_QUEUED}\nreplies" in specification
    assert f"at most {PAGE_LIMIT_MESSAGES} and at most {PAGE_LIMIT_BYTES:,} bytes" in specification
    limits = JournalLimits()
    assert f"the last {limits.messages:,} of\neach for at most an hour" in specification
    assert f"{limits.total_bytes // 2**20} MiB of all together" in specification
    assert limits.age_s == 3600


def test_the_client_in_the_specification_works(make_prediction, vocabulary):
    source = (DOCS / "protocol.md").read_text().split("```python\n")[1].split("```")[0]
    with Publisher("tcp://127.0.0.1:*", vocabulary, queue_messages=2) as publisher:
        publisher.publish_prediction(make_prediction())
        command = [sys.executable, "-c", source, publisher.endpoint, "porch"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdout is not None
            printed = [client.stdout.readline()]
            publisher.publish_prediction(make_prediction())
            printed.append(client.stdout.readline())
            # Two predictions that cannot be encoded: numbered, counted, never sent.
            for _ in range(2):
                publisher.publish_prediction(make_prediction(probabilities=(math.nan, 0, 0, 0)))
                time.sleep(0.05)
            printed.append(client.stdout.readline())
            client.terminate()
    assert printed[:2] == ["0 no\n", "1 no\n"]
    assert printed[2] in ("missed 2\n", "missed 1\n")  # 1: a heartbeat came between the two


def test_the_control_call_in_the_specification_works(make_prediction, vocabulary):
    source = (DOCS / "protocol.md").read_text().split("```python\n")[2].split("```")[0]
    params = {"stream": "porch", "type": "prediction", "from_seq": 0}
    with (
        Publisher("tcp://127.0.0.1:*", vocabulary) as publisher,
        ControlServer("tcp://127.0.0.1:*", MethodTable(publisher.methods())) as control,
    ):
        publisher.publish_prediction(make_prediction())
        while not publisher.snapshot():
            time.sleep(0.005)
        command = [sys.executable, "-c", source, control.endpoint, "replay", json.dumps(params)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        page = msgspec.convert(json.loads(printed)["result"], ReplayPage)
        assert list(page.messages) == publisher.snapshot()


def test_the_specification_names_every_field_of_a_page():
    specification = (DOCS / "protocol.md").read_text()
    assert all(f"| `{name}` |" in specification for name in ReplayPage.__struct_fields__)


def test_the_examples_of_the_specification_are_messages():
    lines = (DOCS / "protocol.md").read_text().splitlines()
    examples = [decode(line.encode()) for line in lines if line.startswith('{"type":')]
    assert {_type(example) for example in examples} == {_type(message) for message in MESSAGES}
