"""What a daemon needs to begin, looked at before JAX is loaded, which takes seconds."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from streamcls.capture import Source
from streamcls.config import Config
from streamcls.header import find_checkpoint, read_header
from streamcls.publish.keys import ServerKeys
from streamcls.stream import check_source
from streamcls.suitability import check_events
from streamcls.summary import check_path


@dataclass(frozen=True, slots=True)
class Inputs:
    """What was found.

    Attributes:
        keys: Of the daemon; None where it has none.
        sources: Of all streams by name, not opened yet.
    """

    keys: ServerKeys | None
    sources: Mapping[str, Source]


def find_inputs(config: Config, summary_path: Path | None = None) -> Inputs:
    """Return what a configuration names, after looking whether it is there.

    Args:
        config: Checked configuration.
        summary_path: Where the final figures shall be written.

    Raises:
        PublishError: A key file cannot be used.
        CheckpointError: The model is unknown, or its header damaged.
        ConfigError: The event settings do not suit the model.
        SourceError: A source can never work (devices that may still appear are not refused).
        StreamclsError: The summary cannot be written.
    """
    if summary_path is not None:
        check_path(summary_path)
    security = config.security
    keys = ServerKeys.load(security.keys, security.clients) if security.keys else None
    header = read_header(find_checkpoint(config.model))
    check_events(config.streams, config.events, header)
    sources = {name: check_source(name, one, config) for name, one in config.streams.items()}
    return Inputs(keys, sources)
