"""One configuration: would `streamcls run` take it, hear its streams and be heard?"""

import math
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from streamcls.capture import (
    EndOfStream,
    RemoteSource,
    Source,
    SourceOptions,
    check_channel,
    hide_credentials,
    parse_source,
)
from streamcls.client import ControlClient, Subscriber
from streamcls.config import Config, StreamConfig
from streamcls.doctor.finding import Finding, Grade
from streamcls.errors import PublishError, SourceError, StreamclsError
from streamcls.publish.endpoint import bind, socket_file
from streamcls.publish.keys import ServerKeys
from streamcls.publish.messages import Vocabulary
from streamcls.publish.publisher import Publisher
from streamcls.suitability import check_events
from streamcls.types import Block

HEARD_S = 0.5
HEAR_TIMEOUT_S = 12.0
"""The first block of a sound server may take seconds, that of a camera more."""
ROUND_TRIP_TIMEOUT_S = 4.0
ASK_TIMEOUT_S = 0.5
_STEPS = 50


def describe_config(config: Config, path: Path | None) -> Finding:
    """Return where the configuration comes from and what it wants."""
    streams = ", ".join(
        f"{name} = {hide_credentials(stream.source)}" for name, stream in config.streams.items()
    )
    origin = str(path) if path else "no file: defaults"
    return Finding("configuration", Grade.OK, f"{origin}; model {config.model}; {streams}")


def check_model(config: Config) -> Iterator[Finding]:
    """Load, compile and check the model as the daemon does; then see how fast it is."""
    from streamcls.served import load_model

    model = load_model(config)
    check_events(config.streams, config.events, model.checkpoint.header)
    began_s = time.monotonic()
    executor = model.build_executor(config.inference.max_streams)
    ready_s = time.monotonic() - began_s
    rows = executor.buckets[-1]
    audio = np.zeros((rows, model.hop_samples), np.float32)
    slots, fresh = np.arange(rows, dtype=np.int32) % executor.max_streams, np.zeros(rows, bool)
    durations_s = []
    for _ in range(_STEPS):
        began_s = time.perf_counter()
        executor.step(audio, slots, fresh)
        durations_s.append(time.perf_counter() - began_s)
    step_ms = float(np.median(durations_s)) * 1000
    header, hop_ms = model.checkpoint.header, config.inference.hop_ms
    room = int(rows * hop_ms / step_ms)
    seen = (
        f"{header.name}, {len(header.labels)} classes, ready in {ready_s:.1f} s; a step of {rows} "
        f"streams takes {step_ms:.2g} ms, so the network alone keeps up with about {room} at a hop "
        f"of {hop_ms:g} ms (the whole daemon: streamcls bench)"
    )
    if room < len(config.streams):
        remedy = "raise inference.hop_ms, take a smaller model, or an accelerator"
        yield Finding("model", Grade.FAIL, seen, remedy)
    else:
        yield Finding("model", Grade.OK, seen)


def find_running(config: Config) -> dict[str, Any] | None:
    """Return ``status`` and ``streams`` of a daemon that runs with these endpoints already."""
    if config.security.keys is not None:
        return None  # it would not answer somebody without a key
    try:
        with ControlClient(config.publish.control) as control:
            status = control.call("status", timeout_s=ASK_TIMEOUT_S)
            streams = control.call("streams.list", timeout_s=ASK_TIMEOUT_S)
    except StreamclsError:
        return None
    return {"status": status, "streams": streams}


def check_running(config: Config, running: dict[str, Any]) -> Iterator[Finding]:
    """Listen to a daemon that runs, and tell how its streams are: their devices are its own."""
    uptime_s = running["status"]["summary"]["uptime_s"]
    seen = f"runs here already: model {running['status']['model']}, up {uptime_s:.0f} s"
    yield Finding("daemon", Grade.OK, seen)
    yield _listen(config.publish.endpoint)
    for stream in running["streams"]:
        health = stream["health"]
        seen = f"{stream['source']} is {health['state']}"
        if health["reason"]:
            seen += f": {health['reason']}"
        seen += f"; {health['captured_samples']} samples, {health['dropped_samples']} dropped"
        grade = {"live": Grade.OK, "ended": Grade.OK, "failed": Grade.FAIL}
        yield Finding(f"stream {stream['stream']}", grade.get(health["state"], Grade.WARN), seen)


def check_sockets(config: Config) -> Iterator[Finding]:
    """Bind what the daemon would bind, then send and receive a message."""
    if config.security.keys is not None:
        yield _check_keys(config.security.keys, config.security.clients)
    endpoints = [config.publish.endpoint, config.publish.control]
    if any(stream.source.startswith("remote:") for stream in config.streams.values()):
        endpoints.append(config.ingest.endpoint)
    yield _bind_all(endpoints, config)
    with Publisher("tcp://127.0.0.1:*", Vocabulary("doctor", ("test",))) as publisher:
        yield _listen(publisher.endpoint)


