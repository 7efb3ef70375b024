"""The daemon: wires the stages together and runs them; the only place that knows them all.

Read from top to bottom it is the life of the process: `Daemon.__init__` checks everything that can
be wrong before anything expensive happens, `start` opens sockets, compiles and captures, `serve`
waits in the main thread, `shutdown` ends the stages in the order of the data's way.

Threads: one feeder per stream writes its ring; the engine reads all rings; publisher, control and
ingest own their sockets; a reload builds in a thread of its own and changes over in the engine's;
the main thread only watches.
"""

import contextlib
import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streamcls.config import Config, load_config, stream_table
from streamcls.engine import (
    Engine,
    check_address_space,
    enable_compilation_cache,
    select_device,
)
from streamcls.errors import StreamclsError
from streamcls.ingest import Ingest
from streamcls.inputs import Inputs, find_inputs
from streamcls.notify import Notifier
from streamcls.publish.control import ControlServer
from streamcls.publish.journal import JournalLimits
from streamcls.publish.methods import (
    AddStreamParams,
    MethodTable,
    ReloadParams,
    StreamParams,
    ThresholdParams,
)
from streamcls.publish.publisher import SEND_QUEUE_MESSAGES, Publisher
from streamcls.registrar import Registrar
from streamcls.reload import Reloader
from streamcls.roster import AWAY, Roster
from streamcls.served import ServedModel, load_model
from streamcls.signals import stop_on_signals
from streamcls.summary import Summary, report
from streamcls.types import HealthState
from streamcls.units import samples_to_ms

_WATCH_PERIOD_S = 0.2
_FIRST_PERIOD_S = 0.01
_PERIOD_GROWTH = 1.1
"""So READY=1 comes at most a tenth of the time late that the sources have taken to begin."""
_STATUS_PERIOD_S = 5.0
_STATUS_STREAMS = 3
_COMPILE_LIMIT_S = 600.0
"""A start that compiles for longer hangs; a slow machine without a cache takes minutes."""
_RELOAD_GRACE_S = 5.0
log = logging.getLogger(__name__)


def run_daemon(
    config: Config,
    summary_path: Path | None = None,
    reread: Callable[[], Config] | None = None,
    inputs: Inputs | None = None,
) -> int:
    """Run until interrupted or until every source has ended.

    Args:
        config: Checked configuration.
        summary_path: Where to write the final figures as JSON; ``-`` is standard output.
        reread: Reads the configuration again, for SIGHUP; None reads the model again only.
        inputs: Of `find_inputs`, where that was called already.

    Returns:
        Exit status: 0 after a regular end, 1 when a source failed for good. While a reload still
        compiles it ends the process with that status instead of returning.

    Raises:
        StreamclsError: Something named in the configuration cannot be used.
    """
    daemon = Daemon(config, inputs or find_inputs(config, summary_path), reread)
    with stop_on_signals(daemon.stop, daemon.reload), Notifier() as notifier:
        try:
            daemon.start(notifier)
            # A full collection stops all threads to walk what is there, and most of that is JAX's
            # and stays for good: 190,000 objects, 160 ms without a prediction.
            gc.freeze()
            gc.enable()  # if it was switched off for the start
            daemon.serve(notifier)
        finally:
            notifier.stopping()
            summary = daemon.shutdown()
        report(summary, summary_path)
    status = 1 if summary.failed_streams else 0
    if daemon.compiling:
        # XLA cannot be stopped; coming back to an interpreter that ends it aborts the process.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(status)
    return status


