"""The training loop: one compiled step from clip numbers to updated weights.

After `train.data` and `train.split`, before `train.evaluate`. A step draws its clips, augments
them, computes the daemon's log-mel, differentiates and updates, all in one executable over
donated state. All randomness of step ``i`` comes from ``fold_in(key, i)`` and all state is in
`TrainState`, so a run that was killed and resumed ends with the same weights.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx
from numpy.typing import NDArray

from streamcls.features import FrontEnd, log_mel
from streamcls.features.mel import hz_to_mel, mel_to_hz
from streamcls.models import Classifier, build_model
from train.augment import Bank, Palette, augment_mel, make_palette, make_windows
from train.data import Clips, centre_in_windows
from train.errors import DataError, RunError
from train.recipes import Recipe

Report = Callable[[str], None]

_WORD_DROPOUT = 0.2


class WordHead(NamedTuple):
    """A second dense layer on the pooled trunk outputs, for training only.

    It names every word that is said, also those the model calls unknown: the trunk then learns
    from all speakers how words differ, which a few digit speakers alone do not teach.
    """

    kernel: jax.Array
    bias: jax.Array

    def __call__(self, pooled: jax.Array) -> jax.Array:
        """Map ``[batch, features]`` to logits ``[batch, words]``."""
        return pooled @ self.kernel + self.bias


class TrainState(NamedTuple):
    """Everything that a training carries from step to step, as plain arrays."""

    step: jax.Array
    params: Any
    """(model weights, `WordHead`)."""
    stats: Any
    """Running statistics of the batch norms."""
    optimizer: Any
    average: Any
    """Exponential moving average of (params, stats): the weights that are used."""
    best: Any
    """The average at the best validation so far."""
    best_accuracy: jax.Array


@dataclass(frozen=True)
class Network:
    """A model taken apart for plain ``jit``: structure and rest (dropout keys) are static."""

    graph: Any
    rest: Any
    window_samples: int
    features: int
    """Width of a trunk output."""
    front_end: FrontEnd

    def join(self, params: Any, stats: Any) -> Classifier:
        """Put the model together from weights and statistics."""
        # A copy: the variables of ``rest`` are set anew inside a trace.
        return nnx.merge(self.graph, params, stats, self.rest, copy=True)


def take_apart(recipe: Recipe) -> tuple[Network, Any, Any]:
    """Build the recipe's model; return (network, initial params, initial stats)."""
    model = build_model(
        recipe.architecture,
        recipe.model,
        recipe.front_end.n_mels,
        len(recipe.labels),
        nnx.Rngs(recipe.seed),
    )
    graph, params, stats, rest = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    window_samples = recipe.front_end.samples_for(model.window_frames)
    network = Network(graph, rest, window_samples, model.features, recipe.front_end)
    return network, params, stats


def mel_centres_hz(front_end: FrontEnd) -> jax.Array:
    """Return the centre of each mel band, ``[n_mels]``."""
    limits = hz_to_mel(np.array([front_end.fmin_hz, front_end.fmax_hz]), front_end.mel_scale)
    mels = np.linspace(limits[0], limits[1], front_end.n_mels + 2)[1:-1]
    return jnp.asarray(mel_to_hz(mels, front_end.mel_scale), jnp.float32)


def to_bank(clips: Clips) -> Bank:
    """Put the clips on the device.

    Raises:
        DataError: If they are more than 32-bit indices can address.
    """
    if len(clips.audio) >= 2**31:
        hours = len(clips.audio) / clips.sample_rate_hz / 3600
        raise DataError(f"{hours:.0f} h of clips exceed 2**31 samples; use fewer or a lower rate")
    # jnp.array copies: the device may otherwise alias NumPy's memory.
    return Bank(
        audio=jnp.array(clips.audio),
        start=jnp.array(clips.start, jnp.int32),
        length=jnp.array(clips.length, jnp.int32),
        active=jnp.array(clips.active, jnp.int32),
        label=jnp.array(clips.label, jnp.int32),
        targets=jnp.array(clips.targets),
        word=jnp.array(clips.word, jnp.int32),
    )


