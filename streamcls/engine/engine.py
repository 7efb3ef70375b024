"""The engine's thread: collects waiting hops from all rings, steps them together, hands on results.

Flow: ring -> **engine** (features, model) -> publish. A ring that has a whole hop puts its stream
into a queue; the thread sleeps until the queue is worth a step. A tick takes at most one hop from
each stream, in the order in which they became ready, so a stream with a backlog cannot hold up the
others; when all have one, each gets the same share and what does not fit is dropped by its own
ring. Streams join and leave between two ticks by taking and freeing a slot; nothing compiles after
`Executor.warm_up`. Another model takes over between two ticks, too: every reader goes back by a
window, so that the model has heard it all.
"""

import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass

from streamcls.engine.executor import FULL_SCALE, Executor
from streamcls.engine.ready import ReadyQueue
from streamcls.engine.window import WindowTracker, power_to_dbfs
from streamcls.errors import ModelError
from streamcls.latency import LatencyHistogram
from streamcls.ring import Ring
from streamcls.types import FloatArray, Hop, Prediction
from streamcls.units import NS_PER_S, samples_to_ns

_IDLE_WAIT_S = 0.5
DEFAULT_MAX_WAIT_S = 0.002


@dataclass(slots=True, eq=False)
class _Stream:
    """A stream that holds a slot."""

    name: str
    ring: Ring
    slot: int
    tracker: WindowTracker
    is_paced: bool
    removed: bool = False


