"""The memory that a step works in stays with the process; what the compiler had is given back."""

import subprocess
import sys

import pytest

STEPS = """
import resource, sys
import numpy as np
from streamcls.engine import select_device

def work():
    return [np.ones(10 << 17) for _ in range(3)]  # 10 MiB each, as XLA gets it: by malloc

def count_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if "select" in sys.argv:
    select_device("cpu", threads=1)
for _ in range(3):
    work()
before = count_faults()
for _ in range(10):
    work()
print(count_faults() - before)
"""

COMPILER = """
import os
import numpy as np
from streamcls.bench.process import resident_bytes
from streamcls.engine import select_device
from streamcls.engine.allocator import return_compilers_memory

select_device("cpu", threads=1)
blocks = [np.ones(1 << 17) for _ in range(50)]
del blocks
kept = resident_bytes(os.getpid())
return_compilers_memory()
print((kept - resident_bytes(os.getpid())) >> 20)
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="is about glibc")


def run(program: str, *arguments: str) -> int:
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return int(done.stdout)


def test_steps_ask_the_system_for_no_memory() -> None:
    assert run(STEPS) > 1000  # what glibc does by itself, else this test shows nothing
    assert run(STEPS, "select") < 100


def test_the_compilers_memory_is_given_back() -> None:
    assert run(COMPILER) >= 40