def draw_weights(clips: Clips, class_weight: dict[str, float]) -> jax.Array:
    """Return the cumulative probability of drawing each clip, ``[clips]``.

    Classes are drawn by ``class_weight`` (default 1); within a class clips by source weight. A clip
    with several labels is drawn for each of them.
    """
    own = np.array([s.weight for s in clips.sources])[clips.source]
    per_class = np.array([class_weight.get(name, 1.0) for name in clips.labels])
    share = clips.targets * own[:, None]
    probability = (share / share.sum(axis=0) * per_class).sum(axis=1)
    return jnp.array(np.cumsum(probability) / probability.sum(), jnp.float32)


def make_optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """Return AdamW with warm-up, cosine decay and gradient clipping."""
    warmup_steps = min(round(recipe.warmup_fraction * recipe.n_steps), recipe.n_steps - 1)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0,
        recipe.learning_rate,
        warmup_steps,
        recipe.n_steps,
        recipe.learning_rate * 1e-3,
    )
    return optax.chain(
        optax.clip_by_global_norm(recipe.clip_norm),
        optax.adamw(schedule, weight_decay=recipe.weight_decay),
    )


def make_step(
    recipe: Recipe, network: Network, optimizer: optax.GradientTransformation, n_words: int
) -> Callable[..., tuple[TrainState, jax.Array]]:
    """Return the compiled step ``(state, bank, palette, chances) -> (state, loss)``."""
    n_classes = len(recipe.labels)
    centres_hz = mel_centres_hz(recipe.front_end)
    base_key = jax.random.key(recipe.seed)

    def loss_of(
        params: tuple[Any, WordHead],
        stats: Any,
        mel: jax.Array,
        labels: jax.Array,
        words: jax.Array,
        key: jax.Array,
    ) -> tuple[jax.Array, Any]:
        weights, word_head = params
        model = network.join(weights, stats)
        model.train()
        k_model, k_words = jax.random.split(key)
        nnx.reseed(model, params=k_model, dropout=k_model, default=k_model)
        vectors = model.trunk(mel)[:, :, 0]
        if recipe.task == "single-label":
            smooth = optax.smooth_labels(labels, recipe.label_smoothing)
            loss = optax.softmax_cross_entropy(model.head(vectors), smooth).mean()
        else:
            # Each label is a question of its own, with two answers to smooth between.
            smooth = labels * (1 - recipe.label_smoothing) + recipe.label_smoothing / 2
            loss = optax.sigmoid_binary_cross_entropy(model.head(vectors), smooth).mean()
        keep = jax.random.bernoulli(k_words, 1 - _WORD_DROPOUT, (mel.shape[0], network.features))
        pooled = vectors.mean(axis=1) * keep / (1 - _WORD_DROPOUT)
        word_loss = optax.softmax_cross_entropy(word_head(pooled), words).mean()
        return loss + recipe.word_weight * word_loss, nnx.state(model, nnx.BatchStat)

    @partial(jax.jit, donate_argnums=0)
    def step(
        state: TrainState, bank: Bank, palette: Palette, chances: jax.Array
    ) -> tuple[TrainState, jax.Array]:
        key = jax.random.fold_in(base_key, state.step)
        k_draw, k_windows, k_mel, k_dropout = jax.random.split(key, 4)
        drawn = jax.random.uniform(k_draw, (recipe.batch_size // recipe.views,))
        clip = jnp.minimum(jnp.searchsorted(chances, drawn), chances.shape[0] - 1)
        audio, labels, words = make_windows(
            k_windows,
            bank,
            clip,
            palette,
            window_samples=network.window_samples,
            sample_rate_hz=recipe.front_end.sample_rate_hz,
            n_classes=n_classes,
            n_words=n_words,
            unknown=None if recipe.unknown is None else recipe.labels.index(recipe.unknown),
            silence=None if recipe.silence is None else recipe.labels.index(recipe.silence),
            settings=recipe.augment,
        )
        views = jnp.tile(log_mel(audio, recipe.front_end), (recipe.views, 1, 1))
        labels, words = (jnp.tile(soft, (recipe.views, 1)) for soft in (labels, words))
        mel = augment_mel(k_mel, views, centres_hz, recipe.augment)
        (loss, stats), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            state.params, state.stats, mel, labels, words, k_dropout
        )
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        # Early averages forget fast, or the random start would linger in them.
        decay = jnp.minimum(recipe.ema_decay, (1.0 + state.step) / (10.0 + state.step))
        average = jax.tree.map(
            lambda old, new: decay * old + (1 - decay) * new, state.average, (params[0], stats)
        )
        return (
            state._replace(
                step=state.step + 1,
                params=params,
                stats=stats,
                optimizer=optimizer_state,
                average=average,
            ),
            loss,
        )

    return step


def make_predict(network: Network) -> Callable[[Any, Any, NDArray[np.float32]], NDArray[np.intp]]:
    """Return ``(params, stats, windows [n, samples]) -> class indices [n]``, in even batches."""

    @jax.jit
    def guess(params: Any, stats: Any, audio: jax.Array) -> jax.Array:
        model = network.join(params, stats)
        model.eval()
        return model(log_mel(audio, network.front_end)).argmax(axis=1)

    def predict(
        params: Any, stats: Any, windows: NDArray[np.float32], batch: int = 256
    ) -> NDArray[np.intp]:
        # One shape for all batches, so that one executable does: the last is filled with zeros.
        padded = np.pad(windows, ((0, -len(windows) % batch), (0, 0)))
        parts = [
            guess(params, stats, jnp.array(part))
            for part in padded.reshape(-1, batch, windows.shape[1])
        ]
        return np.concatenate(parts)[: len(windows)]

    return predict


def start_state(
    recipe: Recipe, network: Network, params: Any, stats: Any, n_words: int
) -> TrainState:
    """Return the state before the first step."""

    def copy(tree: Any) -> Any:
        return jax.tree.map(jnp.array, tree)

    kernel = jax.random.normal(jax.random.key(recipe.seed), (network.features, n_words))
    word_head = WordHead(kernel * network.features**-0.5, jnp.zeros((n_words,)))
    both = (copy(params), word_head)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=both,
        stats=copy(stats),
        optimizer=make_optimizer(recipe).init(both),
        average=(copy(params), copy(stats)),
        best=(copy(params), copy(stats)),
        best_accuracy=jnp.full((), -1.0),
    )


