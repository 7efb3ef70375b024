"""Loading of training data: decoding once, loading again, and what a step waits for.

All clips of a recipe are in the device's memory, and a step draws and cuts its own batch there; so
waiting for data can only be the time to read a batch out of that memory, and the host's time to
start a step. Both are measured against the whole step.

    python -m benchmarks.loading --data ../shared/data --recipe digits --steps 20
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.machine import describe_machine
from train.augment import make_palette
from train.augment.placement import cut_windows, place_at_random
from train.bank import Bank, draw_weights, to_bank
from train.data import Clips
from train.optimizer import make_optimizer
from train.parallel import make_mesh, replicate
from train.recipes import Recipe, load_recipe
from train.runs import Workspace
from train.state import start_state, take_apart
from train.step import make_step


def time_loading(recipe: Recipe, data: Path, work: Path) -> tuple[Clips, float, float]:
    """Load a recipe's recordings twice; return them and both times in seconds."""
    workspace, recorded = Workspace(data, work), recipe.without_synthesis()
    began = time.perf_counter()
    workspace.load(recorded, print)
    cold_s = time.perf_counter() - began
    began = time.perf_counter()
    clips = workspace.load(recorded, print)
    return clips, cold_s, time.perf_counter() - began


def median_s(run: Callable[[], Any], repeats: int) -> float:
    """Return the median time of a call that is waited for, the first one apart."""
    jax.block_until_ready(run())
    times_s = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(run())
        times_s.append(time.perf_counter() - began)
    return float(np.median(times_s))


def time_reading(recipe: Recipe, bank: Bank, window_samples: int, repeats: int) -> float:
    """Return the seconds to draw a batch of clips and cut its windows."""
    n = recipe.n_drawn

    @partial(jax.jit, static_argnums=1)
    def read(bank: Bank, n: int, key: jax.Array) -> jax.Array:
        clip = jax.random.randint(key, (n,), 0, bank.length.shape[0])
        place = place_at_random(
            key,
            bank.length[clip],
            bank.active[clip],
            window_samples,
            jnp.zeros((n,), bool),
            recipe.augment,
        )
        return cut_windows(bank, clip, place, window_samples)

    return median_s(lambda: read(bank, n, jax.random.key(0)), repeats)


def time_steps(recipe: Recipe, clips: Clips, steps: int) -> tuple[float, float, float]:
    """Return the seconds of a step, of the host until it is started, and of reading its batch."""
    network, params, stats = take_apart(recipe)
    bank = to_bank(clips)
    chances = draw_weights(clips, recipe.class_weight)
    no_clips = jnp.zeros((0,), jnp.int32)
    rate_hz, samples = recipe.front_end.sample_rate_hz, network.window_samples
    palette = make_palette(jax.random.key(0), no_clips, samples, rate_hz, recipe.augment)
    mesh = make_mesh(recipe.n_at_a_time)
    step = make_step(recipe, network, make_optimizer(recipe), len(clips.words), mesh)
    state = replicate(start_state(recipe, network, params, stats, len(clips.words)), mesh)
    state, _ = step(state, bank, palette, chances)
    jax.block_until_ready(state)
    whole_s, started_s = [], []
    for _ in range(steps):
        began = time.perf_counter()
        state, _ = step(state, bank, palette, chances)
        started_s.append(time.perf_counter() - began)
        jax.block_until_ready(state)
        whole_s.append(time.perf_counter() - began)
    reading_s = time_reading(recipe, bank, samples, steps)
    return float(np.median(whole_s)), float(np.median(started_s)), reading_s


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--recipe", default="digits")
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe)
    with tempfile.TemporaryDirectory() as work:
        clips, cold_s, warm_s = time_loading(recipe, arguments.data, Path(work))
    recorded = clips.take(np.flatnonzero(clips.targets.any(axis=1)))
    step_s, start_s, read_s = time_steps(recipe, recorded, arguments.steps)
    print(f"{describe_machine('jax', 'numpy', 'soundfile')}; recipe {recipe.name}\n")
    print("| what | value |")
    print("| --- | ---: |")
    print(f"| clips | {len(clips)}, {len(clips.audio) / clips.sample_rate_hz / 3600:.2f} h |")
    print(f"| decode once | {cold_s:.1f} s, {len(clips) / cold_s:.0f} clips/s |")
    print(f"| load again | {warm_s:.2f} s |")
    print(f"| step of {recipe.batch_size} | {1000 * step_s:.0f} ms |")
    print(f"| of it reading the batch | {1000 * read_s:.1f} ms, {read_s / step_s:.1%} |")
    print(f"| host until the step is started | {1000 * start_s:.1f} ms, {start_s / step_s:.1%} |")


if __name__ == "__main__":
    main()
