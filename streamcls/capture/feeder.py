"""The capture of one stream: source -> intake -> ring, kept alive for ever.

The feeder's thread owns the source and is the ring's only writer; files played in real time share
one thread (`pacer`). A source that breaks away is
closed and opened again without end, with growing pauses, and the outage becomes a hole in the
ring so that sample indices keep matching time. Every change of state, and at most once a second
every loss, is told to `on_health`.
"""

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

from streamcls.capture.intake import Intake
from streamcls.capture.pacer import Pacer
from streamcls.capture.resample import Channel, check_channel
from streamcls.capture.source import EndOfStream, PacedSource, Source, SourceLost
from streamcls.errors import SourceError
from streamcls.ring import Ring
from streamcls.types import Health, HealthState

RETRY_FIRST_S = 0.5
RETRY_LONGEST_S = 30.0
SILENCE_S = 10.0
"""So much digital silence is a muted or dead microphone, not a quiet room."""
REPORT_PERIOD_S = 1.0
DRIFT_NEWS_PPM = 10.0
"""So much must the drift of the source's clock have changed to be told again."""
DRIFT_LEAST_PPM = 0.1
"""Less is no drift: files and pipes follow our own clock."""


class Feeder:
    """Feeds one source into one ring.

    Args:
        stream: Name of the stream, for reports.
        source: Not open yet; belongs to the feeder from now on.
        ring: At the model's rate; the feeder becomes its writer (see `move_to`).
        channel: Which native channel, or ``mix``.
        on_health: Called on the feeder's thread, or on that of `tell`; must not block.

    Attributes:
        state: The newest state reported ...
        reason: ... and why.
    """

    def __init__(
        self,
        stream: str,
        source: Source,
        ring: Ring,
        channel: Channel = 0,
        on_health: Callable[[Health], None] = lambda health: None,
    ) -> None:
        self.stream = stream
        self.source = source
        self.ring = ring
        self.state = HealthState.STARTING
        self.reason = ""
        self._channel: Channel = channel
        self._on_health = on_health
        self._stopping = threading.Event()
        self._awake = threading.Event()
        self._intake = Intake(ring, channel, self._stopping)
        self._thread = threading.Thread(target=self._run, name=f"feeder {stream}", daemon=True)
        self._paced = source if isinstance(source, PacedSource) else None
        self._shares_thread = False
        self._hurry: Callable[[], None] = self._awake.set
        self._done = threading.Event()
        self._delivered = False  # audio, since it was opened
        self._next_ring: Ring | None = None
        self._past = (0, 0, 0, 0)  # captured, heard, dropped, overruns of rings that were left
        self._told_losses = (0, 0, 0, 0)
        self._losses_due_s = 0.0
        self._told_drift_ppm: float | None = None
        self._lost_s = 0.0

    def start(self, pacer: Pacer | None = None) -> None:
        """Begin to capture.

        Args:
            pacer: Works for sources that only wait for the clock; the others, and all without
                it, get a thread of their own.
        """
        if pacer is not None and self._paced is not None and self.source.live:
            self._shares_thread = True
            work = self._work()
            self._hurry = partial(pacer.hurry, work)
            pacer.add(work)
        else:
            self._thread.start()

    def ask_to_stop(self) -> None:
        """Let the capture end soon, without waiting for it."""
        self._stopping.set()
        self._hurry()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """End the capture and close the ring.

        Returns:
            False when the thread hangs in a driver and had to be left behind.
        """
        self.ask_to_stop()
        if self._shares_thread:
            self._done.wait(timeout_s)
        elif self._thread.ident is not None:
            self._thread.join(timeout_s)
        self._close_ring()
        ended = self._done.is_set() if self._shares_thread else not self._thread.is_alive()
        if not ended:  # nobody expects to hear more of a stream that was stopped
            self._on_health = lambda health: None
        return ended

    def retry_now(self) -> None:
        """Cut the pause before the next attempt short: the source may be back; any thread."""
        self._awake.set()

    def move_to(self, ring: Ring) -> None:
        """Write into another ring, of another rate, from the next block on; any thread.

        Nothing that is captured is lost: what came before goes into the old ring as a whole. The
        books are kept on that one until `settle`.
        """
        self._next_ring = ring
        self._awake.set()

    @property
    def moved(self) -> bool:
        """The last `move_to` was carried out."""
        return self._next_ring is None

    def settle(self, ring: Ring) -> None:
        """Close the books on the present ring, which nobody reads any more, and go on with `ring`.

        All that was not read is lost. The totals count in the rate of the new ring.
        """
        old, ratio = self.ring, ring.sample_rate_hz / self.ring.sample_rate_hz
        dropped = old.written + old.skipped - old.read
        captured, heard, lost, overruns = self._past
        self._past = (
            round((captured + old.written) * ratio),
            round((heard + old.read) * ratio),
            round((lost + dropped) * ratio),
            overruns + old.overrun_events,
        )
        self.ring = ring
        if self.state in (HealthState.ENDED, HealthState.FAILED):
            ring.close()

    @property
    def heard_samples(self) -> int:
        """How much of the captured audio has gone through a model."""
        return self._past[1] + self.ring.read

    def tell(self, reason: str) -> None:
        """Report the state once more, with something to know about the source; any thread."""
        self._on_health(self.health(reason))

    def health(self, reason: str = "") -> Health:
        """Return the state with the totals of this moment; any thread may ask."""
        dropped, xruns, overruns, nonfinite = self._count_losses()
        return Health(
            stream=self.stream,
            state=self.state,
            captured_samples=self._past[0] + self.ring.written,
            dropped_samples=dropped,
            xruns=xruns,
            overruns=overruns,
            nonfinite_samples=nonfinite,
            reason=reason,
            drift_ppm=self.ring.drift_ppm,
        )

    def _run(self) -> None:
        for pause_s in self._work():
            if pause_s > 0:
                self._awake.wait(pause_s)
                self._awake.clear()

    def _work(self) -> Iterator[float]:
        """Capture; yields how long to pause before going on."""
        try:
            yield from self._capture_and_report()
        finally:
            self._done.set()

    def _capture_and_report(self) -> Iterator[float]:
        self._enter(HealthState.STARTING, f"opening {self.source}")
        try:
            yield from self._capture_for_ever()
        except EndOfStream as end:
            self._finish(HealthState.ENDED, str(end) or f"{self.source} was read to its end")
        except SourceError as error:
            self._finish(HealthState.FAILED, str(error))
        except BaseException as error:  # a bug: loud on both ways, the stream and the log
            self._finish(HealthState.FAILED, f"internal error: {error!r}")
            raise
        self._close_ring()

    def _finish(self, state: HealthState, reason: str) -> None:
        self._close_ring()
        self._enter(state, reason)

    def _close_ring(self) -> None:
        self._intake.ring.close()
        self.ring.close()

    def _move(self) -> None:
        if self._next_ring is not None:
            self._intake.move_to(self._next_ring)
            self._next_ring = None

    def _capture_for_ever(self) -> Iterator[float]:
        """Run capture after capture until stopped; the pause grows while nothing is delivered."""
        attempt, retry_s = 0, RETRY_FIRST_S
        while not self._stopping.is_set():
            self._delivered = False
            try:
                self._move()
                yield from self._capture()
            except SourceLost as error:
                why = " ".join(str(error).split())  # a list of devices has several lines
                if self._delivered:
                    attempt, retry_s = 0, RETRY_FIRST_S
                if attempt == 0:
                    self._lost_s = time.monotonic()
                    self._enter(HealthState.LOST, why)
                attempt += 1
                self._enter(HealthState.RECOVERING, f"attempt {attempt} in {retry_s:g} s; {why}")
            if not self._stopping.is_set():
                yield retry_s
            retry_s = min(2 * retry_s, RETRY_LONGEST_S)

    def _capture(self) -> Iterator[float]:
        """Feed the ring from opening the source until it ends, is lost or nobody wants more."""
        try:
            self.source.open()
            while not self._stopping.is_set():
                block = self.source.read()
                self._move()
                if block is not None:
                    if not self._delivered:
                        self._check_channel()
                        self._delivered = True
                        self._intake.begin(self.source.sample_rate_hz, not self.source.live)
                    self._intake.take(block)
                    self._judge_silence()
                    self._tell_drift()
                self._tell_losses()
                if self._paced is not None:
                    yield self._paced.wait_s()
        finally:
            self._intake.end()
            self.source.close()

    def _check_channel(self) -> None:
        """Refuse a source without the channel; a live one may have it when it comes back."""
        try:
            check_channel(self._channel, self.source.channels)
        except SourceError as error:
            if self.source.finite:
                raise
            raise SourceLost(f"{self.source}: {error}") from error

    def _judge_silence(self) -> None:
        if self._intake.silence_s >= SILENCE_S:
            if self.state is not HealthState.SILENT:
                self._enter(HealthState.SILENT, f"digital silence for {SILENCE_S:g} s; muted?")
        elif self.state is HealthState.RECOVERING and self.ring.skipped:
            away_s = time.monotonic() - self._lost_s
            self._enter(
                HealthState.LIVE,
                f"audio arrives again from {self.source}, {away_s:.1f} s after it was lost",
            )
        elif self.state is not HealthState.LIVE:
            self._enter(HealthState.LIVE, f"audio arrives from {self.source}")

    def _tell_drift(self) -> None:
        drift_ppm, told_ppm = self.ring.drift_ppm, self._told_drift_ppm
        if drift_ppm is None:
            return
        change_ppm = abs(drift_ppm) if told_ppm is None else abs(drift_ppm - told_ppm)
        if change_ppm >= (DRIFT_LEAST_PPM if told_ppm is None else DRIFT_NEWS_PPM):
            self._told_drift_ppm = drift_ppm
            pace = "fast" if drift_ppm > 0 else "slow"
            reason = f"the clock of {self.source} is {abs(drift_ppm):.1f} ppm {pace}"
            self._enter(self.state, reason)

    def _tell_losses(self) -> None:
        losses = self._count_losses()
        now_s = time.monotonic()
        if losses != self._told_losses and now_s >= self._losses_due_s:
            names = ("samples dropped", "xruns", "overruns", "samples not finite")
            news = [
                f"{new - old} {name}"
                for name, new, old in zip(names, losses, self._told_losses, strict=True)
                if new != old
            ]
            self._enter(self.state, ", ".join(news))

    def _count_losses(self) -> tuple[int, int, int, int]:
        ring, intake = self.ring, self._intake
        _, _, lost, overruns = self._past
        dropped = lost + ring.skipped + ring.discarded + ring.overrun_samples
        overruns += ring.overrun_events
        return dropped, intake.xruns, overruns, intake.nonfinite_samples

    def _enter(self, state: HealthState, reason: str) -> None:
        self.reason = reason
        self.state = state
        self._told_losses = self._count_losses()
        self._losses_due_s = time.monotonic() + REPORT_PERIOD_S
        self._on_health(self.health(reason))
