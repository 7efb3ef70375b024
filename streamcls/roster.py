"""The streams of a daemon: what each consists of, and how they come and go.

A stream is a source with its feeder, a ring, and an event detector. The roster builds them, hands
their rings to the engine, takes the engine's predictions through the detectors to the publisher,
and ends what has to end exactly once: events when their stream is gone, sources when nobody wants
them.

Called by the main thread (start, watch, stop), the engine's (predictions), the feeders' (health)
and the control thread (add, remove, thresholds).
"""

import dataclasses
import logging
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from streamcls.capture import (
    Feeder,
    RemoteSource,
    Source,
    SourceOptions,
    check_channel,
    hide_credentials,
    parse_source,
)
from streamcls.checkpoint import Checkpoint
from streamcls.config import Config, StreamConfig
from streamcls.engine import Engine
from streamcls.errors import ConfigError
from streamcls.ingest import Ingest
from streamcls.postprocess.detector import EventDetector
from streamcls.postprocess.ledger import CloseReason
from streamcls.postprocess.rules import resolve_rules
from streamcls.postprocess.settings import ClassSettings, EventSettings, settle_for_stream
from streamcls.publish.publisher import Publisher
from streamcls.ring import Ring
from streamcls.types import Event, Health, HealthState, Prediction, Rejection

RESTING = frozenset({HealthState.ENDED, HealthState.FAILED})
AWAY = RESTING | {HealthState.LOST, HealthState.RECOVERING}

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Stream:
    """One stream; only ``events`` and ``detector`` are ever replaced."""

    config: StreamConfig
    source: Source
    ring: Ring
    feeder: Feeder
    events: EventSettings
    detector: EventDetector


