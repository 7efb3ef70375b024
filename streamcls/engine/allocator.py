"""What glibc's allocator keeps for later and what it gives back; elsewhere nothing happens.

By default it decides by what was freed before: one process keeps the working memory of a step from
one step to the next, another gives it back after each and has it zeroed anew, page by page (16
windows of YAMNet: 800 page faults a step, a fifteenth of its time).
"""

import ctypes
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_MOST_KEPT_BYTES = 64 << 20
_LARGEST_KEPT_BYTES = 32 << 20
"""The most that glibc accepts. Shipped models need 1.4 MiB a step, 32 windows of YAMNet 25."""


def keep_steps_memory() -> None:
    """Let this process keep what a step works in, so that no step asks the system for memory."""
    mallopt = _find("mallopt")
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
        mallopt(_TRIM_THRESHOLD, _MOST_KEPT_BYTES)


def return_compilers_memory() -> None:
    """Give what XLA's compiler has freed back to the system.

    glibc would keep it for later: after a cold start more than 200 MB that nobody needs again.
    """
    trim = _find("malloc_trim")
    if trim is not None:
        trim(0)


def _find(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None)
