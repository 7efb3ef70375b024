"""The stages without the daemon: arrays in, predictions and events out, in the caller's thread.

Flow: caller -> intake -> ring -> engine -> event detector -> caller. The same parts as in the
daemon, wired without threads and sockets, so that the same audio gives the same results. A
`Classifier` belongs to one thread at a time.
"""

import os
import threading
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamcls.capture.intake import Intake
from streamcls.capture.resample import Channel
from streamcls.checkpoint import find_checkpoint, load_checkpoint
from streamcls.engine import Engine, build_executor, choose_hop_samples
from streamcls.errors import SourceError
from streamcls.postprocess.detector import EventDetector
from streamcls.postprocess.ledger import CloseReason
from streamcls.postprocess.settings import EventSettings
from streamcls.ring import Ring
from streamcls.types import Block, Event, Prediction, Rejection
from streamcls.units import samples_to_ns

Result = Prediction | Event
Frames = NDArray[np.float32] | NDArray[np.int16]

_BLOCK_S = 0.02
_SLACK_S = 2.0
"""What the ring holds besides two hops: a block, and what a resampler lets go of at once."""
_LOWEST_RATE_HZ, _HIGHEST_RATE_HZ = 4_000, 384_000
_MAX_CHANNELS = 256


class Classifier:
    """Classifies audio that the caller feeds, in pieces of any size.

    Building one loads the model and compiles it (seconds); `feed` compiles nothing. Which pieces
    the audio comes in makes no difference to the results.

    Args:
        model: Name of a shipped model, or path of a checkpoint.
        hop_ms: New audio per prediction; a multiple of the model's stride.
        events: When a score becomes an event; the defaults of ``[events]`` if None.
        sample_rate_hz: Of the audio that will be fed; the model's own if None.
        channel: Which channel of ``[n, channels]`` audio, or ``mix`` for their mean.
        stream: Name that the results carry.
        start_ns: Time of the first sample, in nanoseconds since whatever the caller counts from.

    Attributes:
        labels: The model's classes, in the order of `Prediction.probabilities`.
        sample_rate_hz: What is to be fed.
        model_rate_hz: What sample indices in the results count in.
        hop_samples: New audio per prediction, at the model's rate.
        window_samples: Audio that one prediction hears, at the model's rate.

    Raises:
        CheckpointError: The model is unknown or damaged.
        ModelError: The model does not allow the hop.
        ConfigError: The event settings do not fit the model.
        SourceError: The rate cannot be resampled.

    Example:
        Print what is heard in an array, as it comes in::

            classifier = Classifier("commands", sample_rate_hz=48_000)
            for block in blocks:
                for result in classifier.feed(block):
                    match result:
                        case Event(state="onset", label=label, onset_ns=onset_ns):
                            print(f"{onset_ns / 1e9:.2f} s: {label}")
                        case Prediction(probabilities=probabilities):
                            print(classifier.labels[probabilities.argmax()])
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "commands",
        *,
        hop_ms: float = 80.0,
        events: EventSettings | None = None,
        sample_rate_hz: int | None = None,
        channel: Channel = 0,
        stream: str = "audio",
        start_ns: int = 0,
    ):
        checkpoint = load_checkpoint(find_checkpoint(os.fspath(model)))
        self.hop_samples = choose_hop_samples(checkpoint, hop_ms)
        self.model_rate_hz = checkpoint.front_end.sample_rate_hz
        self.sample_rate_hz = _check_rate(sample_rate_hz, self.model_rate_hz)
        self.labels = tuple(checkpoint.header.labels)
        self._header = checkpoint.header
        self._events = events or EventSettings()
        self._channel: Channel = channel
        self._name = stream
        self._streams: dict[str, _Stream] = {}
        live = self._build_stream(stream, self.sample_rate_hz, start_ns)  # before seconds of work
        # One slot for what is fed, one for the clips of `classify`; never both in one step.
        executor = build_executor(checkpoint, self.hop_samples, max_streams=2, max_bucket=1)
        executor.warm_up()
        self.window_samples = executor.window_samples
        self._engine = Engine(executor, self._take_predictions, self._take_end)
        self._begin(live)

    def feed(self, samples: ArrayLike, *, lost_samples: int = 0) -> list[Result]:
        """Take the next piece of audio.

        Args:
            samples: ``[n]`` or ``[n, channels]``, floats in [-1, 1] or int16, at
                `sample_rate_hz`; any n. Values that are not finite are replaced by zeros and
                flagged.
            lost_samples: Samples known lost immediately before these; the model begins afresh.

        Returns:
            Every prediction that the new audio completed, each followed by its events.

        Raises:
            SourceError: Not audio: wrong shape or type, or no such channel.
            ValueError: `lost_samples` is negative.
        """
        if lost_samples < 0:
            raise ValueError(f"lost_samples is {lost_samples}, must be at least 0")
        self._live.take(_as_frames(samples), lost_samples, self._run)
        return self._live.collect()

    def flush(self) -> list[Result]:
        """End the audio: return what was still to come, and begin anew as `reset` does.

        A last piece shorter than a hop is padded with silence; so is audio shorter than one
        window, once. Events that still go on end.
        """
        ended = self._live
        ended.end(self._run)
        self._begin(self._build_stream(self._name, self.sample_rate_hz, ended.start_ns))
        return ended.collect()

    def reset(self, start_ns: int | None = None) -> None:
        """Forget all audio and begin a new stream, at sample 0 and epoch 0.

        Args:
            start_ns: Time of its first sample; as before if None.
        """
        if start_ns is None:
            start_ns = self._live.start_ns
        self._engine.remove_stream(self._name)
        self._begin(self._build_stream(self._name, self.sample_rate_hz, start_ns))

    def classify(self, clip: ArrayLike, sample_rate_hz: int | None = None) -> dict[str, float]:
        """Classify one clip as a whole; what is being fed is not touched.

        Args:
            clip: As for `feed`.
            sample_rate_hz: Of the clip; as for `feed` if None.

        Returns:
            Every label with its highest probability in any window of the clip, best first.

        Raises:
            SourceError: Not audio, or none at all.
        """
        frames = _as_frames(clip)
        if len(frames) == 0:
            raise SourceError("the clip holds no audio (0 samples); give at least one sample")
        rate_hz = _check_rate(sample_rate_hz, self.sample_rate_hz)
        stream = self._build_stream(f"{self._name} clip", rate_hz, start_ns=0)
        self._begin(stream)
        try:
            stream.take(frames, 0, self._run)
            stream.end(self._run)
        finally:
            self._engine.remove_stream(stream.name)
            del self._streams[stream.name]
        windows = [one.probabilities for one in stream.collect() if isinstance(one, Prediction)]
        peaks = np.max(windows, axis=0)
        best_first = np.argsort(-peaks, kind="stable")
        return {self.labels[index]: float(peaks[index]) for index in best_first}

    @property
    def _live(self) -> "_Stream":
        return self._streams[self._name]

    def _build_stream(self, name: str, sample_rate_hz: int, start_ns: int) -> "_Stream":
        ring = Ring(2 * self.hop_samples + round(_SLACK_S * self.model_rate_hz), self.model_rate_hz)
        header = self._header
        detector = EventDetector(
            self._events,
            header.labels,
            header.thresholds,
            header.unknown_labels,
            name,
            header.task,
        )
        return _Stream(name, ring, detector, self._channel, sample_rate_hz, start_ns)

    def _begin(self, stream: "_Stream") -> None:
        self._engine.add_stream(stream.name, stream.ring, is_paced=False)
        self._streams[stream.name] = stream

    def _run(self) -> None:
        """Step until no stream has a whole hop left."""
        while self._engine.tick():
            pass

    def _take_predictions(self, predictions: Sequence[Prediction]) -> None:
        for prediction in predictions:
            self._streams[prediction.stream].take_prediction(prediction)

    def _take_end(self, name: str) -> None:
        self._streams[name].take_end()


class _Stream:
    """One stream's way from the caller's arrays to its results.

    Args:
        name: Of the stream.
        ring: Between `take` and the engine.
        detector: Of this stream alone.
        channel: Which channel of the audio.
        sample_rate_hz: Of the audio.
        start_ns: Time of its first sample.
    """

    def __init__(
        self,
        name: str,
        ring: Ring,
        detector: EventDetector,
        channel: Channel,
        sample_rate_hz: int,
        start_ns: int,
    ):
        self.name = name
        self.ring = ring
        self.start_ns = start_ns
        self._detector = detector
        self._sample_rate_hz = sample_rate_hz
        self._intake = Intake(ring, channel, threading.Event())
        self._intake.begin(sample_rate_hz, can_wait=False)
        self._position = 0
        self._lost_samples = 0
        self._found: list[Result] = []

    def take(self, frames: Frames, lost_samples: int, run: Callable[[], None]) -> None:
        """Bring audio into the ring, and let the engine ``run`` before it is full."""
        self._lost_samples += lost_samples
        self._position += lost_samples
        block_frames = max(1, round(_BLOCK_S * self._sample_rate_hz))
        for first in range(0, len(frames), block_frames):
            samples = frames[first : first + block_frames]
            t_ns = self.start_ns + samples_to_ns(self._position, self._sample_rate_hz)
            self._intake.take(Block(samples, t_ns, self._lost_samples))
            self._position += len(samples)
            self._lost_samples = 0
            run()

    def end(self, run: Callable[[], None]) -> None:
        """Bring the rest into the ring and close it."""
        self._intake.end()
        self.ring.close()
        run()

    def collect(self) -> list[Result]:
        """Return what was found since the last call."""
        found, self._found = self._found, []
        return found

    def take_prediction(self, prediction: Prediction) -> None:
        """Note a prediction and the events it completes (called by the engine)."""
        self._found.append(prediction)
        self._note(self._detector.feed(prediction))

    def take_end(self) -> None:
        """Note the events that end with the audio (called by the engine)."""
        self._note(self._detector.close(CloseReason.ENDED))

    def _note(self, records: Iterable[Event | Rejection]) -> None:
        self._found.extend(record for record in records if isinstance(record, Event))


def _as_frames(samples: ArrayLike) -> Frames:
    """Return audio as ``[n, channels]`` float32 or int16."""
    array = np.asarray(samples)
    if array.ndim not in (1, 2) or (array.ndim == 2 and not 1 <= array.shape[1] <= _MAX_CHANNELS):
        raise SourceError(
            f"audio of shape {list(array.shape)}: must be [n] or [n, channels] with at most "
            f"{_MAX_CHANNELS} channels; transpose [channels, n]"
        )
    if np.issubdtype(array.dtype, np.floating):
        # What is too large for float32 becomes infinite, and is flagged as such.
        with np.errstate(over="ignore"):
            array = array.astype(np.float32, copy=False)
    elif array.dtype != np.int16:
        raise SourceError(
            f"audio of type {array.dtype}: must be int16, or floats in [-1, 1]; convert it"
        )
    return array if array.ndim == 2 else array[:, np.newaxis]


def _check_rate(rate_hz: int | None, default_hz: int) -> int:
    if rate_hz is None:
        return default_hz
    if not _LOWEST_RATE_HZ <= rate_hz <= _HIGHEST_RATE_HZ:
        raise SourceError(
            f"sample_rate_hz = {rate_hz}: must be {_LOWEST_RATE_HZ} to {_HIGHEST_RATE_HZ}; "
            f"resample the audio first"
        )
    return rate_hz
