"""What another process takes of the machine, as /proc tells it (Linux)."""

import os
from pathlib import Path


def cpu_time_s(pid: int) -> float:
    """Return user and system time of a process so far (Linux; NaN elsewhere)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process (Linux; NaN elsewhere)."""
    try:
        return resident_bytes(pid) / 1e6
    except OSError:
        return float("nan")


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process.

    Raises:
        OSError: There is no such process, or no /proc.
    """
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
