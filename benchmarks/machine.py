"""What a table of measurements must say about where it comes from."""

import importlib.metadata
import os
import platform
import sys
from pathlib import Path


def describe_machine(*packages: str) -> str:
    """Return one line: processor, cores, system, Python and the versions of ``packages``.

    With the path of Python, because builds of one version differ by a factor of 1.4.
    """
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    parts = [
        f"{_processor()}, {os.cpu_count()} cores",
        f"{platform.system()} {platform.release()}",
        f"Python {platform.python_version()} ({Path(sys.executable).resolve()})",
        *versions,
    ]
    return "; ".join(parts)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
