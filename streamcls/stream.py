"""One stream of the daemon: a source with its feeder, a ring, and an event detector.

Building one checks everything about it that can be known before it begins; the `registrar` says
when it begins and ends. What can be known without a model, `check_source` finds without JAX.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamcls.capture import (
    Feeder,
    FileSource,
    Source,
    SourceLost,
    SourceOptions,
    check_channel,
    parse_source,
)
from streamcls.clock import read_utc_offset_ns
from streamcls.config import Config, StreamConfig, stream_table
from streamcls.errors import ConfigError, SourceError
from streamcls.postprocess.detector import EventDetector
from streamcls.postprocess.settings import EventSettings, settle_for_stream
from streamcls.ring import Ring
from streamcls.suitability import check_events
from streamcls.types import Health

if TYPE_CHECKING:
    from streamcls.served import ServedModel

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Stream:
    """One stream; source and feeder are never replaced."""

    config: StreamConfig
    source: Source
    ring: Ring
    feeder: Feeder
    events: EventSettings
    detector: EventDetector

    def ledger(self) -> dict[str, int]:
        """Return where the captured samples are that were not dropped."""
        return {
            "heard_samples": self.feeder.heard_samples,
            "waiting_samples": self.ring.waiting,
        }


def build_stream(
    name: str,
    stream: StreamConfig,
    source: Source,
    config: Config,
    model: "ServedModel",
    on_health: Callable[[Health], None],
) -> Stream:
    """Build a stream, ready to begin.

    Args:
        name: Of the stream.
        stream: Its table of the configuration.
        source: What `check_source` returned for it.
        config: The whole of it.
        model: That will hear it.
        on_health: Called with each change of its state, in the feeder's thread.

    Raises:
        ConfigError: The event settings do not fit the model.
    """
    if isinstance(source, FileSource):
        source.suit_hops(model.hop_samples, model.rate_hz)
    events = settle_for_stream(config.events, stream.events)
    try:
        detector = model.build_detector(name, events)
    except ConfigError:
        check_events({name: stream}, config.events, model.checkpoint.header)  # says which table
        raise
    capacity, kept = size_ring(config, model)
    ring = Ring(capacity, model.rate_hz, keep_samples=kept, utc_offset_ns=read_utc_offset_ns)
    feeder = Feeder(name, source, ring, stream.channel, on_health)
    return Stream(stream, source, ring, feeder, events, detector)


def check_source(name: str, stream: StreamConfig, config: Config) -> Source:
    """Return the source of a stream, not opened yet, after looking whether it can be.

    Args:
        name: Of the stream.
        stream: Its table of the configuration.
        config: The whole of it.

    Raises:
        SourceError: It can never work, or is missing and not waited for.
    """
    source = _parse_source(stream)
    try:
        source.check()
    except SourceLost as error:
        if not _may_come_later(name, stream, config):
            raise
        reason = " ".join(str(error).split())
        log.warning("stream %s: %s; it is waited for", name, reason, extra={"stream": name})
    if source.channels:  # a file says it before it is opened for good
        try:
            check_channel(stream.channel, source.channels)
        except SourceError as error:
            raise SourceError(f"{source}: {error}") from None
    return source


def size_ring(config: Config, model: "ServedModel") -> tuple[int, int]:
    """Return the capacity of a stream's ring, and how much of it is kept for the next model."""
    buffered = max(round(config.inference.ring_s * model.rate_hz), 2 * model.hop_samples)
    return buffered + model.window_samples, model.window_samples


def _may_come_later(name: str, stream: StreamConfig, config: Config) -> bool:
    """Tell whether a source that is missing now is waited for.

    What a file configures is meant to run unattended, also when the machine boots faster than its
    sound server. Whoever names a source on the command line or by request wants to know at once.
    """
    if config.streams.get(name) is not stream:  # by request, be it under a name of the file's
        return False
    has_file = any(origin.startswith("file ") for origin in config.origins.values())
    return has_file and config.origins.get(f"{stream_table(name)}.source") != "flag"


def _parse_source(stream: StreamConfig) -> Source:
    options = SourceOptions(
        pace=stream.pace or "realtime",
        sample_rate_hz=stream.sample_rate_hz,
        channels=stream.channels,
        sample_format=stream.sample_format,
    )
    return parse_source(stream.source, options)
