"""The compiled step, stage by stage: time, operations, and their share of what one core can do.

    python -m benchmarks.stages
    python -m benchmarks.stages --models commands --picture docs/benchmarks/stages.svg

A profile (`jax.profiler`) tells how long each kernel of the compiled step takes; the named scopes
in executor and network tell which stage it belongs to, and XLA's text of the program how many
operations it does (`benchmarks.hlo`). A kernel that serves two stages counts for the later one. One
thread computes. All times are medians of single calls, so other work on the machine matters little.

"Limit" is what a stage would take at the core's peak: that of a large matrix product, or for the
matrix products of few rows that of reading their weights as fast as the core reads this network's.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.profiler import ProfileData

from benchmarks.hlo import Program
from benchmarks.machine import describe_machine
from benchmarks.steps import measure_peak
from streamcls.checkpoint import find_checkpoint, load_checkpoint
from streamcls.engine import Executor, build_executor, choose_hop_samples, select_device
from streamcls.header import list_shipped

CALL, PYTHON = "the call", "Python around it"
_ROUNDS = 16
_CALLS = 125


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel of a step.

    Attributes:
        name: For people.
        stage: The part of the step it belongs to, for people.
        time_s: Median.
        flops: Floating-point operations.
        limit_s: What it would take at the core's peak.
    """

    name: str
    stage: str
    time_s: float
    flops: float = 0.0
    limit_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Profile:
    """A step for so many rows: what happens, in order, the time outside of kernels last."""

    model: str
    rows: int
    kernels: list[Kernel]

    @property
    def time_s(self) -> float:
        """The whole step."""
        return sum(kernel.time_s for kernel in self.kernels)

    def stages(self) -> dict[str, list[Kernel]]:
        """Return the kernels of each stage, stages in the order they begin."""
        stages: dict[str, list[Kernel]] = defaultdict(list)
        for kernel in self.kernels:
            stages[kernel.stage].append(kernel)
        return dict(stages)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one core can do."""

    flops_per_s: float
    bytes_per_s: float


@dataclass(slots=True)
class _Times:
    """Seconds: the median of each round, and of each kernel in each round."""

    step: list[float] = field(default_factory=list)
    call: list[float] = field(default_factory=list)
    kernels: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


def measure_reading(n_bytes: int) -> float:
    """Return the bytes per second at which a core reads as much over and over."""
    numbers = np.ones(n_bytes // 4, np.float32)
    return n_bytes / min(_time_calls(numbers.max) for _ in range(_ROUNDS))


def _time_calls(call: Callable[[], Any]) -> float:
    """Return the median seconds of a round of calls."""
    seconds = []
    for _ in range(_CALLS):
        began_s = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began_s)
    return statistics.median(seconds)


def _trace_calls(call: Callable[[], Any]) -> dict[str, float]:
    """Return the median seconds of each kernel in a round of calls."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            for _ in range(_CALLS):
                call()
        (file,) = Path(folder).rglob("*.xplane.pb")
        data = ProfileData.from_file(str(file))
    seconds: dict[str, list[float]] = defaultdict(list)
    for plane in data.planes:
        for line in plane.lines:
            began_ns = {}
            for event in line.events:
                # A kernel's event outlasts it by writing another, which says that it has ended.
                kind, _, name = event.name.rpartition(" ")
                if kind == "end:" and name in began_ns:
                    seconds[name].append((event.start_ns - began_ns.pop(name)) / 1e9)
                elif not kind:
                    began_ns[name] = event.start_ns
    return {name: statistics.median(times) for name, times in seconds.items()}


def profile_step(executor: Executor, model: str, rows: int, limits: Limits) -> Profile:
    """Measure where the time of a step for so many rows goes."""
    compiled = executor.compiled(rows)
    program = Program(compiled.as_text() or "")
    audio = np.random.default_rng(0).normal(0, 0.1, (rows, executor.hop_samples))
    audio = audio.astype(np.float32)
    slots, fresh = np.arange(rows, dtype=np.int32), np.zeros(rows, bool)
    weights, state = executor._weights, jax.numpy.zeros_like(executor._state)
    staging = executor._staging.rows[rows]

    def step() -> None:
        executor.step(audio, slots, fresh)

    def call() -> None:
        nonlocal state
        state, packed = compiled(weights, state, staging)
        np.asarray(packed)

    times = _Times()
    for _ in range(_ROUNDS):
        times.step.append(_time_calls(step))
        times.call.append(_time_calls(call))
        for name, seconds in _trace_calls(step).items():
            times.kernels[name].append(seconds)
    kernels = []
    for name in program.kernels:
        if name in times.kernels:
            flops = program.count_flops(name)
            limit_s = max(
                flops / limits.flops_per_s, program.count_product_bytes(name) / limits.bytes_per_s
            )
            seconds = min(times.kernels[name])
            kernels.append(
                Kernel(_label(program, name), _find_stage(program, name), seconds, flops, limit_s)
            )
    step_s, call_s = min(times.step), min(times.call)
    inside_s = sum(kernel.time_s for kernel in kernels)
    kernels.append(Kernel(CALL, CALL, call_s - inside_s))
    kernels.append(Kernel(PYTHON, PYTHON, step_s - call_s))
    return Profile(model, rows, kernels)


