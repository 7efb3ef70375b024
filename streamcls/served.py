"""A model as the daemon serves it: checkpoint, hop, labels, and what is built from them.

Loaded by the daemon at its start and by every reload; immutable, so any thread may hold it.
"""

import logging
import re
import time
from dataclasses import dataclass

from streamcls.checkpoint import Checkpoint, find_checkpoint, load_checkpoint
from streamcls.config import Config
from streamcls.engine import Executor, build_executor, choose_hop_samples
from streamcls.errors import CheckpointError, ModelError
from streamcls.header import digest_checkpoint
from streamcls.postprocess.detector import EventDetector
from streamcls.postprocess.settings import EventSettings
from streamcls.publish.messages import Vocabulary
from streamcls.units import samples_to_ms

_NO_MEMORY = re.compile("RESOURCE_EXHAUSTED|can't start new thread|[Oo]ut of memory")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A checkpoint as a configuration wants it served.

    Attributes:
        checkpoint: Loaded and validated.
        digest: SHA-256 of the file.
        hop_samples: New audio per prediction.
        vocabulary: How its predictions are published.
    """

    checkpoint: Checkpoint
    digest: str
    hop_samples: int
    vocabulary: Vocabulary

    @property
    def rate_hz(self) -> int:
        """Sample rate of the audio it hears."""
        return self.checkpoint.front_end.sample_rate_hz

    @property
    def window_samples(self) -> int:
        """Audio behind one prediction."""
        return self.checkpoint.front_end.samples_for(self.checkpoint.model.window_frames)

    def build_detector(self, stream: str, events: EventSettings) -> EventDetector:
        """Return an event detector for one stream.

        Raises:
            ConfigError: The settings do not fit the model's labels.
        """
        header = self.checkpoint.header
        return EventDetector(
            events, header.labels, header.thresholds, header.unknown_labels, stream, header.task
        )

    def build_executor(self, max_streams: int) -> Executor:
        """Compile and check every bucket, keep those that pay; takes seconds.

        Raises:
            ModelError: The compiled steps contradict each other, or memory does not suffice.
        """
        began_s = time.monotonic()
        try:
            executor = build_executor(self.checkpoint, self.hop_samples, max_streams)
            executor.warm_up()
            executor.tune()
        except (MemoryError, RuntimeError) as error:  # JAX's own errors are RuntimeErrors
            if not isinstance(error, MemoryError) and not _NO_MEMORY.search(str(error)):
                raise
            raise ModelError(
                f"not enough memory to compile model {self.checkpoint.header.name} for "
                f"{max_streams} streams: lower inference.max_streams ({error})"
            ) from error
        log.info(
            "model %s ready in %.1f s: a prediction every %g ms over a window of %g ms, "
            "tiles of up to %d streams",
            self.checkpoint.header.name,
            time.monotonic() - began_s,
            samples_to_ms(self.hop_samples, self.rate_hz),
            samples_to_ms(executor.window_samples, self.rate_hz),
            executor.buckets[-1],
        )
        return executor


def load_model(config: Config) -> ServedModel:
    """Load the model that ``config`` names and check that it can be served so.

    Raises:
        CheckpointError: It is unknown or damaged, or was written to while it was read.
        ModelError: It does not allow the configured hop.
        PublishError: One of its labels cannot be published.
    """
    path = find_checkpoint(config.model)
    digest = digest_checkpoint(path)
    checkpoint = load_checkpoint(path)
    if digest_checkpoint(path) != digest:
        raise CheckpointError(
            f"{path} was written to while it was read; write another file and rename it"
        )
    header = checkpoint.header
    return ServedModel(
        checkpoint,
        digest,
        choose_hop_samples(checkpoint, config.inference.hop_ms),
        Vocabulary(header.name, tuple(header.labels)),
    )
