"""`streamcls doctor`: look at everything a daemon needs here and say what to do about the rest.

`examine` yields one finding after the other, so that they can be shown as they come. It opens what
the daemon would open, for a moment, and changes nothing. `finding` is what a check says, `host`
looks at the machine, `daemon` at the configuration, its audio and its sockets.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from streamcls.config import load_config
from streamcls.doctor import daemon, host
from streamcls.doctor.finding import Finding, Grade, attempt
from streamcls.errors import StreamclsError

__all__ = ["Finding", "Grade", "examine"]


def examine(path: Path | None, overrides: Mapping[str, object]) -> Iterator[Finding]:
    """Yield what is found about this machine and this configuration.

    Args:
        path: A configuration file; None for none.
        overrides: As for `streamcls.config.load_config`.
    """
    yield from attempt("software", host.check_software)
    try:
        config = load_config(path, overrides)
    except StreamclsError as error:
        yield Finding("configuration", Grade.FAIL, str(error), "streamcls config --help")
        config = None
    if config is not None:
        yield daemon.describe_config(config, path)
        device = config.inference.device
        yield from attempt("accelerator", lambda: host.check_accelerator(device))
        running = daemon.find_running(config)
        if running is None:
            yield from attempt("sockets", lambda: daemon.check_sockets(config))
            yield from attempt("audio", lambda: daemon.check_sources(config))
            yield from attempt("cache", host.check_cache)
            yield from attempt("model", lambda: daemon.check_model(config))
        else:
            # It has its model; compiling it once more would only take the processor from it.
            yield from attempt("daemon", lambda: daemon.check_running(config, running))
    yield from attempt("clock", host.check_clock)
    yield from attempt("limits", host.check_limits)
    yield from attempt("service", host.check_service)