class Roster:
    """All streams of one daemon.

    Args:
        config: Of the daemon.
        checkpoint: The model.
        hop_samples: New audio per prediction.
        publisher: Takes everything the streams say.
    """

    def __init__(
        self,
        config: Config,
        checkpoint: Checkpoint,
        hop_samples: int,
        publisher: Publisher,
    ):
        self._config = config
        self._front_end = checkpoint.front_end
        self._header = checkpoint.header
        self._hop_samples = hop_samples
        self._publisher = publisher
        self._lock = threading.RLock()
        self._streams: dict[str, Stream] = {}
        self._engine: Engine | None = None
        self._ingest: Ingest | None = None

    def build(self, name: str, config: StreamConfig) -> None:
        """Check a stream and add it; it begins with `start`, or at once when that was called.

        Raises:
            SourceError: The source can never work.
            ConfigError: The name is taken, or the event settings do not fit the model.
            ModelError: All slots are taken.
        """
        with self._lock:
            if name in self._streams:
                raise ConfigError([f"stream {name!r} exists already; remove it first"])
            source = _parse_source(config)
            if isinstance(source, RemoteSource) and self._engine and self._ingest is None:
                raise ConfigError(
                    [
                        f"stream {name!r}: the daemon was started without a remote: stream, so no "
                        f"sender can reach it; put one into the configuration and start again"
                    ]
                )
            source.check()
            if source.channels:  # a file says it before it is opened for good
                check_channel(config.channel, source.channels)
            events = settle_for_stream(self._config.events, config.events)
            detector = self._build_detector(name, events)
            rate_hz = self._front_end.sample_rate_hz
            buffered_samples = round(self._config.inference.ring_s * rate_hz)
            ring = Ring(max(buffered_samples, 2 * self._hop_samples), rate_hz)
            feeder = Feeder(name, source, ring, config.channel, self._take_health)
            stream = Stream(config, source, ring, feeder, events, detector)
            if self._engine is not None:
                self._begin(name, stream, self._engine)
            self._streams = {**self._streams, name: stream}

    def _build_detector(self, name: str, events: EventSettings) -> EventDetector:
        header = self._header
        return EventDetector(
            events, header.labels, header.thresholds, header.unknown_labels, name, header.task
        )

    def start(self, engine: Engine, ingest: Ingest | None) -> None:
        """Begin to capture on all streams."""
        with self._lock:
            self._engine, self._ingest = engine, ingest
            for name, stream in self._streams.items():
                self._begin(name, stream, engine)

    def _begin(self, name: str, stream: Stream, engine: Engine) -> None:
        engine.add_stream(name, stream.ring, is_paced=stream.config.pace != "fast")
        if self._ingest is not None and isinstance(stream.source, RemoteSource):
            self._ingest.add(stream.feeder)
        stream.feeder.start()

    def remove(self, name: str) -> Health:
        """End a stream: no prediction follows, its events end, its state is published once more.

        Returns:
            The state that was published.

        Raises:
            ConfigError: There is no such stream.
        """
        with self._lock:
            stream = self._find(name)
            assert self._engine is not None
            self._engine.remove_stream(name)
            self._streams = {key: one for key, one in self._streams.items() if key != name}
            if self._ingest is not None and isinstance(stream.source, RemoteSource):
                self._ingest.remove(stream.feeder)
            self._stop_feeder(name, stream)
            self._publish_records(stream.detector.close(CloseReason.REMOVED))
            health = stream.feeder.health("removed by request")
            health = dataclasses.replace(health, state=HealthState.ENDED)
            self._publisher.publish_health(health)
            self._publisher.retire_stream(name)
            return health

    def set_thresholds(
        self, name: str | None, label: str | None, onset: float | None, offset: float | None
    ) -> dict[str, dict[str, list[float]]]:
        """Change event thresholds until the next start; open events end with reason ``reload``.

        Args:
            name: Stream; None for all.
            label: Class; None for all classes without thresholds of their own.
            onset: New onset threshold; None leaves it.
            offset: New offset threshold; None leaves it.

        Returns:
            For each stream changed ``{label: [onset, offset]}`` in force.

        Raises:
            ConfigError: There is no such stream or class, or the thresholds contradict each other.
        """
        with self._lock:
            names = list(self._streams) if name is None else [name]
            changed = []
            for each in names:
                events = _change_thresholds(self._find(each).events, label, onset, offset)
                changed.append((each, events, self._build_detector(each, events)))
            # Only when all of them are possible is any of them changed.
            for each, events, detector in changed:
                stream = self._streams[each]
                replaced, stream.events, stream.detector = stream.detector, events, detector
                self._publish_records(replaced.close(CloseReason.RELOAD))
            return {each: self._list_thresholds(events) for each, events, _ in changed}

    def _list_thresholds(self, events: EventSettings) -> dict[str, list[float]]:
        header = self._header
        rules = resolve_rules(events, header.labels, header.thresholds, header.unknown_labels)
        return {one.label: [one.onset_threshold, one.offset_threshold] for one in rules}

    def take_predictions(self, predictions: Sequence[Prediction]) -> None:
        """Publish predictions and the events they complete (in the engine's thread)."""
        streams = self._streams  # without those removed while their last hop was computed
        known = [one for one in predictions if one.stream in streams]
        self._publisher.publish_predictions(known)
        for prediction in known:
            self._publish_records(streams[prediction.stream].detector.feed(prediction))

    def take_end(self, name: str) -> None:
        """End the events of a stream that was read to its end (in the engine's thread)."""
        stream = self._streams.get(name)
        if stream is not None:
            self._publish_records(stream.detector.close(CloseReason.ENDED))

    def end_events_of_lost_streams(self) -> None:
        """End the events of streams whose source is away, once the engine has heard their last."""
        for stream in self._streams.values():
            # A stream that ended or failed has closed its ring: the engine finishes it itself.
            away = stream.feeder.state in AWAY - RESTING
            if away and stream.ring.available() < self._hop_samples:
                self._publish_records(stream.detector.close(CloseReason.LOST))

    def stop_capture(self) -> None:
        """Stop all feeders."""
        with self._lock:
            for name, stream in self._streams.items():
                self._stop_feeder(name, stream)

    def end_events(self) -> None:
        """End all events; call it when the engine has stopped."""
        for stream in self._streams.values():
            self._publish_records(stream.detector.close(CloseReason.SHUTDOWN))

    @property
    def finished(self) -> bool:
        """Every source has ended or failed for good, and the engine has read what they left."""
        return all(
            stream.feeder.state in RESTING and stream.ring.ended
            for stream in self._streams.values()
        )

    @property
    def has_remote(self) -> bool:
        """Some stream gets its audio from a sender."""
        return any(isinstance(one.source, RemoteSource) for one in self._streams.values())

    def states(self) -> list[HealthState]:
        """Return the state of every stream."""
        return [stream.feeder.state for stream in self._streams.values()]

    def healths(self) -> list[Health]:
        """Return state and totals of every stream."""
        return [stream.feeder.health() for stream in self._streams.values()]

    def describe(self) -> list[dict[str, Any]]:
        """Return every stream for the control method ``streams.list``."""
        return [self.describe_stream(name) for name in self._streams]

    def describe_stream(self, name: str) -> dict[str, Any]:
        """Return one stream with its state and totals.

        Raises:
            ConfigError: There is no such stream.
        """
        stream = self._find(name)
        return {
            "stream": name,
            "source": hide_credentials(stream.config.source),
            "health": stream.feeder.health(),
            "events": stream.detector.summarise()._asdict(),
        }

    def count_events(self) -> tuple[int, int]:
        """Return how many events were opened and closed since the start or the last reload."""
        totals = [stream.detector.summarise() for stream in self._streams.values()]
        return sum(one.opened for one in totals), sum(one.closed for one in totals)

    def _find(self, name: str) -> Stream:
        if name not in self._streams:
            known = ", ".join(self._streams) or "none"
            raise ConfigError([f"there is no stream {name!r}; there are: {known}"])
        return self._streams[name]

    def _stop_feeder(self, name: str, stream: Stream) -> None:
        if not stream.feeder.stop():
            log.warning("stream %s: its driver hangs and was left behind", name)

    def _publish_records(self, records: Iterable[Event | Rejection]) -> None:
        for record in records:
            if isinstance(record, Event):
                self._publisher.publish_event(record)
            else:
                self._publisher.publish_rejection(record)

    def _take_health(self, health: Health) -> None:
        """Publish and log a change of a stream's state (in the feeder's or the ingest thread)."""
        self._publisher.publish_health(health)
        serious = health.state in AWAY - {HealthState.ENDED}
        level = logging.WARNING if serious else logging.INFO
        log.log(
            level,
            "stream %s is %s: %s",
            health.stream,
            health.state,
            health.reason,
            extra={"stream": health.stream, "state": health.state},
        )


def _parse_source(stream: StreamConfig) -> Source:
    options = SourceOptions(
        pace=stream.pace or "realtime",
        sample_rate_hz=stream.sample_rate_hz,
        channels=stream.channels,
        sample_format=stream.sample_format,
    )
    return parse_source(stream.source, options)


def _change_thresholds(
    events: EventSettings, label: str | None, onset: float | None, offset: float | None
) -> EventSettings:
    changes = {"onset_threshold": onset, "offset_threshold": offset}
    changes = {key: value for key, value in changes.items() if value is not None}
    if label is None:
        return dataclasses.replace(events, **changes)
    nearer = dataclasses.replace(events.class_.get(label, ClassSettings()), **changes)
    return dataclasses.replace(events, class_={**events.class_, label: nearer})