class Daemon:
    """All stages of one configuration.

    Args:
        config: Checked configuration.
        inputs: Of `find_inputs` for it.
        reread: Reads the configuration again, for `reload`; None reads the model again only.

    Attributes:
        compiling: A reload was under way at the end, and is left behind.

    Raises:
        CheckpointError: The model is unknown or damaged.
        ModelError: The model does not allow the configured hop.
        SourceError: A source can never work (devices that may still appear are not refused).
        PublishError: An endpoint is malformed or refused, or a key file cannot be used.
    """

    def __init__(
        self,
        config: Config,
        inputs: Inputs,
        reread: Callable[[], Config] | None = None,
    ):
        self._config = config
        self._reread = reread
        self.compiling = False
        self._reload_wanted = threading.Event()
        self._stopping = threading.Event()
        self._started_s = time.monotonic()
        ipc_mode = int(config.security.ipc_mode, 8)
        check_address_space()
        threads = config.inference.threads or None
        log.info("computing on %s", select_device(config.inference.device, threads))
        model = load_model(config)
        self._publisher = Publisher(
            config.publish.endpoint,
            model.vocabulary,
            encoding=config.publish.encoding,
            top_k=config.publish.top_k,
            keys=inputs.keys,
            insecure=config.publish.insecure,
            ipc_mode=ipc_mode,
            # Of many streams, so much that half a second's pause of either reader loses nothing.
            queue_messages=max(1024, 8 * config.inference.max_streams),
            send_queue_messages=max(SEND_QUEUE_MESSAGES, 8 * config.inference.max_streams),
            journal=JournalLimits(
                messages=config.publish.journal_messages,
                age_s=config.publish.journal_s,
                total_bytes=config.publish.journal_mb << 20,
            ),
        )
        self._roster = Roster(self._publisher)
        self._registrar = Registrar(config, model, self._roster, self._publisher)
        for name, stream in config.streams.items():
            self._registrar.build(name, stream, inputs.sources[name])
        sockets: dict[str, Any] = {
            "keys": inputs.keys,
            "insecure": config.publish.insecure,
            "ipc_mode": ipc_mode,
        }
        methods = {
            "status": self._report_status,
            "streams.list": lambda _: self._roster.describe(),
            "streams.add": self._add_stream,
            "streams.remove": self._remove_stream,
            "model.reload": self._reload_model,
            "thresholds.set": self._set_thresholds,
            **self._publisher.methods(),
        }
        self._control = ControlServer(
            config.publish.control, MethodTable(methods), slow={"model.reload"}, **sockets
        )
        self._ingest: Ingest | None = None
        if self._roster.has_remote:
            self._ingest = Ingest(config.ingest.endpoint, **sockets)
        self._reloader = Reloader(config, model, self._registrar, self._publisher)
        self._engine: Engine | None = None

    def start(self, notifier: Notifier) -> None:
        """Bind the sockets, compile every bucket, then capture.

        The sockets come first: an address in use is found before seconds of compiling, and
        subscribers that are already waiting miss nothing.
        """
        self._publisher.start()
        self._control.start()
        log.info(
            "publishing on %s, control on %s", self._publisher.endpoint, self._control.endpoint
        )
        if self._ingest is not None:
            self._ingest.start()
            log.info("audio of senders is taken on %s", self._ingest.endpoint)
        if enable_compilation_cache() is None:
            log.warning("no writable compilation cache: every start compiles anew")
        model = self._reloader.model
        notifier.extend_start(_COMPILE_LIMIT_S, f"compiling model {model.checkpoint.header.name}")
        executor = model.build_executor(self._config.inference.max_streams)
        self._engine = Engine(
            executor,
            self._roster.take_predictions,
            self._roster.take_end,
            max_wait_s=self._config.inference.max_wait_ms / 1000,
        )
        self._engine.start()
        self._wait_for_subscriber(notifier)
        self._registrar.start(self._engine, self._ingest)

    def _wait_for_subscriber(self, notifier: Notifier) -> None:
        """Hold a file that is read at full speed until somebody listens, if configured."""
        limit_s = self._config.publish.wait_for_subscriber_s
        if limit_s > 0:
            notifier.extend_start(limit_s + _COMPILE_LIMIT_S, "waiting for a subscriber")
        give_up_s = time.monotonic() + limit_s
        while (left_s := give_up_s - time.monotonic()) > 0 and not self._stopping.is_set():
            if self._publisher.wait_for_subscriber(min(left_s, _WATCH_PERIOD_S)):
                return

    def serve(self, notifier: Notifier) -> None:
        """Watch over the stages until something asks to stop or every source has ended.

        Raises:
            Exception: What ended the engine's thread, if it died.
            RuntimeError: The thread of a socket died: nobody could hear us any more.
        """
        assert self._engine is not None
        ready = False
        reloading: threading.Thread | None = None
        watched_ticks, watchdog_due_s, status_due_s = -1, 0.0, 0.0
        period_s = _FIRST_PERIOD_S
        while not self._stopping.wait(period_s):
            period_s = min(_PERIOD_GROWTH * period_s, _WATCH_PERIOD_S)
            if self._engine.failure is not None:
                raise self._engine.failure
            self._check_sockets()
            if self._registrar.finished:
                return
            self._registrar.end_lost_events()
            now_s = time.monotonic()
            states = self._roster.states()
            if not ready and HealthState.STARTING not in states:
                notifier.ready(self._describe())
                ready = True
            if ready and reloading is None and self._reload_wanted.is_set():
                self._reload_wanted.clear()
                notifier.reloading()
                reloading = threading.Thread(target=self._reload, name="reload", daemon=True)
                reloading.start()
            if reloading is not None and not reloading.is_alive():
                notifier.ready(self._describe())
                reloading = None
            # Fed by completed windows; while no source is there, none can be expected.
            interval_s = notifier.watchdog_interval_s
            if interval_s is not None and now_s >= watchdog_due_s:
                progressed = self._engine.ticks != watched_ticks
                if progressed or AWAY.issuperset(states):
                    notifier.watchdog()
                    watched_ticks, watchdog_due_s = self._engine.ticks, now_s + interval_s / 2
            if ready and now_s >= status_due_s:
                notifier.status(self._describe())
                status_due_s = now_s + _STATUS_PERIOD_S

    def _check_sockets(self) -> None:
        for service in (self._publisher, self._control, self._ingest):
            if service is not None and not service.alive:
                raise RuntimeError(f"the socket {service.endpoint} has died, see the log above")

    def stop(self) -> None:
        """Ask `serve` to return; from any thread or a signal handler."""
        self._stopping.set()

    def reload(self) -> None:
        """Read configuration and model again; from any thread or a signal handler."""
        self._reload_wanted.set()

    def _reload(self) -> None:
        with contextlib.suppress(StreamclsError):  # it was logged, and every heartbeat says it
            self._reloader.reload(self._reread or (lambda: self._reloader.config))

    def shutdown(self) -> Summary:
        """End capture, then the engine, then the sockets; return the final figures."""
        self.compiling = not self._reloader.close(_RELOAD_GRACE_S)
        if self.compiling:
            log.info("a reload is still compiling; it is given up")
        if self._ingest is not None:
            self._ingest.close()
        self._registrar.stop_capture()
        if self._engine is not None:
            self._engine.stop()
        self._roster.end_events()
        self._control.close()
        self._publisher.close()
        return self._summarise()

    def _describe(self) -> str:
        """Return one line for ``systemctl status``."""
        assert self._engine is not None
        healths = self._roster.healths()
        others = [f"{one.stream} {one.state}" for one in healths if one.state != HealthState.LIVE]
        figures = [
            f"{len(healths) - len(others)}/{len(healths)} streams live",
            *others[:_STATUS_STREAMS],
            f"{self._engine.windows} windows",
            f"{sum(one.dropped_samples for one in healths)} samples dropped",
        ]
        if self._engine.latency.count:
            figures.append(f"latency p99 {self._engine.latency.percentile(99) * 1000:.0f} ms")
        return ", ".join(figures) + self._reloader.describe_failure()

    def _summarise(self) -> Summary:
        publisher = self._publisher.stats()
        return Summary.collect(
            model=self._reloader.model.checkpoint.header.name,
            uptime_s=time.monotonic() - self._started_s,
            windows=self._engine.windows if self._engine else 0,
            latency=self._engine.latency if self._engine else None,
            health=self._roster.healths(),
            ledgers=self._roster.ledgers(),
            events=self._roster.count_events(),
            messages_sent=publisher["sent"],
            messages_dropped=sum(publisher["dropped"].values()),
        )

    def _report_status(self, _: dict[str, Any]) -> dict[str, Any]:
        """Control method ``status``."""
        return {
            **self._describe_model(self._reloader.model),
            "reload": self._reloader.stats(),
            "publisher": self._publisher.stats(),
            "connections": {
                "publish": self._publisher.connections(),
                "control": self._control.connections(),
                "ingest": self._ingest.connections() if self._ingest else None,
            },
            "ingest": self._ingest.stats() if self._ingest else None,
            "summary": self._summarise(),
        }

    def _describe_model(self, model: ServedModel) -> dict[str, Any]:
        header = model.checkpoint.header
        return {
            "model": header.name,
            "path": str(model.checkpoint.path),
            "labels": header.labels,
            "hop_ms": samples_to_ms(model.hop_samples, model.rate_hz),
            "window_ms": samples_to_ms(model.window_samples, model.rate_hz),
            "sample_rate_hz": model.rate_hz,
        }

    def _reload_model(self, params: ReloadParams) -> dict[str, Any]:
        """Control method ``model.reload``."""
        return self._describe_model(self._reloader.reload_model(params.model))

    def _add_stream(self, params: AddStreamParams) -> dict[str, Any]:
        """Control method ``streams.add``: the same checks as for a configuration file."""
        keys = {**params.options, "source": params.source}
        table = stream_table(params.stream)
        overrides = {f"{table}.{key}": value for key, value in keys.items()}
        config = load_config(overrides=overrides, environ={}, origin="request")
        self._registrar.build(params.stream, config.streams[params.stream])
        return self._roster.describe_stream(params.stream)

    def _remove_stream(self, params: StreamParams) -> dict[str, Any]:
        """Control method ``streams.remove``."""
        return self._registrar.remove(params.stream)

    def _set_thresholds(self, params: ThresholdParams) -> dict[str, dict[str, list[float]]]:
        """Control method ``thresholds.set``."""
        return self._registrar.set_thresholds(
            params.stream, params.label, params.onset_threshold, params.offset_threshold
        )
