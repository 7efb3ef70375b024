"""The streams of a daemon: how they come and go.

The roster has each `stream` built, hands its ring to the engine, takes the engine's predictions
through the detectors to the publisher, and ends what has to end exactly once: events when their
stream is gone, sources when nobody wants them.

Called by the main thread (start, watch, stop), the engine's (predictions), the feeders' (health),
the control thread (add, remove, thresholds) and whatever thread reloads (check, change). A lock
makes changes follow each other. What a prediction meets on its way, the streams and their
detectors, is replaced in the engine's thread between two ticks: nothing is fed after its end.
"""

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from streamcls.capture import Pacer, RemoteSource, hide_credentials
from streamcls.config import Config, StreamConfig
from streamcls.engine import Engine, Executor
from streamcls.errors import ConfigError, ReloadError
from streamcls.ingest import Ingest
from streamcls.postprocess.detector import EventDetector
from streamcls.postprocess.ledger import CloseReason
from streamcls.postprocess.rules import resolve_rules
from streamcls.postprocess.settings import ClassSettings, EventSettings, settle_for_stream
from streamcls.publish.publisher import Publisher
from streamcls.ring import Ring
from streamcls.served import ServedModel
from streamcls.stream import Stream, build_stream, size_ring
from streamcls.types import Event, Health, HealthState, Prediction, Rejection
from streamcls.units import samples_to_ms

RESTING = frozenset({HealthState.ENDED, HealthState.FAILED})
_MOVE_LIMIT_S = 3.0
_MOVE_POLL_S = 0.005
AWAY = RESTING | {HealthState.LOST, HealthState.RECOVERING}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Change:
    """What a reload does to the streams; making it checks everything and changes nothing.

    Attributes:
        removed: Names of the streams that go, be it to be made anew.
        added: The streams that come.
        kept: Those that stay and get other settings: table, event settings and new detector.
    """

    removed: list[str]
    added: dict[str, Stream]
    kept: dict[str, tuple[StreamConfig, EventSettings, EventDetector | None]]
    rings: dict[str, Ring]
    """Of those that stay, when the new model hears another rate."""


