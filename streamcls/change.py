"""What another configuration or model does to the streams, planned before it is done.

Planning checks everything and changes nothing. The `registrar` calls it under its lock, in the
thread of whoever reloads, and then carries the plan out.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from streamcls.capture import RemoteSource
from streamcls.capture.pipe import PipeSource
from streamcls.config import Config, StreamConfig
from streamcls.errors import ConfigError
from streamcls.postprocess.detector import EventDetector
from streamcls.postprocess.settings import EventSettings, settle_for_stream
from streamcls.served import ServedModel
from streamcls.stream import Stream
from streamcls.units import samples_to_ms


@dataclass(frozen=True, slots=True)
class Present:
    """What there is before the change.

    Attributes:
        config: In force.
        model: In force.
        streams: All of them, by name.
        in_slots: Names of those for which the engine keeps a slot.
    """

    config: Config
    model: ServedModel
    streams: Mapping[str, Stream]
    in_slots: Collection[str]


@dataclass(frozen=True, slots=True)
class Change:
    """What a reload does to the streams.

    Attributes:
        removed: Names of the streams that go, be it to be made anew.
        added: The streams that come.
        kept: Those that stay and get other settings: table, event settings and new detector.
        moved: Of those that stay, the ones that need another ring: the new model hears another
            rate.
    """

    removed: list[str]
    added: dict[str, Stream]
    kept: dict[str, tuple[StreamConfig, EventSettings, EventDetector | None]]
    moved: list[str]


def plan_change(
    present: Present,
    config: Config,
    model: ServedModel,
    make: Callable[[str, StreamConfig], Stream],
) -> Change:
    """Compare what there is with what is wanted, check that it fits, and build what comes.

    Args:
        present: What there is.
        config: New.
        model: New, or the one in force.
        make: Checks and builds a stream of the new configuration.

    Raises:
        StreamclsError: Why it cannot be done.
    """
    removed, added = _replace(present, config, make)
    staying = {name: one for name, one in present.streams.items() if name not in removed}
    kept, moved = {}, []
    for name, stream in staying.items():
        kept[name] = _resettle(present, name, stream, config, model)
        if model.rate_hz != stream.ring.sample_rate_hz:
            moved.append(name)
        else:
            _check_hop(name, stream, config, model)
    check_senders(staying | added)
    check_input(staying | added)
    _check_slots(len(staying.keys() & set(present.in_slots)) + len(added), config)
    return Change(removed, added, kept, moved)


def _replace(
    present: Present, config: Config, make: Callable[[str, StreamConfig], Stream]
) -> tuple[list[str], dict[str, Stream]]:
    """Return the names of the streams that go, and the streams that come."""
    removed: list[str] = []
    added: dict[str, Stream] = {}
    for name in config.streams:
        table, stream = _find_news(present, name, config), present.streams.get(name)
        if table is None:
            continue
        if stream is None:
            added[name] = make(name, table)
        elif dataclasses.replace(table, events=stream.config.events) != stream.config:
            removed.append(name)
            added[name] = make(name, table)
    gone = present.config.streams.keys() - config.streams.keys()
    removed.extend(name for name in present.streams if name in gone)
    return removed, added


def _find_news(present: Present, name: str, config: Config) -> StreamConfig | None:
    """Return a stream's table where the configuration says something else than before.

    Where it does not, what was done over the control socket stays: the stream may have been
    removed, and another of its name added.
    """
    table = config.streams.get(name)
    return None if table == present.config.streams.get(name) else table


def _resettle(
    present: Present, name: str, stream: Stream, config: Config, model: ServedModel
) -> tuple[StreamConfig, EventSettings, EventDetector | None]:
    """Return table, event settings and (if one is needed) new detector of a stream that stays."""
    table = _find_news(present, name, config) or stream.config
    wanted = settle_for_stream(config.events, table.events)
    before = settle_for_stream(present.config.events, stream.config.events)
    # What thresholds.set has changed holds until the configuration says something else.
    events = stream.events if wanted == before else wanted
    is_other = model is not present.model or events != stream.events
    return table, events, model.build_detector(name, events) if is_other else None


def _check_hop(name: str, stream: Stream, config: Config, model: ServedModel) -> None:
    if model.hop_samples > stream.ring.longest_hop_samples:
        longest_ms = samples_to_ms(stream.ring.longest_hop_samples, model.rate_hz)
        raise ConfigError(
            [
                f"inference.hop_ms = {config.inference.hop_ms:g}: the ring of stream "
                f"{name!r} allows {longest_ms:g} ms while it runs; remove the stream first"
            ]
        )


def _check_slots(n_streams: int, config: Config) -> None:
    if n_streams > config.inference.max_streams:
        raise ConfigError(
            [
                f"inference.max_streams = {config.inference.max_streams}: {n_streams} streams "
                f"would run, with those added over the control socket; raise it"
            ]
        )


def check_senders(streams: Mapping[str, Stream]) -> None:
    """Refuse two takers of one sender; a configuration does not know what else was added."""
    takers: dict[str, str] = {}
    for name, stream in streams.items():
        if not isinstance(stream.source, RemoteSource):
            continue
        first = takers.setdefault(stream.source.name, name)
        if first != name:
            raise ConfigError(
                [
                    f"stream {name!r}: {first!r} already takes the audio of the sender "
                    f"{stream.source.name!r}; give each remote: another name, or remove "
                    f"{first!r} first"
                ]
            )


def check_input(streams: Mapping[str, Stream]) -> None:
    """Refuse two readers of standard input, of which each would get a part."""
    readers = [name for name, stream in streams.items() if isinstance(stream.source, PipeSource)]
    if len(readers) > 1:
        raise ConfigError(
            [f"streams {', '.join(readers)}: there is only one standard input; remove one first"]
        )
