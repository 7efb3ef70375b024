"""Third step of loading: what no single key can tell.

Each check yields the keys it looked at and what is wrong, so that a key already reported does
not cause a second, misleading line. What needs the model (is the hop a multiple of its
stride?) or the machine (does the device exist?) is checked by whoever opens it.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from streamcls.config.schema import SENDER_NAME_PATTERN, Config, StreamConfig
from streamcls.config.show import stream_table
from streamcls.errors import PublishError
from streamcls.postprocess.rules import find_rule_problems
from streamcls.postprocess.settings import (
    EventSettings,
    NoiseFloorSettings,
    StreamEventSettings,
    settle_for_stream,
)
from streamcls.publish.endpoint import check_bind

NETWORK_SCHEMES = ("http", "https", "rtsp", "rtsps", "rtmp", "rtmps", "srt", "udp", "rtp")
SCHEMES = ("device", "file", "pipe", "remote", *NETWORK_SCHEMES)
FORMATTED = ("pipe:", "device:")
"""Sources that are told their rate, channels and sample format; others tell them."""
_DEVICE_FORMATS = ("s16le", "f32le")
_KEYS_BY_KIND = {
    "pace": ("file:",),
    "sample_rate_hz": FORMATTED,
    "channels": FORMATTED,
    "sample_format": FORMATTED,
}


class Problem(NamedTuple):
    """Something wrong between keys."""

    keys: tuple[str, ...]
    message: str


def scheme(source: str) -> str:
    """Return the scheme of a source: ``device`` of ``device:USB Audio``."""
    return source.partition(":")[0]


def find_problems(config: Config) -> Iterator[Problem]:
    """Yield everything that is wrong between the keys of ``config``."""
    for name, stream in config.streams.items():
        yield from _check_stream(name, stream)
    yield from _check_remotes(config)
    yield from _check_inference(config)
    yield from _check_events(config)
    yield from _check_endpoints(config)


def settle(config: Config) -> Config:
    """Fill in the defaults that depend on the kind of source."""
    streams = {name: _settle_stream(name, stream) for name, stream in config.streams.items()}
    return dataclasses.replace(config, streams=streams)


def _settle_stream(name: str, stream: StreamConfig) -> StreamConfig:
    match scheme(stream.source):
        case "file":
            return dataclasses.replace(stream, pace=stream.pace or "realtime")
        case "pipe":
            return dataclasses.replace(
                stream,
                channels=stream.channels or 1,
                sample_format=stream.sample_format or "s16le",
            )
        case "remote":
            return dataclasses.replace(stream, source=f"remote:{remote_name(name, stream)}")
        case _:
            return stream


def remote_name(name: str, stream: StreamConfig) -> str:
    """Return the name by which a sender knows a ``remote:`` stream: by default its own."""
    return stream.source.partition(":")[2] or name


def _check_stream(name: str, stream: StreamConfig) -> Iterator[Problem]:
    prefix = stream_table(name)
    source = f"{prefix}.source"
    kind, _, rest = stream.source.partition(":")
    if kind not in SCHEMES:
        yield Problem(
            (source,),
            f'{source} = "{stream.source}": unknown kind of source; write device[:NAME], '
            f"file:PATH, pipe:, remote:[NAME], http(s)://HOST/PATH or rtsp://HOST/PATH",
        )
        return
    if kind == "file" and not rest:
        yield Problem((source,), f'{source} = "{stream.source}": no path; write file:PATH')
    if kind == "pipe" and rest:
        yield Problem(
            (source,),
            f'{source} = "{stream.source}": takes nothing after the colon; write pipe: and feed '
            f"standard input",
        )
    if kind == "remote" and not re.match(SENDER_NAME_PATTERN, remote_name(name, stream)):
        yield Problem(
            (source,),
            f'{source} = "{stream.source}": senders give names of up to 64 letters, digits, _ and '
            f"-, starting with a letter or digit; write remote:NAME",
        )
    if kind in NETWORK_SCHEMES and not _has_host(stream.source):
        # Without the value: it may hold a password.
        yield Problem((source,), f"{source}: names no host; write {kind}://HOST[:PORT]/PATH")
    for key, kinds in _KEYS_BY_KIND.items():
        if f"{kind}:" not in kinds and getattr(stream, key) is not None:
            yield Problem(
                (source, f"{prefix}.{key}"),
                f"{prefix}.{key}: for {' and '.join(kinds)} only, but the source is "
                f"{kind}:; remove it",
            )
    if kind == "pipe" and stream.sample_rate_hz is None:
        rate = f"{prefix}.sample_rate_hz"
        yield Problem(
            (source, rate),
            f"{rate}: missing; raw PCM does not say its rate, so set it (or --rate), e.g. 16000",
        )
    if kind == "device" and stream.sample_format not in (None, *_DEVICE_FORMATS):
        yield Problem(
            (source, f"{prefix}.sample_format"),
            f'{prefix}.sample_format = "{stream.sample_format}": a device is read as '
            f"{' or '.join(_DEVICE_FORMATS)}; use one of them or remove it",
        )
    channels = stream.channels or (1 if kind in ("pipe", "remote") else None)
    if channels is not None and stream.channel != "mix" and stream.channel >= channels:
        there = "0" if channels == 1 else f"0 to {channels - 1}"
        more = f", or raise {prefix}.channels" if f"{kind}:" in FORMATTED else ""
        yield Problem(
            (source, f"{prefix}.channel", f"{prefix}.channels"),
            f"{prefix}.channel = {stream.channel}: does not exist, the source has {channels}: "
            f'choose {there} or "mix"{more}',
        )


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _check_remotes(config: Config) -> Iterator[Problem]:
    owners: dict[str, str] = {}
    for name, stream in config.streams.items():
        if scheme(stream.source) != "remote":
            continue
        remote = remote_name(name, stream)
        first = owners.setdefault(remote, name)
        if first != name:
            yield Problem(
                (f"{stream_table(first)}.source", f"{stream_table(name)}.source"),
                f"{stream_table(name)}.source: {first} already takes the audio of the sender "
                f"{remote}; give each remote: another name",
            )


def _check_inference(config: Config) -> Iterator[Problem]:
    inference = config.inference
    pipes = [name for name, stream in config.streams.items() if scheme(stream.source) == "pipe"]
    if len(pipes) > 1:
        yield Problem(
            tuple(f"{stream_table(name)}.source" for name in pipes),
            f"streams {', '.join(pipes)}: there is only one standard input; give one of them pipe:",
        )
    if len(config.streams) > inference.max_streams:
        yield Problem(
            ("inference.max_streams",),
            f"inference.max_streams = {inference.max_streams}: {len(config.streams)} streams are "
            f"configured; raise it to at least {len(config.streams)}",
        )
    if inference.ring_s * 1000 < 2 * inference.hop_ms:
        yield Problem(
            ("inference.ring_s", "inference.hop_ms"),
            f"inference.ring_s = {inference.ring_s:g}: must hold two hops of "
            f"{inference.hop_ms:g} ms; set at least {2 * inference.hop_ms / 1000:g}",
        )


def _check_events(config: Config) -> Iterator[Problem]:
    shared = _find_event_problems(config.events)
    for message in shared:
        yield Problem(("events",), message)
    streams = config.streams
    for name, message in find_stream_problems(streams, config.events, _find_event_problems):
        if message not in shared:
            yield Problem(("events", f"{stream_table(name)}.events"), message)


def find_stream_problems(
    streams: Mapping[str, StreamConfig],
    events: EventSettings,
    find: Callable[[EventSettings], list[str]],
) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the events of each stream, said with the table that it is in.

    Args:
        streams: Tables of the configuration by name.
        events: The table ``[events]``, of which they inherit.
        find: Returns what is wrong with settings, said as of ``[events]``.

    Yields:
        ``(stream, message)``; what several streams inherit comes for each of them.
    """
    shared = find(events)
    for name, stream in streams.items():
        inherits_all = stream.events == StreamEventSettings()
        own = shared if inherits_all else find(settle_for_stream(events, stream.events))
        for message in own:
            yield name, message if message in shared else f"{stream_table(name)}.{message}"