class Roster:
    """All streams of one daemon.

    Args:
        config: Of the daemon.
        model: In force.
        publisher: Takes everything the streams say.
    """

    def __init__(
        self,
        config: Config,
        model: ServedModel,
        publisher: Publisher,
    ):
        self._config = config
        self._model = model
        self._publisher = publisher
        self._lock = threading.RLock()
        self._streams: dict[str, Stream] = {}
        self._past_events = (0, 0)  # opened and closed by detectors that are gone
        self._engine: Engine | None = None
        self._ingest: Ingest | None = None
        self._pacer = Pacer()
        self._shutting_down = False

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
            stream = self._make(name, config, self._config, self._model)
            if self._engine is not None:
                self._begin(name, stream, self._engine)
            self._streams = {**self._streams, name: stream}

    def _make(self, name: str, table: StreamConfig, config: Config, model: ServedModel) -> Stream:
        stream = build_stream(name, table, config, model, self._take_health)
        if isinstance(stream.source, RemoteSource) and self._engine and self._ingest is None:
            raise ConfigError(
                [
                    f"stream {name!r}: the daemon was started without a remote: stream, so no "
                    f"sender can reach it; put one into the configuration and start again"
                ]
            )
        return stream

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
        stream.feeder.start(self._pacer)

    def remove(self, name: str) -> dict[str, Any]:
        """End a stream: no prediction follows, its events end, its state is published once more.

        Returns:
            The state that was published, and the stream's ledger.

        Raises:
            ConfigError: There is no such stream.
        """
        with self._lock:
            stream = self._find(name)
            health = self._remove(name, stream, "removed by request")
            return {**dataclasses.asdict(health), **stream.ledger()}

    def _remove(self, name: str, stream: Stream, reason: str) -> Health:
        engine = self._engine

        def forget() -> None:
            if engine is not None:
                engine.remove_stream(name)
            self._streams = {key: one for key, one in self._streams.items() if key != name}

        self._between_ticks(forget)
        if self._ingest is not None and isinstance(stream.source, RemoteSource):
            self._ingest.remove(stream.feeder)
        self._stop_feeder(name, stream)
        self._retire(stream.detector, CloseReason.REMOVED)
        health = dataclasses.replace(stream.feeder.health(reason), state=HealthState.ENDED)
        self._publisher.publish_health(health)
        self._publisher.retire_stream(name)
        return health

    def _retire(self, detector: EventDetector, reason: CloseReason) -> None:
        """End a detector's events; it is not fed any more."""
        self._publish_records(detector.close(reason))
        said = detector.summarise()
        opened, closed = self._past_events
        self._past_events = (opened + said.opened, closed + said.closed)

    def check(self, config: Config, model: ServedModel) -> None:
        """Look whether `change` would work now, and change nothing.

        Raises:
            StreamclsError: Why it would not.
        """
        with self._lock:
            self._plan(config, model)

    def change(self, config: Config, model: ServedModel, executor: Executor | None) -> None:
        """Change over to another configuration and model between two ticks of the engine.

        Streams whose table is the same go on where they are, with every number and index; those
        whose table has changed end and begin anew; events end with ``reload`` where the model or
        their settings are others. What was added or removed over the control socket stays so until
        its table in the configuration changes.

        Args:
            config: New.
            model: New or present.
            executor: For that model, warmed up; None: the present one goes on.

        Raises:
            StreamclsError: It does not fit; nothing has changed.
        """
        with self._lock:
            engine = self._engine
            if engine is None:
                raise ReloadError("the daemon is still starting; ask again when it is ready")
            change = self._plan(config, model)
            for name in change.removed:
                self._remove(name, self._streams[name], "changed or removed in the configuration")

            self._move_feeders(change.rings)

            def switch() -> None:
                if executor is not None:
                    engine.swap(executor, change.rings)
                    for name, ring in change.rings.items():
                        stream = self._streams[name]
                        stream.feeder.settle(ring)
                        stream.ring = ring
                    self._publisher.set_vocabulary(model.vocabulary)
                self._config, self._model = config, model
                for name, (table, events, detector) in change.kept.items():
                    self._switch_events(self._streams[name], table, events, detector)

            engine.call(switch)
            for name, stream in change.added.items():
                self._begin(name, stream, engine)
                self._streams = {**self._streams, name: stream}

    def _move_feeders(self, rings: dict[str, Ring]) -> None:
        """Let the feeders go on in other rings, and the engine hear what is in the present ones.

        It waits for both, but not for ever: a driver that hangs goes on in the new ring when it
        comes back, and what the engine has not heard by then is counted as lost.
        """
        moving = [self._streams[name] for name in rings]
        for name, ring in rings.items():
            self._streams[name].feeder.move_to(ring)
        hop_samples, give_up_s = self._model.hop_samples, time.monotonic() + _MOVE_LIMIT_S

        def is_done(stream: Stream) -> bool:
            if stream.feeder.moved:
                return stream.ring.available() < hop_samples
            return stream.feeder.state in RESTING and stream.ring.ended

        while not all(map(is_done, moving)) and time.monotonic() < give_up_s:
            time.sleep(_MOVE_POLL_S)

    def _switch_events(
        self,
        stream: Stream,
        table: StreamConfig,
        events: EventSettings,
        detector: EventDetector | None,
    ) -> None:
        stream.config, stream.events = table, events
        if detector is not None:
            replaced, stream.detector = stream.detector, detector
            self._retire(replaced, CloseReason.RELOAD)

    def _plan(self, config: Config, model: ServedModel) -> Change:
        is_new = model is not self._model
        change = Change([], {}, {}, {})
        for name, table in config.streams.items():
            present, before = self._streams.get(name), self._config.streams.get(name)
            if present is None:
                if table != before:
                    change.added[name] = self._make(name, table, config, model)
            elif dataclasses.replace(table, events=present.config.events) != present.config:
                change.removed.append(name)
                change.added[name] = self._make(name, table, config, model)
        gone = self._config.streams.keys() - config.streams.keys()
        change.removed.extend(name for name in self._streams if name in gone)
        for name, present in self._streams.items():
            if name in change.removed:
                continue
            table = config.streams.get(name, present.config)
            wanted = settle_for_stream(config.events, table.events)
            before = settle_for_stream(self._config.events, present.config.events)
            # What thresholds.set has changed holds until the configuration says something else.
            events = present.events if wanted == before else wanted
            is_other = is_new or events != present.events
            detector = model.build_detector(name, events) if is_other else None
            change.kept[name] = (table, events, detector)
            if model.rate_hz != present.ring.sample_rate_hz:
                capacity, kept = size_ring(config, model)
                change.rings[name] = present.ring.succeed(capacity, model.rate_hz, kept)
            elif model.hop_samples > present.ring.longest_hop_samples:
                longest_ms = samples_to_ms(present.ring.longest_hop_samples, model.rate_hz)
                raise ConfigError(
                    [
                        f"inference.hop_ms = {config.inference.hop_ms:g}: the ring of stream "
                        f"{name!r} allows {longest_ms:g} ms while it runs; remove the stream first"
                    ]
                )
        running = [name for name in change.kept if not self._streams[name].ring.ended]
        n_streams = len(running) + len(change.added)
        if n_streams > config.inference.max_streams:
            raise ConfigError(
                [
                    f"inference.max_streams = {config.inference.max_streams}: {n_streams} streams "
                    f"would run, with those added over the control socket; raise it"
                ]
            )
        return change

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
                changed.append((each, events, self._model.build_detector(each, events)))

            def switch() -> None:
                for each, events, detector in changed:
                    stream = self._streams[each]
                    self._switch_events(stream, stream.config, events, detector)

            # Only when all of them are possible is any of them changed.
            self._between_ticks(switch)
            return {each: self._list_thresholds(events) for each, events, _ in changed}

    def _list_thresholds(self, events: EventSettings) -> dict[str, list[float]]:
        header = self._model.checkpoint.header
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
        """End the events of a stream that was read to its end (in the engine's thread).

        Its end may also be that of the daemon, which closes the rings before the engine stops.
        """
        stream = self._streams.get(name)
        if stream is not None:
            reason = CloseReason.SHUTDOWN if self._shutting_down else CloseReason.ENDED
            self._publish_records(stream.detector.close(reason))

    def end_events_of_lost_streams(self) -> None:
        """End the events of streams whose source is away, once the engine has heard their last."""
        for stream in self._streams.values():
            # A stream that ended or failed has closed its ring: the engine finishes it itself.
            away = stream.feeder.state in AWAY - RESTING
            if away and stream.ring.available() < self._model.hop_samples:
                self._publish_records(stream.detector.close(CloseReason.LOST))

    def stop_capture(self) -> None:
        """Stop all feeders, for good."""
        self._shutting_down = True
        with self._lock:
            for stream in self._streams.values():
                stream.feeder.ask_to_stop()
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

    def ledgers(self) -> dict[str, dict[str, int]]:
        """Return the ledger of every stream."""
        return {name: stream.ledger() for name, stream in self._streams.items()}

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
            "ledger": stream.ledger(),
            "events": stream.detector.summarise()._asdict(),
        }

    def count_events(self) -> tuple[int, int]:
        """Return how many events were opened and closed since the start."""
        totals = [stream.detector.summarise() for stream in self._streams.values()]
        opened, closed = self._past_events
        return opened + sum(one.opened for one in totals), closed + sum(
            one.closed for one in totals
        )

    def names(self) -> list[str]:
        """Return the names of the streams."""
        return list(self._streams)

    def _between_ticks(self, function: Callable[[], None]) -> None:
        if self._engine is None:
            function()
        else:
            self._engine.call(function)

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


def _change_thresholds(
    events: EventSettings, label: str | None, onset: float | None, offset: float | None
) -> EventSettings:
    changes = {"onset_threshold": onset, "offset_threshold": offset}
    changes = {key: value for key, value in changes.items() if value is not None}
    if label is None:
        return dataclasses.replace(events, **changes)
    nearer = dataclasses.replace(events.class_.get(label, ClassSettings()), **changes)
    return dataclasses.replace(events, class_={**events.class_, label: nearer})
