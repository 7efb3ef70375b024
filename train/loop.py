"""The training loop: epochs of `train.step`, validated, logged and kept by `train.snapshots`.

After `train.data` and `train.split`, before `train.evaluate`. All randomness of step ``i`` comes
from ``fold_in(key, i)`` and everything else is in `TrainState`, so a run that was killed and
resumed ends with the same weights.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train.augment import make_palette
from train.bank import draw_weights, to_bank
from train.data import Clips, centre_in_windows
from train.errors import DataError, RunError
from train.recipes import Recipe
from train.snapshots import Snapshots
from train.state import Network, make_optimizer, start_state, take_apart
from train.step import make_predict, make_step
from train.transfer import Origin, take_over

Report = Callable[[str], None]


def fit(
    recipe: Recipe,
    train: Clips,
    validation: Clips,
    run: Path,
    report: Report,
    stop_after_epochs: int | None = None,
    origin: Origin | None = None,
) -> tuple[Network, Any, Any]:
    """Train, or go on with a training found in ``run``.

    Args:
        recipe: What to do.
        train: Clips to train on.
        validation: Clips to choose the best weights by; if empty, the last are kept.
        run: Folder for snapshots and ``log.jsonl``.
        report: Receives one line per epoch.
        stop_after_epochs: Leave early, resumable (as if killed).
        origin: Model to begin from, which the recipe has adopted; None begins at random.

    Returns:
        (network, params, stats) of the kept weights.

    Raises:
        DataError: If a class has no clip to train on.
        RunError: If the run's snapshots belong to another model.
    """
    counts = train.targets.sum(axis=0)
    absent = [name for name, count in zip(train.labels, counts, strict=True) if count == 0]
    if absent:
        raise DataError(f"no clip to train on for {', '.join(absent)}; check sources and split")
    network, params, stats = take_apart(recipe)
    if origin is not None:
        params, stats = take_over(origin, recipe.labels, params)
    bank = to_bank(train)
    chances = draw_weights(train, recipe.class_weight)
    noisy = [train.labels.index(name) for name in recipe.noise_labels]
    noise_clips = jnp.array(np.flatnonzero(np.isin(train.label, noisy)), jnp.int32)
    palette = make_palette(
        jax.random.key(recipe.seed),
        noise_clips,
        network.window_samples,
        recipe.front_end.sample_rate_hz,
        recipe.augment,
    )
    n_words = len(train.words)
    step = make_step(recipe, network, make_optimizer(recipe), n_words)
    predict = make_predict(network)
    windows = centre_in_windows(validation, network.window_samples)

    snapshots = Snapshots(run / "snapshots")
    fresh = start_state(recipe, network, params, stats, n_words)
    state = snapshots.restore(fresh) or fresh
    first = int(state.step) // recipe.steps_per_epoch
    if first:
        report(f"resuming after epoch {first}/{recipe.epochs}")
    last = min(recipe.epochs, stop_after_epochs or recipe.epochs)
    with (run / "log.jsonl").open("a", encoding="utf-8") as log:
        for epoch in range(first, last):
            began = time.perf_counter()
            losses = []
            for _ in range(recipe.steps_per_epoch):
                state, loss = step(state, bank, palette, chances)
                losses.append(loss)
            mean_loss = float(jnp.stack(losses).mean())
            took_s = time.perf_counter() - began
            if not np.isfinite(mean_loss):
                raise RunError(
                    f"the loss is {mean_loss} in epoch {epoch + 1}; try a lower "
                    f"--set learning_rate than {recipe.learning_rate:g}"
                )
            accuracy = 0.0
            if len(windows):
                guess = predict(*state.average, windows)
                accuracy = float(validation.targets[np.arange(len(guess)), guess].mean())
            if accuracy >= float(state.best_accuracy):
                state = state._replace(
                    best=jax.tree.map(jnp.array, state.average), best_accuracy=jnp.array(accuracy)
                )
            snapshots.save(state)
            clips_per_s = recipe.steps_per_epoch * recipe.batch_size / took_s
            line = {
                "epoch": epoch + 1,
                "loss": round(mean_loss, 4),
                "validation_accuracy": round(accuracy, 4) if len(windows) else None,
                "clips_per_s": round(clips_per_s),
                "seconds": round(took_s, 1),
            }
            log.write(json.dumps(line) + "\n")
            log.flush()
            validated = f"  validation {accuracy:6.2%}" if len(windows) else ""
            report(
                f"epoch {epoch + 1:3d}/{recipe.epochs}  loss {mean_loss:.3f}{validated}  "
                f"{clips_per_s:.0f} clips/s"
            )
    snapshots.close()
    return network, *state.best
