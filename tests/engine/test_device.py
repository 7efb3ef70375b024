"""Where it computes: what is there is taken, what is not there is said."""

import subprocess
import sys

import jax
import pytest

from streamcls.engine.device import list_buckets, select_device
from streamcls.errors import ModelError


def test_the_cpu_is_always_there() -> None:
    assert select_device("cpu").startswith("cpu")


def test_the_number_of_threads_is_told_to_xla_alone() -> None:
    """In a process of its own, because XLA asks only once."""
    program = """
import os
import jax.numpy as jnp
from streamcls.engine import select_device
before = dict(os.environ)
tasks = len(os.listdir("/proc/self/task"))
select_device("cpu", threads=THREADS)
(jnp.ones((512, 512)) @ jnp.ones((512, 512))).block_until_ready()
assert dict(os.environ) == before
print(len(os.listdir("/proc/self/task")) - tasks)
"""
    one, nine = (
        int(subprocess.check_output([sys.executable, "-c", program.replace("THREADS", threads)]))
        for threads in ("1", "9")
    )
    assert nine - one >= 8


def test_one_thread_computes_a_step() -> None:
    """XLA (as of jax 0.12) hands kernels on where more than eight are ready at once."""
    program = """
import resource
from streamcls.checkpoint import find_checkpoint, load_checkpoint
from streamcls.engine import build_executor, choose_hop_samples, select_device
select_device("cpu", threads=1)
checkpoint = load_checkpoint(find_checkpoint("commands"))
executor = build_executor(checkpoint, choose_hop_samples(checkpoint, 80), max_streams=4)
executor.warm_up()
def count_switches():
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
for bucket in executor.buckets:
    begun = count_switches()
    for _ in range(200):
        executor.step_tile(list(range(bucket)), [False] * bucket)
    print(count_switches() - begun)
"""
    switches = subprocess.check_output([sys.executable, "-c", program]).split()
    assert len(switches) == 2
    assert max(map(int, switches)) < 100


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="there is an accelerator here")
@pytest.mark.parametrize("kind", ["gpu", "tpu"])
def test_a_device_that_is_not_there_is_refused_with_a_remedy(kind) -> None:
    assert select_device("auto").startswith("cpu")
    with pytest.raises(ModelError, match=rf"device = '{kind}'.* only: cpu; .*pip install"):
        select_device(kind)


@pytest.mark.parametrize("streams", [1, 2, 5, 32, 33, 10_000])
def test_buckets_hold_a_tile_of_all_streams(streams: int) -> None:
    select_device("cpu")
    buckets = list_buckets(streams)
    assert buckets[0] == 1
    assert buckets == sorted(set(buckets))
    assert min(streams, 32) <= buckets[-1] <= 32
