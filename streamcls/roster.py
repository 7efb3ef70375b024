"""The streams of a daemon: what they say, and what is said about them.

The roster takes the engine's predictions through the detectors to the publisher, and ends what has
to end exactly once: the events of streams that are gone. The `registrar` lets streams come and go.

Called by the main thread (watch), the engine's (predictions), the feeders' (health) and the control
thread (describe). What a prediction meets on its way, the streams and their detectors, is replaced
in the engine's thread between two ticks: nothing is fed after its end.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from streamcls.capture import RemoteSource, hide_credentials
from streamcls.config import StreamConfig
from streamcls.errors import ConfigError
from streamcls.postprocess.detector import EventDetector
from streamcls.postprocess.ledger import CloseReason
from streamcls.postprocess.settings import EventSettings
from streamcls.publish.publisher import Publisher
from streamcls.stream import Stream
from streamcls.types import Event, Health, HealthState, Prediction, Rejection

RESTING = frozenset({HealthState.ENDED, HealthState.FAILED})
AWAY = RESTING | {HealthState.LOST, HealthState.RECOVERING}

log = logging.getLogger(__name__)


class Roster:
    """All streams of one daemon.

    Args:
        publisher: Takes everything the streams say.

    Attributes:
        streams: By name; replaced as a whole.
        shutting_down: No stream will be heard any more.
    """

    def __init__(self, publisher: Publisher):
        self.streams: Mapping[str, Stream] = {}
        self.shutting_down = False
        self._publisher = publisher
        self._past_events = (0, 0)  # opened and closed by detectors that are gone

    def add(self, name: str, stream: Stream) -> None:
        """Take in a stream; by whoever holds the registrar's lock."""
        self.streams = {**self.streams, name: stream}

    def drop(self, name: str) -> None:
        """Hear nothing of a stream any more; between two ticks of the engine."""
        self.streams = {key: one for key, one in self.streams.items() if key != name}

    def switch_events(
        self,
        stream: Stream,
        table: StreamConfig,
        events: EventSettings,
        detector: EventDetector | None,
    ) -> None:
        """Give a stream other settings, and another detector if need be; between two ticks."""
        stream.config, stream.events = table, events
        if detector is not None:
            replaced, stream.detector = stream.detector, detector
            self.retire(replaced, CloseReason.RELOAD)

    def retire(self, detector: EventDetector, reason: CloseReason) -> None:
        """End a detector's events; it is not fed any more."""
        self._publish_records(detector.close(reason))
        said = detector.summarise()
        opened, closed = self._past_events
        self._past_events = (opened + said.opened, closed + said.closed)

    def take_health(self, health: Health) -> None:
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

    def take_predictions(self, predictions: Sequence[Prediction]) -> None:
        """Publish predictions and the events they complete (in the engine's thread)."""
        streams = self.streams  # without those removed while their last hop was computed
        known = [one for one in predictions if one.stream in streams]
        self._publisher.publish_predictions(known)
        for prediction in known:
            self._publish_records(streams[prediction.stream].detector.feed(prediction))

    def take_end(self, name: str) -> None:
        """End the events of a stream that was read to its end (in the engine's thread).

        Its end may also be that of the daemon, which closes the rings before the engine stops.
        """
        stream = self.streams.get(name)
        if stream is not None:
            reason = CloseReason.SHUTDOWN if self.shutting_down else CloseReason.ENDED
            self._publish_records(stream.detector.close(reason))

    def find_lost(self, hop_samples: int) -> list[Stream]:
        """Return the streams whose source is away and whose last audio the engine has read.

        Args:
            hop_samples: So much it needs to go on.
        """
        # A stream that ended or failed has closed its ring: the engine finishes it itself.
        return [
            stream
            for stream in self.streams.values()
            if stream.feeder.state in AWAY - RESTING and stream.ring.available() < hop_samples
        ]

    def end_events_of_lost_streams(self, hop_samples: int) -> None:
        """End the events of the streams `find_lost` finds; between two ticks of the engine.

        Within one it may have read their last and not yet told: that would begin new events.
        """
        for stream in self.find_lost(hop_samples):
            self._publish_records(stream.detector.close(CloseReason.LOST))

    def end_events(self) -> None:
        """End all events; call it when the engine has stopped."""
        for stream in self.streams.values():
            self._publish_records(stream.detector.close(CloseReason.SHUTDOWN))

    @property
    def finished(self) -> bool:
        """Every source has ended or failed for good, and the engine has read what they left.

        Without any stream it is not: the last one was removed, and another may be added.
        """
        streams = self.streams.values()
        return bool(streams) and all(
            stream.feeder.state in RESTING and stream.ring.ended for stream in streams
        )

    @property
    def has_remote(self) -> bool:
        """Some stream gets its audio from a sender."""
        return any(isinstance(one.source, RemoteSource) for one in self.streams.values())

    def states(self) -> list[HealthState]:
        """Return the state of every stream."""
        return [stream.feeder.state for stream in self.streams.values()]

    def healths(self) -> list[Health]:
        """Return state and totals of every stream."""
        return [stream.feeder.health() for stream in self.streams.values()]

    def ledgers(self) -> dict[str, dict[str, int]]:
        """Return the ledger of every stream."""
        return {name: stream.ledger() for name, stream in self.streams.items()}

    def describe(self) -> list[dict[str, Any]]:
        """Return every stream for the control method ``streams.list``."""
        return [self.describe_stream(name) for name in self.streams]

    def describe_stream(self, name: str) -> dict[str, Any]:
        """Return one stream with its state and totals.

        Raises:
            ConfigError: There is no such stream.
        """
        stream = self.find(name)
        return {
            "stream": name,
            "source": hide_credentials(stream.config.source),
            "health": stream.feeder.health(),
            "ledger": stream.ledger(),
            "events": stream.detector.summarise()._asdict(),
        }

    def count_events(self) -> tuple[int, int]:
        """Return how many events were opened and closed since the start."""
        totals = [stream.detector.summarise() for stream in self.streams.values()]
        opened, closed = self._past_events
        return opened + sum(one.opened for one in totals), closed + sum(
            one.closed for one in totals
        )

    def find(self, name: str) -> Stream:
        """Return a stream.

        Raises:
            ConfigError: There is none of that name.
        """
        if name not in self.streams:
            known = ", ".join(self.streams) or "none"
            raise ConfigError([f"there is no stream {name!r}; there are: {known}"])
        return self.streams[name]

    def _publish_records(self, records: Iterable[Event | Rejection]) -> None:
        for record in records:
            if isinstance(record, Event):
                self._publisher.publish_event(record)
            else:
                self._publisher.publish_rejection(record)
