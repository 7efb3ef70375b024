"""Training: clips a second against PyTorch, the same network, batch and optimiser in one run.

TC-ResNet 8, three times as wide, for the twelve labels of the recipe ``commands``, on the same
log-mel frames: forward, backward, gradient clipping and AdamW. PyTorch runs eagerly and through
``torch.compile``. Our whole step, which draws and augments clips and computes their log-mel, is a
line of its own: PyTorch has no counterpart here.

    python -m benchmarks.train

Needs PyTorch, which is too large for the lock file: ``pip install torch==2.13.0``. A process for
each number of threads, bound to that many cores; the contestants take turns in it. Processor time
(all threads) is counted beside wall time: other work on the machine does not lengthen it.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine

Contestants = dict[str, Callable[[], Any]]
N_CLASSES = 12


def make_ours(batch: int, mel: np.ndarray, labels: np.ndarray) -> Contestants:
    """Return the step of the network alone, and the whole step of a training."""
    import jax
    import jax.numpy as jnp
    import optax

    from train.augment import make_palette
    from train.bank import Bank
    from train.optimizer import make_optimizer
    from train.parallel import make_mesh, replicate
    from train.state import start_state, take_apart
    from train.step import Batch, differentiate, make_loss, make_step

    recipe = load_recipe(batch)
    network, params, stats = take_apart(recipe)
    optimizer = make_optimizer(recipe)
    loss_of = make_loss(recipe, network)

    @jax.jit
    def network_step(params: Any, stats: Any, moments: Any, batch: Batch, key: jax.Array) -> Any:
        _, stats, gradients = differentiate(loss_of, 1, params, stats, batch, key)
        updates, moments = optimizer.update(gradients, moments, params)
        return optax.apply_updates(params, updates), stats, moments

    state = start_state(recipe, network, params, stats, 1)
    examples = Batch(
        jnp.array(mel), jax.nn.one_hot(labels, N_CLASSES), jnp.ones((batch, 1), jnp.float32)
    )
    held = [(state.params, state.stats, state.optimizer)]
    key = jax.random.key(0)

    def ours() -> None:
        held[0] = jax.block_until_ready(network_step(*held[0], examples, key))

    n, rate_hz = 256, recipe.front_end.sample_rate_hz
    audio = np.random.default_rng(0).integers(-9000, 9000, n * rate_hz).astype(np.int16)
    label = np.arange(n) % N_CLASSES
    span = np.tile([[rate_hz // 4, 3 * rate_hz // 4]], (n, 1))
    bank = Bank(
        audio=jnp.array(audio),
        start=jnp.arange(n) * rate_hz,
        length=jnp.full((n,), rate_hz),
        active=jnp.array(span, jnp.int32),
        label=jnp.array(label, jnp.int32),
        targets=jnp.array(np.eye(N_CLASSES)[label], jnp.float32),
        word=jnp.zeros((n,), jnp.int32),
    )
    palette = make_palette(key, jnp.arange(8), network.window_samples, rate_hz, recipe.augment)
    mesh = make_mesh(recipe.n_at_a_time)
    given = replicate((bank, palette, (jnp.arange(n) + 1.0) / n), mesh)
    step = make_step(recipe, network, optimizer, 1, mesh)
    whole_state = [replicate(start_state(recipe, network, params, stats, 1), mesh)]

    def whole() -> None:
        whole_state[0] = jax.block_until_ready(step(whole_state[0], *given))[0]

    return {"streamcls, network": ours, "streamcls, whole step": whole}


def make_theirs(
    mel: np.ndarray,
    labels: np.ndarray,
    n_parameters: int,
    device: str,
    threads: int,
    compiled: bool,
) -> Contestants:
    """Return PyTorch's step of the same network.

    Raises:
        AssertionError: If it has not as many parameters as ours.
    """
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    recipe = load_recipe(len(mel))
    torch.set_num_threads(threads)
    torch.manual_seed(0)

    def unit(channels_in: int, channels: int, kernel: int, stride: int = 1) -> list[nn.Module]:
        convolution = nn.Conv1d(channels_in, channels, kernel, stride, bias=False)
        return [convolution, nn.BatchNorm1d(channels)]

    class Block(nn.Module):
        def __init__(self, channels_in: int, channels: int, stride: int):
            super().__init__()
            first = unit(channels_in, channels, 5, stride)
            self.main = nn.Sequential(*first, nn.ReLU(), *unit(channels, channels, 5))
            self.shortcut = nn.Sequential(*unit(channels_in, channels, 1, stride), nn.ReLU())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            main = self.main(x)
            return torch.relu(main + self.shortcut(x)[..., -main.shape[-1] :])

    class Mean(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(dim=-1)

    stem, *widths = (round(base * recipe.model["width"]) for base in (16, 24, 32, 48))
    n_mels = mel.shape[2]
    layers = [nn.BatchNorm1d(n_mels), *unit(n_mels, stem, 3), nn.ReLU()]
    for channels_in, channels, stride in zip((stem, *widths), widths, (2, 2, 1), strict=False):
        layers.append(Block(channels_in, channels, stride))
    layers += [nn.Dropout(0.2), Mean(), nn.Dropout(0.2), nn.Linear(widths[-1], N_CLASSES)]
    model = nn.Sequential(*layers).to(device)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == n_parameters, f"PyTorch's network has {count} parameters, ours {n_parameters}"
    optimizer = torch.optim.AdamW(
        model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    # PyTorch convolves over the last axis.
    frames = torch.tensor(mel.swapaxes(1, 2).copy(), device=device)
    wanted = torch.tensor(labels, device=device)
    run = torch.compile(model) if compiled else model

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_of(run(frames), wanted).backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return {"PyTorch, torch.compile" if compiled else "PyTorch, eager": step}


def load_recipe(batch: int) -> Any:
    """Return the recipe ``commands`` with the network and the optimiser that PyTorch gets too."""
    from train.recipes import load_recipe

    network = {"architecture": "tc_resnet_8", "model.width": "3"}
    return load_recipe("commands", network | {"batch_size": str(batch), "optimizer": "adamw"})


def measure(contestants: Contestants, rounds: int, steps: int) -> dict[str, np.ndarray]:
    """Return wall and processor seconds of a step, ``[rounds, 2]``, of each contestant."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for call in contestants.values():
        call()
        call()
    generator = np.random.default_rng(0)
    for _ in range(rounds):
        for name in generator.permutation(list(contestants)):
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            for _ in range(steps):
                contestants[name]()
            wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
            seconds[name].append((wall_s / steps, cpu_s / steps))
    return {name: np.array(values) for name, values in seconds.items()}


