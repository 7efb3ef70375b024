"""The engine's thread: collects waiting hops from all rings, steps them together, hands on results.

Flow: ring -> **engine** (features, model) -> publish. The thread sleeps on one event that every
ring sets when it has news. A tick takes at most one hop from each stream, so a stream with a
backlog cannot hold up the others. Streams join and leave between two ticks by taking and freeing a
slot; nothing compiles after `Executor.warm_up`. Another model takes over between two ticks, too:
every reader goes back by a window, so that the model has heard it all.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace

import numpy as np

from streamcls.engine.executor import FULL_SCALE, Executor, StepResult
from streamcls.engine.latency import LatencyHistogram
from streamcls.engine.window import WindowTracker
from streamcls.errors import ModelError
from streamcls.ring import Ring
from streamcls.types import Hop, Prediction
from streamcls.units import NS_PER_S

_IDLE_WAIT_S = 0.5


@dataclass(frozen=True, slots=True)
class _Stream:
    """A stream that holds a slot."""

    name: str
    ring: Ring
    slot: int
    tracker: WindowTracker
    is_paced: bool


class Engine:
    """Turns the audio in the rings into predictions, all streams together.

    Args:
        executor: Warmed up; from `start` on it belongs to the engine's thread.
        wake: Set by the rings whenever they have news.
        on_prediction: Called in the engine's thread for every complete window; must not block.
        on_end: Called in the engine's thread with the name of a finite stream that is read to
            its end, after its last prediction.

    Attributes:
        windows: Predictions made.
        ticks: Compiled steps run.
        latency: From the capture time of a window's last sample to its hand-over.
    """

    def __init__(
        self,
        executor: Executor,
        wake: threading.Event,
        on_prediction: Callable[[Prediction], None],
        on_end: Callable[[str], None],
    ):
        self._executor = executor
        self._wake = wake
        self._on_prediction = on_prediction
        self._on_end = on_end
        self._lock = threading.Lock()
        self._streams: dict[str, _Stream] = {}
        self._free_slots = deque(range(executor.max_streams))
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._failure: Exception | None = None
        self._calls: deque[Callable[[], None]] = deque()
        self._allocate_staging()
        self.windows = 0
        self.ticks = 0
        self.latency = LatencyHistogram()

    @property
    def failure(self) -> Exception | None:
        """The error that ended the thread, if one did."""
        return self._failure

    @property
    def idle(self) -> bool:
        """No stream is left: every finite one was finished."""
        return not self._streams

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Finish the tick in progress and end the thread."""
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def add_stream(self, name: str, ring: Ring, is_paced: bool = True) -> None:
        """Give a stream a slot; its ring belongs to the engine's reader side from now on.

        Args:
            name: Of the stream.
            ring: Its audio.
            is_paced: The audio comes in real time, so that its latency means something.

        Raises:
            ModelError: All slots are taken or the name is in use.
        """
        with self._lock:
            if name in self._streams:
                raise ModelError(f"stream {name!r} exists already; remove it first")
            if not self._free_slots:
                raise ModelError(
                    f"all {self._executor.max_streams} streams are in use; "
                    f"raise inference.max_streams"
                )
            tracker = WindowTracker(self._executor.window_samples, self._executor.hop_samples)
            slot = self._free_slots.popleft()
            self._streams[name] = _Stream(name, ring, slot, tracker, is_paced)
        self._wake.set()

    def remove_stream(self, name: str) -> None:
        """Free a stream's slot; unknown names are ignored (the stream may just have ended)."""
        with self._lock:
            stream = self._streams.pop(name, None)
            if stream is not None:
                self._free_slots.append(stream.slot)

    def call(self, function: Callable[[], None], timeout_s: float = 10.0) -> None:
        """Run ``function`` in the engine's thread between two ticks and wait for its end.

        Raises:
            ModelError: The engine did not come to it in time, or has ended.
            Exception: What ``function`` raised.
        """
        future: Future[None] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except Exception as error:  # noqa: BLE001 - for the caller, whatever it is
                    future.set_exception(error)

        self._calls.append(run)
        self._wake.set()
        try:
            future.result(timeout_s)
        except TimeoutError:
            if future.cancel():
                raise ModelError(
                    f"the engine did not finish its work within {timeout_s:g} s; "
                    f"is the machine overloaded?"
                ) from None
            future.result()  # it has begun just now and takes no longer than a tick

    def swap(self, executor: Executor) -> None:
        """Go on with another executor; in the engine's thread, between two ticks (`call`).

        Every stream keeps its place: its ring is rewound by the window of the new executor, which
        hears it again before it predicts. So the next prediction is the one that the new model
        would have made, had it run all along, and it is that of the next hop. A stream whose ring
        does not reach back so far (it has just begun, or the new window is much longer) is silent
        until its window is full, without a new epoch.

        Args:
            executor: Warmed up, for the rate of the rings.

        Raises:
            ModelError: It has fewer slots than there are streams; nothing was changed.
        """
        with self._lock:
            if len(self._streams) > executor.max_streams:
                raise ModelError(
                    f"{len(self._streams)} streams are there, inference.max_streams is "
                    f"{executor.max_streams}; raise it, or remove streams first"
                )
            self._executor = executor
            self._allocate_staging()
            self._free_slots = deque(range(executor.max_streams))
            for name, stream in self._streams.items():
                tracker = stream.tracker.succeed(executor.window_samples, executor.hop_samples)
                if stream.tracker.hops > 0:
                    stream.ring.rewind(executor.hop_samples, tracker.hops_per_window - 1)
                slot = self._free_slots.popleft()
                self._streams[name] = replace(stream, slot=slot, tracker=tracker)
        self._wake.set()

    def _allocate_staging(self) -> None:
        executor = self._executor
        largest = executor.buckets[-1]
        self._audio = np.zeros((largest, executor.hop_samples), np.float32)
        self._slots = np.zeros(largest, np.int32)
        self._fresh = np.zeros(largest, bool)

    def tick(self) -> bool:
        """Step every stream that has a hop, once; tell whether there was any.

        The thread does nothing else. Without `start`, whoever owns the engine calls it.
        """
        with self._lock:
            streams = list(self._streams.values())
        worked = False
        tile: list[tuple[_Stream, Hop]] = []
        for stream in streams:
            row = len(tile)
            hop = stream.ring.read_hop(self._audio[row])
            if hop is None:
                if stream.ring.ended:
                    self._finish(stream)
                    worked = True
                continue
            self._slots[row] = stream.slot
            self._fresh[row] = stream.tracker.starts_epoch(hop)
            tile.append((stream, hop))
            if len(tile) == len(self._audio):
                self._step(tile)
                worked, tile = True, []
        if tile:
            self._step(tile)
            worked = True
        return worked

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._wake.wait(_IDLE_WAIT_S)
                self._wake.clear()
                self._run_calls()
                while not self._stopping.is_set() and self.tick():
                    self._run_calls()
        except Exception as error:  # noqa: BLE001 - the daemon must learn of it, whatever it is
            self._failure = error

    def _run_calls(self) -> None:
        while self._calls:
            self._calls.popleft()()

    def _step(self, tile: list[tuple[_Stream, Hop]]) -> None:
        """Run the hops in the first rows of the staging arrays and emit what is complete."""
        n = len(tile)
        result = self._executor.step(self._audio[:n], self._slots[:n], self._fresh[:n])
        self.ticks += 1
        for row, (stream, hop) in enumerate(tile):
            clipped = float(result.peak[row]) >= FULL_SCALE
            stream.tracker.add(hop, float(result.mean_square[row]), clipped)
            if stream.tracker.tells:
                self._emit(stream, result, row)

    def _emit(self, stream: _Stream, result: StepResult, row: int) -> None:
        tracker, ring = stream.tracker, stream.ring
        t_end_ns = ring.time_ns(tracker.sample_end)
        self._on_prediction(
            Prediction(
                stream=stream.name,
                epoch=tracker.epoch,
                sample_start=tracker.sample_start,
                sample_end=tracker.sample_end,
                sample_rate_hz=ring.sample_rate_hz,
                t_start_ns=ring.time_ns(tracker.sample_start),
                t_end_ns=t_end_ns,
                level_dbfs=tracker.level_dbfs,
                flags=tracker.flags,
                probabilities=result.probabilities[row],
            )
        )
        self.windows += 1
        if stream.is_paced:
            self.latency.add((time.time_ns() - t_end_ns) / NS_PER_S)

    def _finish(self, stream: _Stream) -> None:
        """End a stream; audio that filled no window is padded and predicted once."""
        if 0 < stream.tracker.hops < stream.tracker.hops_per_window:
            self._pad_to_window(stream)
        self.remove_stream(stream.name)
        self._on_end(stream.name)

    def _pad_to_window(self, stream: _Stream) -> None:
        """Feed silence until the window is whole, so that a short clip gets its prediction."""
        self._audio[0] = 0.0
        self._slots[0] = stream.slot
        self._fresh[0] = False
        result = None
        while not stream.tracker.complete:
            result = self._executor.step(self._audio[:1], self._slots[:1], self._fresh[:1])
            stream.tracker.add_padding()
        assert result is not None
        if stream.tracker.tells:
            self._emit(stream, result, 0)