class Engine:
    """Turns the audio in the rings into predictions, all streams together.

    Args:
        executor: Warmed up; from `start` on it belongs to the engine's thread.
        on_predictions: Called in the engine's thread with the complete windows of a step, at most
            one of each stream; must not block.
        on_end: Called in the engine's thread with the name of a finite stream that is read to
            its end, after its last prediction.
        max_wait_s: How long a hop may wait for those of other streams to be stepped with it.

    Attributes:
        windows: Predictions made.
        ticks: Compiled steps run.
        latency: From the capture time of a window's last sample to its hand-over, for audio that
            comes in real time.
    """

    def __init__(
        self,
        executor: Executor,
        on_predictions: Callable[[Sequence[Prediction]], None],
        on_end: Callable[[str], None],
        max_wait_s: float = DEFAULT_MAX_WAIT_S,
    ):
        self._executor = executor
        self._on_predictions = on_predictions
        self._on_end = on_end
        self._lock = threading.Lock()
        self._streams: dict[str, _Stream] = {}
        self._free_slots = deque(range(executor.max_streams))
        self._ready = ReadyQueue[_Stream](max_wait_s)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._failure: Exception | None = None
        self._calls: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._take_tile()
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
        self._ready.wake()
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
            stream = self._streams[name] = _Stream(name, ring, slot, tracker, is_paced)
            self._set_enough()
        ring.listen(functools.partial(self._hear, stream))
        self._hear(stream)  # what came before

    def remove_stream(self, name: str) -> None:
        """Free a stream's slot; unknown names are ignored (the stream may just have ended)."""
        with self._lock:
            stream = self._streams.pop(name, None)
            if stream is not None:
                stream.removed = True
                self._free_slots.append(stream.slot)
                self._set_enough()

    def names(self) -> set[str]:
        """Return the streams that have a slot: also those that ended and were not finished yet."""
        with self._lock:
            return set(self._streams)

    def call(self, function: Callable[[], None], timeout_s: float = 10.0) -> None:
        """Run ``function`` between two ticks, in the engine's thread, and wait for its end.

        When that thread does not run (yet, or any more) there are no ticks: it runs at once, here.

        Raises:
            ModelError: The engine did not come to it in time.
            Exception: What ``function`` raised.
        """
        future: Future[None] = Future()
        self._calls.append((function, future))
        self._ready.wake()
        give_up_s = time.monotonic() + timeout_s
        while not future.done() and (left_s := give_up_s - time.monotonic()) > 0:
            if not self._thread.is_alive():
                self._run_calls()
            wait([future], min(left_s, _IDLE_WAIT_S))
        if future.cancel():
            raise ModelError(
                f"the engine has not finished its work for {timeout_s:g} s; "
                f"is the machine overloaded?"
            )
        future.result()  # ended, or has begun just now and takes no longer than a tick

    def swap(self, executor: Executor, rings: Mapping[str, Ring] | None = None) -> None:
        """Go on with another executor; in the engine's thread, between two ticks (`call`).

        Every stream keeps its place: its ring is rewound by the window of the new executor, which
        hears it again before it predicts. So the next prediction is the one that the new model
        would have made, had it run all along, and it is that of the next hop. A stream whose ring
        does not reach back so far (it has just begun, or the new window is much longer) is silent
        until its window is full, without a new epoch.

        Args:
            executor: Warmed up.
            rings: Of streams that go on in another ring, of the executor's rate: each begins a new
                epoch. What is left in the old one is not read any more.

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
            self._take_tile()
            self._free_slots = deque(range(executor.max_streams))
            streams = list(self._streams.values())
            for stream in streams:
                geometry = executor.window_samples, executor.hop_samples
                if rings and (ring := rings.get(stream.name)) is not None:
                    stream.ring.listen(lambda: None)
                    stream.ring, tracker = ring, stream.tracker.begin_again(*geometry)
                    ring.listen(functools.partial(self._hear, stream))
                else:
                    tracker = stream.tracker.succeed(*geometry)
                    if stream.tracker.hops > 0:
                        stream.ring.rewind(executor.hop_samples, tracker.hops_per_window - 1)
                stream.slot, stream.tracker = self._free_slots.popleft(), tracker
        for stream in streams:
            self._hear(stream)  # what it has to hear again

    def _take_tile(self) -> None:
        self._tile_rows = self._executor.buckets[-1]
        self._rows = list(self._executor.tile)
        self._set_enough()

    def _set_enough(self) -> None:
        """More than a full tile, or all streams, is not worth waiting for."""
        self._ready.enough = max(1, min(self._tile_rows, len(self._streams)))

    def tick(self) -> bool:
        """Step every stream that has a hop, once; tell whether there was anything to do.

        The thread does nothing else. Without `start`, whoever owns the engine calls it.
        """
        ready = self._ready.take_all()
        tile: list[tuple[_Stream, Hop]] = []
        ended: list[_Stream] = []
        for stream in ready:
            hop = None if stream.removed else stream.ring.read_hop(self._rows[len(tile)])
            if hop is None:
                if stream.ring.ended and not stream.removed:
                    ended.append(stream)
                continue
            tile.append((stream, hop))
            if len(tile) == self._tile_rows:
                self._step(tile)
                tile = []
        if tile:
            self._step(tile)
        for stream in ended:  # last: padding a short clip needs the tile
            self._finish(stream)
        return bool(ready)

    def _hear(self, stream: _Stream) -> None:
        """Queue a stream that may have a hop (on the thread that writes its ring, or ours)."""
        if stream.ring.available() >= self._executor.hop_samples or stream.ring.closed:
            self._ready.put(stream)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._ready.wait(_IDLE_WAIT_S)
                self._run_calls()
                self.tick()
        except Exception as error:  # noqa: BLE001 - the daemon must learn of it, whatever it is
            self._failure = error

    def _run_calls(self) -> None:
        while self._calls:
            function, future = self._calls.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                function()
            except Exception as error:  # noqa: BLE001 - for the caller, whatever it is
                future.set_exception(error)
            else:
                future.set_result(None)

    def _step(self, tile: list[tuple[_Stream, Hop]]) -> None:
        """Run the hops in the first rows of the executor's tile and emit what is complete."""
        slots = [stream.slot for stream, _ in tile]
        fresh = [stream.tracker.starts_epoch(hop) for stream, hop in tile]
        result = self._executor.step_tile(slots, fresh)
        self.ticks += 1
        complete = []
        said = zip(tile, result.mean_square, result.peak, result.probabilities, strict=True)
        for (stream, hop), power, peak, probabilities in said:
            stream.tracker.add(hop, power_to_dbfs(power), peak >= FULL_SCALE)
            if stream.tracker.tells and not stream.removed:
                complete.append((stream, _predict(stream, probabilities)))
            self._hear(stream)
        self._emit(complete)

    def _emit(self, complete: list[tuple[_Stream, Prediction]]) -> None:
        if not complete:
            return
        self._on_predictions([prediction for _, prediction in complete])
        self.windows += len(complete)
        now_ns = time.time_ns()
        for stream, prediction in complete:
            # A time that is yet to come says that the audio runs ahead of the clock, as a recording
            # through a pipe does: when it was really heard nobody knows.
            if stream.is_paced and prediction.t_end_ns <= now_ns:
                self.latency.add((now_ns - prediction.t_end_ns) / NS_PER_S)

    def _finish(self, stream: _Stream) -> None:
        """End a stream; audio that filled no window is padded and predicted once."""
        if 0 < stream.tracker.hops < stream.tracker.hops_per_window:
            self._pad_to_window(stream)
        self.remove_stream(stream.name)
        stream.ring.release()  # the stream may stay on the roster for as long as the daemon runs
        self._on_end(stream.name)

    def _pad_to_window(self, stream: _Stream) -> None:
        """Feed silence until the window is whole, so that a short clip gets its prediction."""
        self._rows[0][:] = 0.0
        result = None
        while not stream.tracker.complete:
            result = self._executor.step_tile([stream.slot], [False])
            stream.tracker.add_padding()
        assert result is not None
        if stream.tracker.tells:
            self._emit([(stream, _predict(stream, result.probabilities[0]))])


def _predict(stream: _Stream, probabilities: FloatArray) -> Prediction:
    """Return the prediction of a stream's newest window."""
    tracker, ring = stream.tracker, stream.ring
    sample_start, sample_end = tracker.sample_start, tracker.sample_end
    t_end_ns = ring.time_ns(sample_end)
    heard_ns = samples_to_ns(sample_end - sample_start, ring.sample_rate_hz)
    return Prediction(
        stream=stream.name,
        epoch=tracker.epoch,
        sample_start=sample_start,
        sample_end=sample_end,
        sample_rate_hz=ring.sample_rate_hz,
        # Not asked for by itself: the system's clock may be set in between.
        t_start_ns=t_end_ns - heard_ns,
        t_end_ns=t_end_ns,
        level_dbfs=tracker.level_dbfs,
        flags=tracker.flags,
        probabilities=probabilities,
    )
