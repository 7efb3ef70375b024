"""The training loop: epochs of `train.step`, validated, shown and kept.

After `train.data` and `train.split`, before `train.evaluate`. All randomness of step ``i`` comes
from ``fold_in(key, i)`` and everything else is in `TrainState`, so a run that was killed and
resumed ends with the same weights.
"""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train.augment import make_palette
from train.bank import draw_weights, to_bank
from train.data import Clips, centre_in_windows
from train.errors import DataError, RunError
from train.optimizer import make_optimizer, make_schedule
from train.parallel import make_mesh, replicate
from train.progress import Epoch, Progress
from train.recipes import Recipe
from train.snapshots import Snapshots
from train.state import Network, start_state, take_apart
from train.step import make_predict, make_step
from train.transfer import Origin, take_over

Report = Callable[[str], None]

SAVE_EVERY = 500
"""Steps between snapshots within an epoch: half a minute to some minutes of work to lose."""


def fit(
    recipe: Recipe,
    train: Clips,
    validation: Clips,
    run: Path,
    report: Report,
    *,
    save_every: int = SAVE_EVERY,
    tensorboard: bool = False,
    stop_after_epochs: int | None = None,
    origin: Origin | None = None,
) -> tuple[Network, Any, Any]:
    """Train, or go on with a training found in ``run``; on all devices of all processes.

    Args:
        recipe: What to do.
        train: Clips to train on.
        validation: Clips to choose the best weights by; if empty, the last are kept.
        run: Folder for snapshots and ``log.jsonl``; the same one in all processes.
        report: Receives one line per epoch.
        save_every: Steps between snapshots within an epoch; there is one after each epoch anyway.
        tensorboard: Write events to ``run/tensorboard`` too.
        stop_after_epochs: Leave early, resumable (as if killed).
        origin: Model to begin from, which the recipe has adopted; None begins at random.

    Returns:
        (network, params, stats) of the kept weights, on every device.

    Raises:
        DataError: If a class has no clip to train on.
        RunError: If the run's snapshots belong to another model, the devices cannot share the
            batch, or the training diverges.
    """
    counts = train.targets.sum(axis=0)
    absent = [name for name, count in zip(train.labels, counts, strict=True) if count == 0]
    if absent:
        raise DataError(f"no clip to train on for {', '.join(absent)}; check sources and split")
    network, params, stats = take_apart(recipe)
    if origin is not None:
        params, stats = take_over(origin, recipe.labels, params)
    mesh = make_mesh(recipe.n_at_a_time)
    noisy = [train.labels.index(name) for name in recipe.noise_labels]
    palette = make_palette(
        jax.random.key(recipe.seed),
        jnp.array(np.flatnonzero(np.isin(train.label, noisy)), jnp.int32),
        network.window_samples,
        recipe.front_end.sample_rate_hz,
        recipe.augment,
    )
    chances = draw_weights(train, recipe.class_weight)
    bank = to_bank(train, lambda array: replicate(array, mesh))
    palette, chances = replicate((palette, chances), mesh)
    n_words = len(train.words)
    step = make_step(recipe, network, make_optimizer(recipe), n_words, mesh)
    predict = make_predict(network, mesh)
    windows = centre_in_windows(validation, network.window_samples)

    def validate(average: Any) -> float | None:
        if not len(windows):
            return None
        params, stats = average
        guess = predict(params, stats, windows)
        return float(validation.targets[np.arange(len(guess)), guess].mean())

    per_epoch = recipe.steps_per_epoch
    with closing(Snapshots(run / "snapshots")) as snapshots:
        fresh = start_state(recipe, network, params, stats, n_words)
        found = snapshots.restore(fresh, report)
        state = replicate(found or fresh, mesh)
        first = int(state.step)
        if found:
            where = f"epoch {first // per_epoch}/{recipe.epochs}"
            within = f", step {first % per_epoch} of the next" if first % per_epoch else ""
            report(f"resuming after {where}{within}")
        last = min(recipe.epochs, stop_after_epochs or recipe.epochs) * per_epoch
        with Progress(
            recipe, make_schedule(recipe, recipe.learning_rate), run, first, report, tensorboard
        ) as progress:
            for number in range(first + 1, last + 1):
                state, measures = step(state, bank, palette, chances)
                progress.add_step(number, measures)
                if number % per_epoch:
                    if number % save_every == 0:
                        snapshots.save(state)
                    continue
                clips_per_s, seconds = progress.finish_steps(number)
                mean_loss = float(state.loss_sum) / per_epoch
                if not np.isfinite(mean_loss):
                    raise RunError(
                        f"the loss is {mean_loss} in epoch {number // per_epoch}; try a lower "
                        f"--set learning_rate than {recipe.learning_rate:g}"
                    )
                accuracy = validate(state.average)
                score = np.float32(accuracy or 0.0)
                if score >= float(state.best_accuracy):
                    best, best_accuracy = replicate((state.average, score), mesh)
                    state = state._replace(best=best, best_accuracy=best_accuracy)
                snapshots.save(state)
                progress.add_epoch(
                    Epoch(number // per_epoch, mean_loss, accuracy, clips_per_s, seconds)
                )
    return network, *state.best
