"""Whether the events of a configuration suit a model, as its header tells: without JAX."""

from collections.abc import Mapping

from streamcls.config import StreamConfig, stream_table
from streamcls.errors import ConfigError
from streamcls.header import Header
from streamcls.postprocess.rules import resolve_rules
from streamcls.postprocess.settings import EventSettings, StreamEventSettings, settle_for_stream

_INHERITED = StreamEventSettings()


def check_events(
    streams: Mapping[str, StreamConfig], events: EventSettings, header: Header
) -> None:
    """Refuse event settings that name what the model does not have, or contradict its thresholds.

    Args:
        streams: Tables of the configuration by name.
        events: The table ``[events]``, of which they inherit.
        header: Of the model.

    Raises:
        ConfigError: With every problem found and the table it is in.
    """
    shared = _find_problems(events, header)
    own = [(name, one.events) for name, one in streams.items() if one.events != _INHERITED]
    # What some streams inherit is wrong for them; where none does, theirs is all that counts.
    found = dict.fromkeys(shared if len(own) < len(streams) else ())
    for name, table in own:
        for problem in _find_problems(settle_for_stream(events, table), header):
            found[problem if problem in shared else f"{stream_table(name)}.{problem}"] = None
    if found:
        raise ConfigError(list(found))


def _find_problems(events: EventSettings, header: Header) -> list[str]:
    try:
        resolve_rules(events, header.labels, header.thresholds, header.unknown_labels)
    except ConfigError as error:
        return error.problems
    return []
