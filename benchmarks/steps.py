"""The compiled step: time per stream at every number of rows, and its share of the machine's peak.

Floating-point operations are those XLA counts in the compiled step. The peak is that of a large
matrix product on the same cores, measured in the same process. The front end is also timed alone.
CPU time counts all threads of the process, so it holds on a busy machine.

    python -m benchmarks.steps
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.machine import describe_machine
from streamcls.checkpoint import find_checkpoint, load_checkpoint
from streamcls.engine import (
    build_executor,
    choose_hop_samples,
    compiler_options,
    select_device,
)
from streamcls.features import initial_history, stream_log_mel


def time_call(function: Callable[[], Any], target_s: float = 0.15) -> tuple[float, float]:
    """Return wall and CPU seconds of a call, each the best of eight averages."""
    function()
    began_s = time.perf_counter()
    function()
    repeats = max(1, int(target_s / max(1e-6, time.perf_counter() - began_s)))
    best = (float("inf"), float("inf"))
    for _ in range(8):
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        for _ in range(repeats):
            function()
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
        best = (min(best[0], wall_s / repeats), min(best[1], cpu_s / repeats))
    return best


def count_flops(compiled: jax.stages.Compiled) -> float:
    """Return the floating-point operations XLA counts."""
    analysis: Any = compiled.cost_analysis()
    return float((analysis[0] if isinstance(analysis, list) else analysis)["flops"])


def measure_peak() -> float:
    """Return the operations per CPU second of a product of large matrices."""
    size = 1024
    matrix = jax.device_put(np.random.default_rng(0).normal(size=(size, size)).astype(np.float32))
    multiply = jax.jit(jnp.matmul).lower(matrix, matrix).compile(compiler_options())
    return 2 * size**3 / time_call(lambda: multiply(matrix, matrix).block_until_ready())[1]


def main() -> None:
    """Print a Markdown row per bucket."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="commands")
    parser.add_argument("--hop-ms", type=float, default=80.0)
    parser.add_argument("--slots", type=int, default=512)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    device = select_device(arguments.device, threads=1)
    checkpoint = load_checkpoint(find_checkpoint(arguments.model))
    front_end = checkpoint.front_end
    hop_samples = choose_hop_samples(checkpoint, arguments.hop_ms)
    executor = build_executor(checkpoint, hop_samples, arguments.slots)
    executor.warm_up()
    peak = measure_peak()
    print("# The compiled step\n\n```\npython -m benchmarks.steps\n```\n")
    print(f"{describe_machine('jax')}; {device}; model {arguments.model}, ", end="")
    print(f"hop {arguments.hop_ms:g} ms, {arguments.slots} slots")
    print(f"\nPeak (matrix product of 1024): {peak / 1e9:.0f} GFLOP per CPU second\n")
    print("| rows | step us | step, CPU us per stream | of it front end | GFLOP/CPU s | of peak |")
    print("|---:|---:|---:|---:|---:|---:|")
    audio = np.random.default_rng(0).normal(0, 0.1, (executor.buckets[-1], hop_samples))
    audio = audio.astype(np.float32)
    for rows in executor.buckets:
        slots, fresh = np.arange(rows, dtype=np.int32), np.zeros(rows, bool)
        wall_s, cpu_s = time_call(lambda n=rows, s=slots, f=fresh: executor.step(audio[:n], s, f))
        history = initial_history(rows, front_end)
        hops = jax.device_put(audio[:rows].copy())
        features = jax.jit(stream_log_mel, static_argnums=2).lower(hops, history, front_end)
        run = features.compile(compiler_options())
        _, features_s = time_call(
            lambda run=run, hops=hops, h=history: jax.block_until_ready(run(hops, h))
        )
        rate = count_flops(executor.compiled(rows)) / cpu_s
        print(
            f"| {rows} | {wall_s * 1e6:.0f} | {cpu_s / rows * 1e6:.1f} | "
            f"{features_s / rows * 1e6:.1f} | {rate / 1e9:.1f} | {rate / peak:.1%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