class Snapshots:
    """The training states of one run on disk (Orbax); the newest complete one is resumed.

    States are stored as a list of leaves: the structure belongs to the recipe, which the run
    folder records beside them.
    """

    def __init__(self, folder: Path):
        options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(folder.resolve(), options=options)

    def save(self, state: TrainState) -> None:
        """Write the state; older ones are removed once it is complete."""
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
        self._manager.save(int(state.step), args=ocp.args.StandardSave(leaves))

    def restore(self, like: TrainState) -> TrainState | None:
        """Return the newest state, or None before the first save.

        Raises:
            RunError: If it does not fit the recipe's model.
        """
        newest = self._manager.latest_step()
        if newest is None:
            return None
        leaves, structure = jax.tree.flatten(like)
        wanted = [np.asarray(leaf) for leaf in leaves]
        try:
            found: Any = self._manager.restore(newest, args=ocp.args.StandardRestore(wanted))
        except (ValueError, KeyError):
            found = []
        # Orbax fills a template of other shapes without a word, so the shapes are compared here.
        if [np.shape(leaf) for leaf in found] != [leaf.shape for leaf in wanted]:
            raise RunError(
                f"{self._manager.directory}: the saved training is of another model than the "
                f"recipe's; choose another --out"
            )
        return jax.tree.unflatten(structure, [jnp.array(leaf) for leaf in found])

    def close(self) -> None:
        """Finish writing."""
        self._manager.close()


def fit(
    recipe: Recipe,
    train: Clips,
    validation: Clips,
    run: Path,
    report: Report,
    stop_after_epochs: int | None = None,
) -> tuple[Network, Any, Any]:
    """Train, or go on with a training found in ``run``.

    Args:
        recipe: What to do.
        train: Clips to train on.
        validation: Clips to choose the best weights by; if empty, the last are kept.
        run: Folder for snapshots and ``log.jsonl``.
        report: Receives one line per epoch.
        stop_after_epochs: Leave early, resumable (as if killed).

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