def compare(batch: int, threads: int, rounds: int, steps: int, device: str) -> None:
    """Print the rows of one number of threads."""
    if device == "cpu":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    import jax

    from train.state import take_apart

    network, params, stats = take_apart(load_recipe(batch))
    n_parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    generator = np.random.default_rng(0)
    n_frames = network.join(params, stats).window_frames
    mel = generator.normal(-5, 3, (batch, n_frames, network.front_end.n_mels)).astype(np.float32)
    labels = generator.integers(0, N_CLASSES, batch)
    contestants = make_ours(batch, mel, labels)
    where = "cuda" if device == "gpu" else "cpu"
    contestants |= make_theirs(mel, labels, n_parameters, where, threads, compiled=False)
    contestants |= make_theirs(mel, labels, n_parameters, where, threads, compiled=True)
    found = measure(contestants, rounds, steps)
    eager = np.median(found["PyTorch, eager"], axis=0)
    for name, seconds in found.items():
        rates = batch / seconds
        low, middle, high = np.percentile(rates[:, 0], [10, 50, 90])
        times = eager / np.median(seconds, axis=0)
        print(
            f"| {threads} | {name} | {middle:.0f} | {low:.0f} to {high:.0f} | {times[0]:.2f} | "
            f"{np.median(rates[:, 1]):.0f} | {times[1]:.2f} |",
            flush=True,
        )


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=5, help="of each contestant in a round (5)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        [threads] = arguments.threads
        compare(arguments.batch, threads, arguments.rounds, arguments.steps, arguments.device)
        return
    print(f"{describe_machine('jax', 'torch')}; batch {arguments.batch}, {arguments.device}\n")
    print("| threads | what | clips/s | 10 to 90 % | x eager | clips/CPU s | x eager |")
    print("|---:|---|---:|---|---:|---:|---:|", flush=True)
    for threads in arguments.threads:
        # JAX and PyTorch read how many cores there are when they start.
        subprocess.run(
            [
                *(sys.executable, "-m", "benchmarks.train", "--child"),
                *("--threads", str(threads), "--batch", str(arguments.batch)),
                *("--rounds", str(arguments.rounds), "--steps", str(arguments.steps)),
                *("--device", arguments.device),
            ],
            check=True,
            env=os.environ | ({"JAX_PLATFORMS": "cpu"} if arguments.device == "cpu" else {}),
        )


if __name__ == "__main__":
    main()
