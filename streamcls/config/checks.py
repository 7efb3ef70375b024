"""Third step of loading: what no single key can tell.

Each check yields the keys it looked at and what is wrong, so that a key already reported does
not cause a second, misleading line. What needs the model (is the hop a multiple of its
stride?) or the machine (does the device exist?) is checked by whoever opens it.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

from streamcls.config.schema import Config, PublishConfig, StreamConfig
from streamcls.errors import PublishError
from streamcls.publish.endpoint import check_bind

SCHEMES = ("device", "file", "pipe")


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
        yield from _check_stream(f"streams.{name}", stream)
    yield from _check_inference(config)
    yield from _check_publish(config.publish)


def settle(config: Config) -> Config:
    """Fill in the defaults that depend on the kind of source."""
    streams = {name: _settle_stream(stream) for name, stream in config.streams.items()}
    return dataclasses.replace(config, streams=streams)


def _settle_stream(stream: StreamConfig) -> StreamConfig:
    match scheme(stream.source):
        case "file":
            return dataclasses.replace(stream, pace=stream.pace or "realtime")
        case "pipe":
            return dataclasses.replace(
                stream,
                channels=stream.channels or 1,
                sample_format=stream.sample_format or "s16le",
            )
        case _:
            return stream


def _check_stream(prefix: str, stream: StreamConfig) -> Iterator[Problem]:
    source = f"{prefix}.source"
    kind, _, rest = stream.source.partition(":")
    if kind not in SCHEMES:
        yield Problem(
            (source,),
            f'{source} = "{stream.source}": unknown kind of source; write device[:NAME], '
            f"file:PATH or pipe:",
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
    for key, owner in (
        ("pace", "file"),
        ("sample_rate_hz", "pipe"),
        ("channels", "pipe"),
        ("sample_format", "pipe"),
    ):
        if kind != owner and getattr(stream, key) is not None:
            yield Problem(
                (source, f"{prefix}.{key}"),
                f"{prefix}.{key}: is for {owner}: sources only and the source is "
                f'"{stream.source}"; remove it',
            )
    if kind == "pipe":
        yield from _check_pipe(prefix, stream)


def _check_pipe(prefix: str, stream: StreamConfig) -> Iterator[Problem]:
    rate = f"{prefix}.sample_rate_hz"
    if stream.sample_rate_hz is None:
        yield Problem(
            (f"{prefix}.source", rate),
            f"{rate}: missing; raw PCM does not say its rate, so set it (or --rate), e.g. 16000",
        )
    channels = stream.channels or 1
    if stream.channel != "mix" and stream.channel >= channels:
        yield Problem(
            (f"{prefix}.source", f"{prefix}.channel", f"{prefix}.channels"),
            f"{prefix}.channel = {stream.channel}: the pipe has {channels} channel(s), counted "
            f'from 0; use a smaller one or "mix", or set {prefix}.channels',
        )


def _check_inference(config: Config) -> Iterator[Problem]:
    inference = config.inference
    pipes = [name for name, stream in config.streams.items() if scheme(stream.source) == "pipe"]
    if len(pipes) > 1:
        yield Problem(
            tuple(f"streams.{name}.source" for name in pipes),
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


def _check_publish(publish: PublishConfig) -> Iterator[Problem]:
    for key, endpoint in (
        ("publish.endpoint", publish.endpoint),
        ("publish.control", publish.control),
    ):
        try:
            check_bind(endpoint, publish.insecure)
        except PublishError as error:
            yield Problem((key, "publish.insecure"), f"{key}: {error}")
    if publish.endpoint == publish.control and not publish.endpoint.endswith((":*", ":0")):
        yield Problem(
            ("publish.endpoint", "publish.control"),
            f'publish.control = "{publish.control}": the same as publish.endpoint; use another',
        )
