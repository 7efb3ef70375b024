"""Another configuration, another model, while the daemon runs: build, check, then change over.

A reload runs in the thread of whoever asks for it (SIGHUP: a thread of the daemon's; the control
method ``model.reload``: the control socket's worker), one after the other. It reads the
configuration and the checkpoint, checks them against each other and against the streams, compiles
and warms the new executor, all while the old one serves; nothing of that touches what serves. Only
then `Registrar.change` makes the change, in the engine's thread between two ticks. Whatever fails
before leaves everything as it was, and is told: to who asked, in the log, in every heartbeat and in
the control method ``status``.

The main thread closes; the lock serialises the reloads and is never held by another thread.
"""

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from streamcls.config import Config
from streamcls.errors import ReloadError, StreamclsError
from streamcls.publish.publisher import Publisher
from streamcls.registrar import Registrar
from streamcls.served import ServedModel, load_model
from streamcls.suitability import check_events

LIVE_KEYS = (
    "model",
    "streams",
    "inference.hop_ms",
    "inference.max_streams",
    "inference.ring_s",
    "events",
    "log",
    "publish.top_k",
)
"""What a reload may change; the sockets, keys and everything else belong to the process."""

_ERROR_LIMIT_CHARS = 2_000
log = logging.getLogger(__name__)


class Reloader:
    """Changes configuration and model of a running daemon; all methods are thread-safe.

    Args:
        config: In force.
        model: In force.
        registrar: Of the streams; started.
        publisher: Told the outcome of each reload.

    Attributes:
        config: In force; only a successful reload replaces it ...
        model: ... and this.
        busy: A reload is under way.
    """

    def __init__(
        self, config: Config, model: ServedModel, registrar: Registrar, publisher: Publisher
    ):
        self.config = config
        self.model = model
        self.busy = False
        self._registrar = registrar
        self._publisher = publisher
        self._lock = threading.Lock()
        self._closed = False
        self._done = 0
        self._failed = 0
        self._error = ""
        self._took_s = 0.0

    def reload(self, load: Callable[[], Config]) -> ServedModel:
        """Change to the configuration that ``load`` returns and to the model it names.

        Args:
            load: Called when it is this reload's turn. It may look at `config`.

        Returns:
            The model in force.

        Raises:
            StreamclsError: Why nothing has changed.
        """
        with self._lock:
            self.busy = True
            began_s = time.monotonic()
            try:
                self._change(load)
            except Exception as error:
                self._failed += 1
                self._error = (str(error) or repr(error))[:_ERROR_LIMIT_CHARS]
                log.error("reload failed, all stays as it was: %s", self._error)
                if isinstance(error, StreamclsError):
                    raise
                log.exception("reload failed for no known reason")
                raise ReloadError(f"reload failed: {self._error}; the log says more") from error
            else:
                self._done += 1
                self._error = ""
                return self.model
            finally:
                self._took_s = time.monotonic() - began_s
                self._publisher.tell_reload(self._done, self._error)
                self.busy = False

    def reload_model(self, name: str | None) -> ServedModel:
        """Change to another model, or read the present one again; the rest stays (`reload`)."""
        return self.reload(
            lambda: dataclasses.replace(self.config, model=name or self.config.model)
        )

    def close(self, timeout_s: float) -> bool:
        """Let no reload change anything from now on; wait for the one under way.

        Returns:
            False when it still compiles; it will end without effect.
        """
        self._closed = True
        if not self._lock.acquire(timeout=timeout_s):
            return False
        self._lock.release()
        return True

    def describe_failure(self) -> str:
        """Return a clause for a status line; empty unless the last reload failed."""
        return f"; reload failed, all stays as it was: {self._error}" if self._error else ""

    def stats(self) -> dict[str, Any]:
        """Return counters since start, and how the last reload went."""
        return {
            "busy": self.busy,
            "done": self._done,
            "failed": self._failed,
            "error": self._error,
            "took_s": round(self._took_s, 3),
        }

    def _change(self, load: Callable[[], Config]) -> None:
        self._check_open()
        config = load()
        fixed = list(find_fixed_changes(self.config, config))
        if fixed:
            raise ReloadError(
                f"a running daemon cannot change {', '.join(fixed)}; start it again instead"
            )
        model = load_model(config)
        check_events(config.streams, config.events, model.checkpoint.header)
        # Twice: here, where finding out takes no time, and for good when the model is ready.
        self._registrar.check(config, model)
        inference, present = config.inference, self.config.inference
        is_same = (model.digest, model.hop_samples, inference.max_streams) == (
            self.model.digest,
            self.model.hop_samples,
            present.max_streams,
        )
        executor = None if is_same else model.build_executor(inference.max_streams)
        self._check_open()
        if is_same:
            model = self.model
        self._registrar.change(config, model, executor)
        self._publisher.set_top_k(config.publish.top_k)
        self.config, self.model = config, model
        logging.getLogger().setLevel(config.log.level.upper())
        log.info(
            "reloaded: model %s%s, streams %s",
            model.checkpoint.header.name,
            " unchanged" if is_same else "",
            ", ".join(self._registrar.names()) or "none",
        )

    def _check_open(self) -> None:
        if self._closed:
            raise ReloadError("the daemon is shutting down; nothing was changed")


def find_fixed_changes(old: Config, new: Config) -> Iterator[str]:
    """Yield each key, ``publish.endpoint``, that differs and cannot change in a running daemon."""
    for section in dataclasses.fields(Config):
        name = section.name
        before, after = getattr(old, name), getattr(new, name)
        if name in LIVE_KEYS or name == "origins" or before == after:
            continue
        for field in dataclasses.fields(before):
            key = f"{name}.{field.name}"
            if key not in LIVE_KEYS and getattr(before, field.name) != getattr(after, field.name):
                yield key