def _find_event_problems(settings: EventSettings) -> list[str]:
    """Return what is wrong whatever the model: it is taken to know every label that is named."""
    named = {*settings.class_, *(label for g in settings.group.values() for label in g.labels)}
    named.update({*settings.allow, *settings.deny} - set(settings.group))
    labels = ("every class", *sorted(named))
    # As high as they can be: what contradicts these thresholds contradicts all.
    thresholds = dict.fromkeys(labels, 1.0)
    calm = dataclasses.replace(settings, noise_floor=NoiseFloorSettings())
    return find_rule_problems(calm, labels, thresholds, unknown_labels=())


def _check_endpoints(config: Config) -> Iterator[Problem]:
    endpoints = {
        "publish.endpoint": config.publish.endpoint,
        "publish.control": config.publish.control,
        "ingest.endpoint": config.ingest.endpoint,
    }
    security = config.security
    if security.clients is not None and security.keys is None:
        yield Problem(
            ("security.clients", "security.keys"),
            f'security.clients = "{security.clients}": without security.keys nobody is asked for '
            f"a key; make them with `streamcls keys new` and name their folder as security.keys",
        )
    owners: dict[str, str] = {}
    for key, endpoint in endpoints.items():
        try:
            check_bind(endpoint, config.publish.insecure, encrypted=security.keys is not None)
        except PublishError as error:
            yield Problem((key, "publish.insecure", "security.keys"), f"{key}: {error}")
        first = owners.setdefault(endpoint, key)
        if first != key and not endpoint.endswith((":*", ":0")):
            yield Problem((first, key), f'{key} = "{endpoint}": the same as {first}; use another')