def _bind_all(endpoints: list[str], config: Config) -> Finding:
    with zmq.Context() as context:
        for endpoint in endpoints:
            try:
                with context.socket(zmq.XPUB) as socket:
                    socket.linger = 0
                    bind(socket, endpoint, int(config.security.ipc_mode, 8))
            except PublishError as error:
                if config.security.keys is None:
                    return Finding("sockets", Grade.FAIL, str(error))
                # It may be our own daemon, which does not answer us without a client's key.
                remedy = "streamcls service status; streamcls listen --client-key ..."
                return Finding("sockets", Grade.WARN, str(error), remedy)
            if (path := socket_file(endpoint)) is not None:
                path.unlink(missing_ok=True)
    return Finding("sockets", Grade.OK, f"can listen on {', '.join(endpoints)}")


def _check_keys(folder: str, clients: str | None) -> Finding:
    try:
        keys = ServerKeys.load(folder, clients)
    except PublishError as error:
        if os.geteuid() != 0:
            raise
        remedy = (
            "as it should be if they are a service's; to look as the service: systemd-run --pipe "
            "-p DynamicUser=yes -p User=streamcls -p StateDirectory=streamcls streamcls doctor FILE"
        )
        return Finding("keys", Grade.WARN, str(error), remedy)
    allowed = keys.allowed.clients()
    problems = list(keys.allowed.problems.values())
    seen = "; ".join([f"{folder}: {len(allowed)} clients may connect", *problems])
    if problems or not allowed:
        return Finding("keys", Grade.WARN, seen, "streamcls keys --help")
    return Finding("keys", Grade.OK, seen)


def _listen(endpoint: str) -> Finding:
    """Return whether a heartbeat, which comes every second, arrives."""
    with Subscriber(endpoint, types=["heartbeat"]) as subscriber:
        try:
            message: Any = subscriber.receive(ROUND_TRIP_TIMEOUT_S)
        except TimeoutError as error:
            remedy = "does a firewall forbid connections on this machine?"
            return Finding("messages", Grade.FAIL, str(error), remedy)
        delay_ms = (time.time_ns() - message.published_ns) / 1e6
    return Finding("messages", Grade.OK, f"one arrived from {endpoint} after {delay_ms:.1f} ms")


def check_sources(config: Config) -> Iterator[Finding]:
    """Open every source for a moment and listen."""
    for name, stream in config.streams.items():
        yield _hear(f"stream {name}", stream)


def _hear(name: str, stream: StreamConfig) -> Finding:
    options = SourceOptions("fast", stream.sample_rate_hz, stream.channels, stream.sample_format)
    source = parse_source(stream.source, options)
    spoken = hide_credentials(stream.source)
    if isinstance(source, RemoteSource):
        return Finding(name, Grade.OK, f"{spoken}: audio comes when `streamcls send` delivers it")
    if stream.source.startswith("pipe:"):
        return Finding(name, Grade.OK, "pipe: audio comes on standard input")
    heard: list[Block | Exception] = []
    # A driver may hang for ever in a call: never wait for it without a limit.
    listener = threading.Thread(target=_listen_to, args=(source, heard), daemon=True)
    listener.start()
    listener.join(HEAR_TIMEOUT_S)
    blocks = [one for one in heard if isinstance(one, Block)]
    errors = [one for one in heard if isinstance(one, Exception)]
    if errors:
        return Finding(name, Grade.FAIL, str(errors[0]), _source_remedy(errors[0]))
    if not blocks:
        seen = f"{spoken}: opened, but no audio within {HEAR_TIMEOUT_S:g} s"
        return Finding(name, Grade.FAIL, seen, "is another program holding it?")
    try:
        check_channel(stream.channel, source.channels)
    except SourceError as error:
        return Finding(name, Grade.FAIL, str(error))
    return _judge_level(name, f"{spoken}: {source.sample_rate_hz} Hz", blocks)


def _listen_to(source: Source, heard: list[Block | Exception]) -> None:
    heard_s = 0.0
    try:
        source.check()
        source.open()
        while heard_s < HEARD_S:
            block = source.read()
            if block is not None:
                heard.append(block)
                heard_s += len(block.samples) / source.sample_rate_hz
    except EndOfStream:
        pass
    except Exception as error:  # noqa: BLE001 - handed to the caller's thread
        heard.append(error)
    finally:
        source.close()


def _judge_level(name: str, seen: str, blocks: list[Block]) -> Finding:
    samples = np.concatenate([block.samples for block in blocks])
    scale = 32768.0 if samples.dtype == np.int16 else 1.0
    levels = np.sqrt(np.mean(np.square(samples / scale), axis=0))
    spoken = [f"{20 * math.log10(level):.0f}" if level > 0 else "-inf" for level in levels]
    seen = f"{seen}, level {' and '.join(spoken)} dBFS"
    if not levels.any():
        remedy = "digital silence: unmute the microphone (alsamixer, pavucontrol), or name another"
        return Finding(name, Grade.WARN, seen, remedy)
    return Finding(name, Grade.OK, seen)


def _source_remedy(error: Exception) -> str:
    if "PortAudio" in str(error) or "sound device" in str(error):
        return "streamcls devices lists what there is; --source file:PATH needs no device"
    return ""
