"""What can be configured: one frozen dataclass per TOML table, one annotated field per key.

The types are the single source of truth: `reader` checks values against them and prints their
limits, `json_schema` turns them into the JSON Schema that editors use. The ``[events]`` tables are
those of the stage that they belong to. A field that may be None does not apply everywhere or is
inherited; None is never written in a file.
"""

import dataclasses
import functools
import keyword
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from streamcls.postprocess.settings import EventSettings, StreamEventSettings

STREAM_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
SENDER_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
"""By which ``remote:NAME`` and `streamcls send` name a stream."""
DEFAULT_STREAM = "mic"

# No control characters. A look-ahead, because `$` would let a final newline through.
Text = Annotated[str, Meta(min_length=1, max_length=4096, pattern=r"^(?![\s\S]*[\x00-\x1f\x7f])")]
StreamName = Annotated[
    str,
    Meta(
        pattern=STREAM_NAME_PATTERN,
        description="A letter or digit, then up to 63 of A-Z a-z 0-9 . _ -",
    ),
]
Channel = Annotated[int, Meta(ge=0, le=255)] | Literal["mix"]
SampleFormat = Literal["s16le", "s24le", "s32le", "f32le"]


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """``[streams.NAME]``: where the audio of one stream comes from."""

    source: Annotated[
        Text,
        Meta(
            description="device[:NAME], file:PATH, pipe: (raw PCM on standard input), "
            "remote:[NAME] (from `streamcls send`), http(s)://... or rtsp://..."
        ),
    ] = "device:"
    channel: Annotated[
        Channel, Meta(description='Channel to classify, from 0; "mix" averages all of them.')
    ] = 0
    pace: Annotated[
        Literal["realtime", "fast"] | None,
        Meta(description="file: only. Play in real time, or as fast as the model can follow."),
    ] = None
    sample_rate_hz: Annotated[
        Annotated[int, Meta(ge=4_000, le=384_000)] | None,
        Meta(description="Rate of a pipe (required), or to ask of a device; not for files."),
    ] = None
    channels: Annotated[
        Annotated[int, Meta(ge=1, le=256)] | None,
        Meta(description="Channels of a pipe (default 1), or to ask of a device; not for files."),
    ] = None
    sample_format: Annotated[
        SampleFormat | None,
        Meta(description="Of a pipe (default s16le), or to ask of a device: s16le or f32le."),
    ] = None
    events: StreamEventSettings = field(default_factory=StreamEventSettings)


@dataclass(frozen=True, slots=True)
class InferenceConfig:
    """``[inference]``: how often to predict, for how many streams."""

    hop_ms: Annotated[
        float,
        Meta(ge=10, le=10_000, description="New audio per prediction; a multiple of the stride."),
    ] = 80.0
    max_streams: Annotated[
        int, Meta(ge=1, le=16_384, description="Slots to compile for; streams at any one time.")
    ] = 8
    ring_s: Annotated[
        float,
        Meta(ge=0.1, le=60, description="Audio each stream buffers before hops are dropped."),
    ] = 2.0
    max_wait_ms: Annotated[
        float,
        Meta(ge=0, le=1000, description="A hop waits so long for others, to be computed with it."),
    ] = 2.0
    device: Annotated[
        Literal["auto", "cpu", "gpu", "tpu"],
        Meta(description="What computes; auto takes an accelerator where there is one."),
    ] = "auto"
    threads: Annotated[
        int, Meta(ge=0, le=1024, description="Of a CPU that compute a step; 0 takes all cores.")
    ] = 1


@dataclass(frozen=True, slots=True)
class PublishConfig:
    """``[publish]``: who can hear the predictions, and in which form."""

    endpoint: Annotated[Text, Meta(description="tcp://HOST:PORT or ipc://PATH to publish on.")] = (
        "tcp://127.0.0.1:5570"
    )
    control: Annotated[Text, Meta(description="tcp://HOST:PORT or ipc://PATH for requests.")] = (
        "tcp://127.0.0.1:5571"
    )
    encoding: Annotated[
        Literal["json", "msgpack"], Meta(description="Encoding of every payload.")
    ] = "json"
    top_k: Annotated[
        int, Meta(ge=0, le=10_000, description="Scores in a prediction; 0 sends all.")
    ] = 5
    insecure: Annotated[
        bool, Meta(description="Allow sockets without keys that other machines can reach.")
    ] = False
    wait_for_subscriber_s: Annotated[
        float,
        Meta(ge=0, le=3_600, description="Before capture, wait so long for a first subscriber."),
    ] = 0.0
    journal_messages: Annotated[
        int,
        Meta(ge=1, le=1_000_000, description="Messages of each sequence kept for replay."),
    ] = 2_000
    journal_s: Annotated[
        float, Meta(ge=1, le=604_800, description="Older messages are no longer kept.")
    ] = 3_600.0
    journal_mb: Annotated[
        int, Meta(ge=1, le=16_384, description="Memory for all that is kept, in MiB.")
    ] = 64


