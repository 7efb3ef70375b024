"""Whether the events of a configuration suit a model, as its header tells: without JAX."""

from collections.abc import Mapping

from streamcls.config import StreamConfig
from streamcls.config.checks import find_stream_problems
from streamcls.errors import ConfigError
from streamcls.header import Header
from streamcls.postprocess.rules import find_rule_problems
from streamcls.postprocess.settings import EventSettings


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

    def find(settings: EventSettings) -> list[str]:
        return find_rule_problems(settings, header.labels, header.thresholds, header.unknown_labels)

    # Only what a stream goes by counts: what all of them replace in [events] does not.
    problems = dict.fromkeys(message for _, message in find_stream_problems(streams, events, find))
    if problems:
        raise ConfigError(list(problems))