def _label(program: Program, kernel: str) -> str:
    """Return what a picture calls a kernel; of a product its sizes."""
    instruction = program.kernels[kernel]
    if instruction.code == "dot":
        left, _ = (program.kernels[one] for one in instruction.operands)
        n_out = instruction.shape[-1]
        inner = left.size * n_out // instruction.size
        return f"{instruction.size // n_out}·{inner}·{n_out}"
    return {"fft": "FFT"}.get(instruction.code, kernel)


def _find_stage(program: Program, kernel: str) -> str:
    """Return the stage a kernel belongs to; what is cut out to be remembered: remembering."""
    users = {_find_stage(program, user) for user in program.users(kernel)}
    return "put state" if users == {"put state"} else _name_stage(program.scope(kernel))


def _name_stage(scope: tuple[str, ...]) -> str:
    """Return what people call a scope: ``('trunk', '3_Residual', '0_Conv')`` is `trunk 3 Residual`.

    Layers of the trunk are told apart, what is inside of them is not.
    """
    depth = 2 if scope[:1] == ("trunk",) else 1
    return " ".join(scope[:depth]).replace("_", " ") or "other"


def print_table(profile: Profile, limits: Limits) -> None:
    """Print a row a stage, and the sum."""

    def print_row(rows: object, stage: str, kernels: list[Kernel], n_kernels: object) -> None:
        seconds = sum(one.time_s for one in kernels)
        flops = sum(one.flops for one in kernels)
        rate = flops / seconds
        print(
            f"| {rows} | {stage} | {n_kernels} | {seconds * 1e6:.1f} | "
            f"{seconds / profile.time_s:.0%} | {flops / 1e3:.0f} | {rate / 1e9:.1f} | "
            f"{rate / limits.flops_per_s:.1%} | {sum(one.limit_s for one in kernels) * 1e6:.1f} |"
        )

    stages = profile.stages()
    for stage, kernels in stages.items():
        n_kernels = "" if stage in (CALL, PYTHON) else len(kernels)
        print_row(profile.rows, stage, kernels, n_kernels)
    print_row(f"**{profile.rows}**", "**the step**", profile.kernels, len(profile.kernels) - 2)


def main() -> None:
    """Print a table per model, and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list_shipped())
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--hop-ms", type=float, default=80.0)
    parser.add_argument("--picture", type=Path, metavar="FILE.svg", help="of the first model")
    arguments = parser.parse_args()
    device = select_device("cpu", 1)
    peak = measure_peak()
    print(f"{describe_machine('jax')}; {device}; hop {arguments.hop_ms:g} ms, one thread\n")
    print(f"Peak (matrix product of 1024): {peak / 1e9:.0f} GFLOP/s")
    drawn = []
    for model in arguments.models:
        checkpoint = load_checkpoint(find_checkpoint(model))
        hop_samples = choose_hop_samples(checkpoint, arguments.hop_ms)
        executor = build_executor(checkpoint, hop_samples, max_streams=64)
        executor.warm_up()
        n_bytes = Program(executor.compiled(1).as_text() or "").count_weight_bytes()
        limits = Limits(peak, measure_reading(n_bytes))
        print(f"\n{model}: {n_bytes / 1e6:.2f} MB of weights, ", end="")
        print(f"read at {limits.bytes_per_s / 1e9:.0f} GB/s\n")
        print("| rows | stage | kernels | us | of step | kFLOP | GFLOP/s | of peak | limit us |")
        print("|---:|---|---:|---:|---:|---:|---:|---:|---:|")
        for rows in arguments.rows:
            profile = profile_step(executor, model, rows, limits)
            print_table(profile, limits)
            if model == arguments.models[0]:
                drawn.append(profile)
    if arguments.picture:
        from benchmarks.stages_picture import draw  # needs matplotlib

        draw(drawn, arguments.picture, peak)


if __name__ == "__main__":
    main()
