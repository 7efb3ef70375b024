"""The machine: software, accelerator, cache, clock, limits, service manager."""

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import resource
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from streamcls.doctor.finding import Finding, Grade
from streamcls.errors import StreamclsError
from streamcls.installation import BOOTED, Scope, list_services
from streamcls.signals import leave_on_interrupt

if TYPE_CHECKING:
    from streamcls.engine.device import DeviceKind

_PACKAGES = ("jax", "flax", "pyzmq", "sounddevice", "soundfile")
_MIN_FILES = 1024
_MIN_FREE_BYTES = 200 << 20
_TIME_ERROR = 5
"""What adjtimex(2) returns for a clock that nothing synchronises."""


def check_software() -> Iterator[Finding]:
    """Versions, and the libraries that Python packages do not bring."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES]
    version = importlib.metadata.version("streamcls")
    seen = f"streamcls {version}, Python {platform.python_version()}, {', '.join(versions)}"
    yield Finding("software", Grade.OK, seen)
    yield from _check_bytecode()
    from streamcls.capture.portaudio import describe_portaudio

    try:
        yield Finding("portaudio", Grade.OK, describe_portaudio())
    except StreamclsError as error:
        yield Finding("portaudio", Grade.WARN, str(error))


def find_missing_bytecode() -> Path | None:
    """Return the folder of the libraries if there is no bytecode of JAX; None if there is."""
    spec = importlib.util.find_spec("jax")
    if spec is None or spec.origin is None or spec.cached is None or Path(spec.cached).exists():
        return None
    return Path(spec.origin).parents[1]


def _check_bytecode() -> Iterator[Finding]:
    """Say so if Python compiles JAX's sources at every start: more than all else that a start does.

    pip writes bytecode, uv only if told to; then the first start does, where it may.
    """
    folder = find_missing_bytecode()
    if folder and (sys.dont_write_bytecode or not os.access(folder, os.W_OK)):
        seen = f"none in {folder}, none can be written: every start takes more than a second longer"
        yield Finding("bytecode", Grade.WARN, seen, f"{sys.executable} -m compileall -q {folder}")


def check_accelerator(kind: "DeviceKind") -> Iterator[Finding]:
    """Where the network is computed; also makes it so for the checks that follow."""
    with leave_on_interrupt():
        from streamcls.engine import select_device

    seen = select_device(kind)
    if not seen.startswith("cpu"):
        yield Finding("accelerator", Grade.OK, seen)
        return
    seen = f"CPU, {os.cpu_count()} cores: {_processor()}"
    if kind == "auto" and Path("/dev/nvidiactl").exists():
        seen += "; there is a GPU, which this JAX does not use"
        remedy = "pip install 'jax[cuda13]', or go on: small models run well on a CPU"
        yield Finding("accelerator", Grade.WARN, seen, remedy)
    else:
        yield Finding("accelerator", Grade.OK, seen)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.machine()


def check_cache() -> Iterator[Finding]:
    """Whether compiled programs are kept, so that the next start is fast."""
    from streamcls.engine.compilation import cache_directory, enable_compilation_cache

    folder = cache_directory()
    if enable_compilation_cache() is None:
        yield Finding(
            "cache",
            Grade.WARN,
            f"{folder} is not writable: every start compiles anew",
            "make it writable, or set XDG_CACHE_HOME to a folder that is",
        )
        return
    free_bytes = shutil.disk_usage(folder).free
    files = [path for path in folder.iterdir() if path.is_file()]
    seen = f"{folder}: {len(files)} files, {free_bytes / (1 << 30):.1f} GiB free"
    if free_bytes < _MIN_FREE_BYTES:
        remedy = "free some space; without it starts are slow and nothing can be recorded"
        yield Finding("cache", Grade.WARN, seen, remedy)
    else:
        yield Finding("cache", Grade.OK, seen)


class _Timex(ctypes.Structure):
    """``struct timex`` of adjtimex(2), up to what is read here."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    )


def check_clock() -> Iterator[Finding]:
    """Whether something keeps UTC: predictions are compared with those of other machines."""
    adjtimex = getattr(ctypes.CDLL(None, use_errno=True), "adjtimex", None)
    if adjtimex is None:
        return
    clock = _Timex()
    state = adjtimex(ctypes.byref(clock))
    if state < 0:
        reason = os.strerror(ctypes.get_errno())
        yield Finding("clock", Grade.WARN, f"cannot be asked: {reason}")
    elif state == _TIME_ERROR:
        yield Finding(
            "clock",
            Grade.WARN,
            "nothing synchronises it: the times of predictions drift from those of other machines",
            "apt-get install chrony, or systemctl enable --now systemd-timesyncd",
        )
    else:
        seen = f"synchronised, off by {clock.maxerror / 1000:.3g} ms at most"
        yield Finding("clock", Grade.OK, seen)


def check_limits() -> Iterator[Finding]:
    """What the kernel grants a process: files (one for each subscriber), memory, priority."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    memory = _available_memory_bytes() / (1 << 30)
    priority, _ = resource.getrlimit(resource.RLIMIT_RTPRIO)
    seen = (
        f"{files} open files, {memory:.1f} GiB of memory available, "
        f"real-time priority {priority or 'none (not needed)'}"
    )
    if files != resource.RLIM_INFINITY and files < _MIN_FILES:
        remedy = f"ulimit -n {_MIN_FILES}, or LimitNOFILE={_MIN_FILES} in a drop-in of the unit"
        yield Finding("limits", Grade.WARN, f"{seen}; few files: few subscribers", remedy)
    elif memory < 0.5:
        yield Finding("limits", Grade.WARN, seen, "the daemon alone takes about half a GiB")
    else:
        yield Finding("limits", Grade.OK, seen)


def _available_memory_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0


def check_service() -> Iterator[Finding]:
    """Services of this machine and, where there is one, of this session."""
    if not BOOTED.is_dir():
        yield Finding("service", Grade.OK, "systemd does not run this machine; nothing to look at")
        return
    scopes = [Scope.SYSTEM] + ([Scope.USER] if os.environ.get("XDG_RUNTIME_DIR") else [])
    services: list[dict[str, str]] = []
    for scope in scopes:
        try:
            services += list_services(scope)
        except StreamclsError as error:
            yield Finding("service", Grade.WARN, str(error))
    for one in services:
        seen = f"{one['Id']} {one['ActiveState']} ({one['SubState']}), {one['StatusText'] or '-'}"
        running = one["ActiveState"] == "active"
        remedy = "" if running else f"journalctl -u {one['Id']} -n 50"
        yield Finding("service", Grade.OK if running else Grade.WARN, seen, remedy)
    if not services:
        seen = "none installed; to run at every boot: streamcls service install"
        yield Finding("service", Grade.OK, seen)