@dataclass(frozen=True, slots=True)
class IngestConfig:
    """``[ingest]``: where `streamcls send` delivers audio for ``remote:`` streams."""

    endpoint: Annotated[
        Text,
        Meta(description="tcp://HOST:PORT or ipc://PATH; bound when a stream is remote:."),
    ] = "tcp://127.0.0.1:5572"


@dataclass(frozen=True, slots=True)
class SecurityConfig:
    """``[security]``: who may connect to the sockets."""

    keys: Annotated[
        Text | None,
        Meta(description="Folder of `streamcls keys new`; encrypts every socket. None: open."),
    ] = None
    clients: Annotated[
        Text | None,
        Meta(description="Folder of the clients' public keys, instead of clients in keys."),
    ] = None
    ipc_mode: Annotated[
        Literal["0600", "0660", "0666"],
        Meta(description="Mode of ipc:// sockets: owner, owner and group, or everybody here."),
    ] = "0600"


@dataclass(frozen=True, slots=True)
class LogConfig:
    """``[log]``: what the daemon says on standard error."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="Least severe message to write."),
    ] = "info"


@dataclass(frozen=True, slots=True)
class Config:
    """The configuration of one daemon.

    Attributes:
        origins: Dotted key -> where its value came from (`default`, a file, a variable, `flag`,
            `request`).
    """

    model: Annotated[
        Text, Meta(description="Name of a shipped model, or path of a .safetensors checkpoint.")
    ] = "commands"
    streams: Mapping[StreamName, StreamConfig] = field(
        default_factory=lambda: {DEFAULT_STREAM: StreamConfig()}
    )
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    events: EventSettings = field(default_factory=EventSettings)
    publish: PublishConfig = field(default_factory=PublishConfig)
    ingest: IngestConfig = field(default_factory=IngestConfig)
    security: SecurityConfig = field(default_factory=SecurityConfig)
    log: LogConfig = field(default_factory=LogConfig)
    origins: Mapping[str, str] = field(
        default_factory=dict, compare=False, repr=False, metadata={"key": False}
    )


@functools.cache
def keys(table: type) -> dict[str, Any]:
    """Return the keys of a table's dataclass, each with its annotated type."""
    hints = typing.get_type_hints(table, include_extras=True)
    names = [f.name for f in dataclasses.fields(table) if f.metadata.get("key", True)]
    return {_key(name): hints[name] for name in names}


def attribute(key: str) -> str:
    """Return the name of a key's field: ``class_`` for ``class``."""
    return f"{key}_" if keyword.iskeyword(key) else key


def _key(name: str) -> str:
    return name.removesuffix("_")


@functools.cache
def dotted_keys(table: type = Config, prefix: str = "") -> tuple[str, ...]:
    """Return every leaf key below ``table``; ``*`` stands for any name, as in streams.*.source."""
    found: list[str] = []
    for name, hint in keys(table).items():
        if dataclasses.is_dataclass(hint):
            found += dotted_keys(typing.cast(type, hint), f"{prefix}{name}.")
        elif (named := named_tables(hint)) is not None:
            found += dotted_keys(named.table, f"{prefix}{name}.*.")
        else:
            found.append(prefix + name)
    return tuple(found)


class NamedTables(typing.NamedTuple):
    """The types of a mapping of named tables."""

    name: Any
    table: type


def named_tables(hint: Any) -> NamedTables | None:
    """Return what ``hint`` says about names and tables when it is a mapping of named tables."""
    if typing.get_origin(hint) is not Mapping:
        return None
    return NamedTables(*typing.get_args(hint))


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the file format (unknown keys forbidden)."""
    (_, components) = msgspec.json.schema_components([Config], ref_template="#/$defs/{name}")
    for table in components.values():
        table["additionalProperties"] = False
        table["properties"] = {_key(name): prop for name, prop in table["properties"].items()}
        for prop in table["properties"].values():
            _drop_null(prop)
            if isinstance(prop.get("default"), tuple):
                prop["default"] = list(prop["default"])
    root = components.pop("Config")
    del root["properties"]["origins"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **root,
        "title": "streamcls configuration",
        "description": "One TOML file; `streamcls config check FILE` finds what this cannot.",
        "$defs": components,
    }


def _drop_null(prop: dict[str, Any]) -> None:
    """Remove null from a property: TOML has no null, so an absent key is the only None."""
    if prop.get("default", ...) is None:
        del prop["default"]
    if None in prop.get("enum", []):
        prop["enum"].remove(None)
    if "anyOf" in prop:
        prop["anyOf"] = [choice for choice in prop["anyOf"] if choice != {"type": "null"}]
        if len(prop["anyOf"]) == 1:
            prop.update(prop.pop("anyOf")[0])
