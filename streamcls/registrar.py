"""How the streams of a daemon come, go, and change over to another configuration.

The registrar has each `stream` built, hands its ring to the engine and its feeder to the ingest,
and puts it on the `roster`, which serves it. What a reload means for the streams is planned in
`change` and carried out here.

Called by the main thread (start, watch, stop), the control thread (add, remove, thresholds) and
whatever thread reloads (check, change). A lock makes changes follow each other. What a prediction
meets on its way is replaced in the engine's thread between two ticks.
"""

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from streamcls.capture import Pacer, RemoteSource, Source
from streamcls.change import Change, Present, check_input, plan_change
from streamcls.config import Config, StreamConfig
from streamcls.engine import Engine, Executor
from streamcls.errors import ConfigError, ModelError, ReloadError, SourceError, StreamclsError
from streamcls.ingest import Ingest
from streamcls.postprocess.ledger import CloseReason
from streamcls.postprocess.rules import resolve_rules
from streamcls.postprocess.settings import EventSettings, change_thresholds
from streamcls.publish.messages import round_score
from streamcls.publish.publisher import Publisher
from streamcls.ring import Ring
from streamcls.roster import RESTING, Roster
from streamcls.served import ServedModel
from streamcls.stream import Stream, build_stream, check_source, size_ring
from streamcls.types import Health, HealthState

_MOVE_LIMIT_S = 3.0
_MOVE_POLL_S = 0.005
_WATCH_LIMIT_S = 1.0

log = logging.getLogger(__name__)


class Registrar:
    """Changes which streams there are, and how they are heard; all methods are thread-safe.

    Args:
        config: Of the daemon.
        model: In force.
        roster: Of the streams.
        publisher: Told what becomes of them.

    Attributes:
        model: In force.
    """

    def __init__(self, config: Config, model: ServedModel, roster: Roster, publisher: Publisher):
        self.model = model
        self._config = config
        self._roster = roster
        self._publisher = publisher
        self._lock = threading.RLock()
        self._engine: Engine | None = None
        self._ingest: Ingest | None = None
        self._pacer = Pacer()

    def build(self, name: str, config: StreamConfig, source: Source | None = None) -> None:
        """Check a stream and add it; it begins with `start`, or at once when that was called.

        Args:
            name: Of the stream.
            config: Its table.
            source: Of `check_source`, where that was called already.

        Raises:
            SourceError: The source can never work.
            ConfigError: The name is taken, or the event settings do not fit the model.
            ModelError: All slots are taken.
            PublishError: There have been too many names.
            ReloadError: The daemon is shutting down.
        """
        with self._lock:
            if self._roster.shutting_down:
                raise ReloadError("the daemon is shutting down; nothing was added")
            if name in self._roster.streams:
                raise ConfigError([f"stream {name!r} exists already; remove it first"])
            stream = self._make(name, config, self._config, self.model, source)
            check_input({**self._roster.streams, name: stream})
            if self._engine is None:
                self._roster.add(name, stream)
            else:
                self._add(name, stream, self._engine)

    def _make(
        self,
        name: str,
        table: StreamConfig,
        config: Config,
        model: ServedModel,
        source: Source | None = None,
    ) -> Stream:
        source = source or check_source(name, table, config)
        stream = build_stream(name, table, source, config, model, self._roster.take_health)
        if isinstance(stream.source, RemoteSource) and self._engine and self._ingest is None:
            raise ConfigError(
                [
                    f"stream {name!r}: the daemon was started without a remote: stream, so no "
                    f"sender can reach it; put one into the configuration and start again"
                ]
            )
        self._publisher.admit_stream(name)
        return stream

    def start(self, engine: Engine, ingest: Ingest | None) -> None:
        """Begin to capture on all streams."""
        with self._lock:
            self._engine, self._ingest = engine, ingest
            for name, stream in self._roster.streams.items():
                self._begin(name, stream, engine)

    def _add(self, name: str, stream: Stream, engine: Engine) -> None:
        # Known before it begins: what it says while nobody knows it would be lost.
        self._roster.add(name, stream)
        try:
            self._begin(name, stream, engine)
        except StreamclsError:
            self._roster.drop(name)
            raise

    def _begin(self, name: str, stream: Stream, engine: Engine) -> None:
        engine.add_stream(name, stream.ring, is_paced=stream.config.pace != "fast")
        if self._ingest is not None and isinstance(stream.source, RemoteSource):
            try:
                self._ingest.add(stream.feeder)
            except SourceError:
                engine.remove_stream(name)
                raise
        stream.feeder.start(self._pacer)

    def remove(self, name: str) -> dict[str, Any]:
        """End a stream: no prediction follows, its events end, its state is published once more.

        Returns:
            The state that was published, and the stream's ledger.

        Raises:
            ConfigError: There is no such stream.
        """
        with self._lock:
            stream = self._roster.find(name)
            self._between_ticks(lambda: self._forget(name))
            health = self._bury(name, stream, "removed by request")
            return {**dataclasses.asdict(health), **stream.ledger()}

    def _forget(self, name: str) -> None:
        """Hear nothing of a stream any more; between two ticks."""
        if self._engine is not None:
            self._engine.remove_stream(name)
        self._roster.drop(name)

    def _bury(self, name: str, stream: Stream, reason: str) -> Health:
        """End what is left of a stream that is forgotten, and return its last state."""
        if self._ingest is not None and isinstance(stream.source, RemoteSource):
            self._ingest.remove(stream.feeder)
        self._stop_feeder(name, stream)
        self._roster.retire(stream.detector, CloseReason.REMOVED)
        health = dataclasses.replace(stream.feeder.health(reason), state=HealthState.ENDED)
        self._publisher.publish_health(health)
        self._publisher.retire_stream(name)
        return health

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
            StreamclsError: It does not fit, or the engine was too busy to change over; nothing has
                changed.
        """
        with self._lock:
            engine = self._engine
            if engine is None:
                raise ReloadError("the daemon is still starting; ask again when it is ready")
            change = self._plan(config, model)
            removed = {name: self._roster.streams[name] for name in change.removed}
            rings = self._succeed_rings(change.moved, config, model)
            self._move_feeders(rings)

            def switch() -> None:
                for name in removed:
                    self._forget(name)
                if executor is not None:
                    engine.swap(executor, rings)
                    for name, ring in rings.items():
                        stream = self._roster.streams[name]
                        stream.feeder.settle(ring)
                        stream.ring = ring
                    self._publisher.set_vocabulary(model.vocabulary)
                self._config, self.model = config, model
                for name, (table, events, detector) in change.kept.items():
                    self._roster.switch_events(self._roster.streams[name], table, events, detector)

            try:
                engine.call(switch)
            except StreamclsError:  # it never came to it
                for name, ring in rings.items():
                    stream = self._roster.streams[name]
                    stream.feeder.move_to(stream.ring)
                    ring.abandon()
                raise
            for name, stream in removed.items():
                self._bury(name, stream, "changed or removed in the configuration")
            for name, stream in change.added.items():
                self._add(name, stream, engine)

    def _succeed_rings(
        self, names: list[str], config: Config, model: ServedModel
    ) -> dict[str, Ring]:
        # Only now: indices go on from this moment.
        capacity, kept = size_ring(config, model)
        present = {name: self._roster.streams[name].ring for name in names}
        return {n: ring.succeed(capacity, model.rate_hz, kept) for n, ring in present.items()}

    def _move_feeders(self, rings: dict[str, Ring]) -> None:
        """Let the feeders go on in other rings, and the engine hear what is in the present ones.

        It waits for both, but not for ever: a driver that hangs goes on in the new ring when it
        comes back, and what the engine has not heard by then is counted as lost.
        """
        moving = [self._roster.streams[name] for name in rings]
        for name, ring in rings.items():
            self._roster.streams[name].feeder.move_to(ring)
        hop_samples, give_up_s = self.model.hop_samples, time.monotonic() + _MOVE_LIMIT_S

        def is_done(stream: Stream) -> bool:
            if stream.feeder.moved:
                return stream.ring.available() < hop_samples
            return stream.feeder.state in RESTING and stream.ring.ended

        while not all(map(is_done, moving)) and time.monotonic() < give_up_s:
            time.sleep(_MOVE_POLL_S)

    def _plan(self, config: Config, model: ServedModel) -> Change:
        streams, engine = self._roster.streams, self._engine
        in_slots = streams.keys() if engine is None else engine.names()
        present = Present(self._config, self.model, streams, in_slots)
        return plan_change(
            present, config, model, lambda name, table: self._make(name, table, config, model)
        )

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
            For each stream changed ``{label: [onset, offset]}`` in force, as numbers to publish.

        Raises:
            ConfigError: There is no such stream or class, or the thresholds contradict each other.
        """
        with self._lock:
            names = list(self._roster.streams) if name is None else [name]
            changed = []
            for each in names:
                events = change_thresholds(self._roster.find(each).events, label, onset, offset)
                changed.append((each, events, self.model.build_detector(each, events)))

            def switch() -> None:
                for each, events, detector in changed:
                    stream = self._roster.streams[each]
                    self._roster.switch_events(stream, stream.config, events, detector)

            # Only when all of them are possible is any of them changed.
            self._between_ticks(switch)
            return {each: self._list_thresholds(events) for each, events, _ in changed}

    def _list_thresholds(self, events: EventSettings) -> dict[str, list[float]]:
        header = self.model.checkpoint.header
        rules = resolve_rules(events, header.labels, header.thresholds, header.unknown_labels)
        return {
            one.label: [round_score(one.onset_threshold), round_score(one.offset_threshold)]
            for one in rules
        }

    def stop_capture(self) -> None:
        """Stop all feeders, for good."""
        self._roster.shutting_down = True
        with self._lock:
            for stream in self._roster.streams.values():
                stream.feeder.ask_to_stop()
            for name, stream in self._roster.streams.items():
                self._stop_feeder(name, stream)

    def end_lost_events(self) -> None:
        """End the events of streams whose source is away, once the engine has told their last."""
        engine, hop_samples = self._engine, self.model.hop_samples
        if engine is not None and self._roster.find_lost(hop_samples):
            with contextlib.suppress(ModelError):  # it is busy: the next time
                engine.call(
                    lambda: self._roster.end_events_of_lost_streams(hop_samples), _WATCH_LIMIT_S
                )

    @property
    def finished(self) -> bool:
        """Every stream was heard to its end, and none is just being added or replaced."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            return self._roster.finished and (self._engine is None or self._engine.idle)
        finally:
            self._lock.release()

    def names(self) -> list[str]:
        """Return the names of the streams."""
        return list(self._roster.streams)

    def _between_ticks(self, function: Callable[[], None]) -> None:
        if self._engine is None:
            function()
        else:
            self._engine.call(function)

    def _stop_feeder(self, name: str, stream: Stream) -> None:
        if not stream.feeder.stop():
            log.warning("stream %s: its driver hangs and was left behind", name)
