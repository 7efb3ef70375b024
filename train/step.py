"""One step of a training, from clip numbers to updated weights, and the guesses it is judged by.

A step draws its clips, augments them, computes the daemon's log-mel, differentiates and updates,
all in one executable over donated state. All randomness of step ``i`` comes from
``fold_in(key, i)`` and is drawn for the whole batch, so it does not depend on how many devices
share the batch or in how many parts it is differentiated.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from numpy.typing import NDArray

from streamcls.features import FrontEnd, log_mel
from streamcls.features.mel import hz_to_mel, mel_to_hz
from train.augment import Palette, augment_mel, make_windows
from train.bank import Bank
from train.batches import map_batches
from train.parallel import EVERYWHERE, SHARED_OUT, share_out
from train.recipes import Recipe
from train.state import Network, TrainState, WordHead

_WORD_DROPOUT = 0.2


class Batch(NamedTuple):
    """Examples ready for the network."""

    mel: jax.Array
    """``[batch, frames, n_mels]``"""
    labels: jax.Array
    """``[batch, classes]``, soft."""
    words: jax.Array
    """``[batch, words]``, soft."""


class Measures(NamedTuple):
    """What a step tells about itself."""

    loss: jax.Array
    gradient_norm: jax.Array
    """Before clipping."""


LossOf = Callable[[Any, Any, Batch, jax.Array], tuple[jax.Array, Any]]
"""``(params, stats, batch, key) -> (loss, stats)``"""


def mel_centres_hz(front_end: FrontEnd) -> jax.Array:
    """Return the centre of each mel band, ``[n_mels]``."""
    limits = hz_to_mel(np.array([front_end.fmin_hz, front_end.fmax_hz]), front_end.mel_scale)
    mels = np.linspace(limits[0], limits[1], front_end.n_mels + 2)[1:-1]
    return jnp.asarray(mel_to_hz(mels, front_end.mel_scale), jnp.float32)


def make_batch(
    recipe: Recipe, network: Network, n_words: int, mesh: Mesh
) -> Callable[[jax.Array, Bank, Palette, jax.Array], Batch]:
    """Return ``(key, bank, palette, chances) -> batch``, divided among the devices."""
    centres_hz = mel_centres_hz(recipe.front_end)
    share = partial(jax.lax.with_sharding_constraint, shardings=NamedSharding(mesh, SHARED_OUT))
    # By itself XLA would gather the frames of all devices on each for the FFT.
    mel_of = jax.shard_map(
        partial(log_mel, front_end=recipe.front_end),
        mesh=mesh,
        in_specs=SHARED_OUT,
        out_specs=SHARED_OUT,
    )

    def draw(key: jax.Array, bank: Bank, palette: Palette, chances: jax.Array) -> Batch:
        k_draw, k_windows, k_mel = jax.random.split(key, 3)
        drawn = share(jax.random.uniform(k_draw, (recipe.n_drawn,)))
        clip = jnp.minimum(jnp.searchsorted(chances, drawn), chances.shape[0] - 1)
        audio, labels, words = make_windows(
            k_windows,
            bank,
            clip,
            palette,
            window_samples=network.window_samples,
            sample_rate_hz=recipe.front_end.sample_rate_hz,
            n_classes=len(recipe.labels),
            n_words=n_words,
            unknown=None if recipe.unknown is None else recipe.labels.index(recipe.unknown),
            silence=None if recipe.silence is None else recipe.labels.index(recipe.silence),
            settings=recipe.augment,
        )
        # Views side by side, on the device that has the window.
        mel, labels, words = (
            share(jnp.repeat(part, recipe.views, axis=0)) for part in (mel_of(audio), labels, words)
        )
        return Batch(augment_mel(k_mel, mel, centres_hz, recipe.augment), labels, words)

    return draw


def make_loss(recipe: Recipe, network: Network) -> LossOf:
    """Return the loss of a batch, with the statistics of the batch norms after it."""
    precision = jnp.dtype(recipe.precision)

    def loss_of(
        params: tuple[Any, WordHead], stats: Any, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Any]:
        weights, word_head = params
        # Gradients pass the cast, so they and what is added up of them are float32 again.
        model = network.join(jax.tree.map(lambda w: w.astype(precision), weights), stats)
        model.train()
        frozen = recipe.trunk_rate == 0
        if frozen:
            model.trunk.eval()
        for _, module in nnx.iter_modules(model):
            # By itself a norm answers in the type of its statistics.
            if isinstance(module, nnx.BatchNorm):
                module.dtype = precision
        k_model, k_words = jax.random.split(key)
        nnx.reseed(model, params=k_model, dropout=k_model, default=k_model)
        vectors = model.trunk(batch.mel.astype(precision))[:, :, 0]
        if frozen:
            vectors = jax.lax.stop_gradient(vectors)
        logits = model.head(vectors).astype(jnp.float32)
        if recipe.task == "single-label":
            smooth = optax.smooth_labels(batch.labels, recipe.label_smoothing)
            loss = optax.softmax_cross_entropy(logits, smooth).mean()
        else:
            # Each label is a question of its own, with two answers to smooth between.
            smooth = batch.labels * (1 - recipe.label_smoothing) + recipe.label_smoothing / 2
            loss = optax.sigmoid_binary_cross_entropy(logits, smooth).mean()
        pooled = vectors.astype(jnp.float32).mean(axis=1)
        keep = jax.random.bernoulli(k_words, 1 - _WORD_DROPOUT, pooled.shape)
        words = word_head(pooled * keep / (1 - _WORD_DROPOUT))
        word_loss = optax.softmax_cross_entropy(words, batch.words).mean()
        return loss + recipe.word_weight * word_loss, nnx.state(model, nnx.BatchStat)

    return loss_of


def differentiate(
    loss_of: LossOf, n_parts: int, params: Any, stats: Any, batch: Batch, key: jax.Array
) -> tuple[jax.Array, Any, Any]:
    """Return (loss, stats, gradients) of a batch, differentiated in parts.

    Args:
        loss_of: The loss, a mean over examples.
        n_parts: How many; divides the batch. The activations of one part are kept at a time.
        params: What to differentiate by.
        stats: Statistics of the batch norms, which the parts update in turn.
        batch: All examples.
        key: PRNG key.
    """
    gradient = jax.value_and_grad(loss_of, has_aux=True)
    if n_parts == 1:
        (loss, stats), gradients = gradient(params, stats, batch, key)
        return loss, stats, gradients

    def add(carry: tuple[Any, Any, Any], part: tuple[Batch, jax.Array]) -> tuple[Any, None]:
        total, stats, gradients = carry
        (loss, stats), new = gradient(params, stats, *part)
        return (total + loss, stats, jax.tree.map(jnp.add, gradients, new)), None

    def deal(examples: jax.Array) -> jax.Array:
        # Every n-th example: each part then lies on all devices.
        return jnp.moveaxis(examples.reshape(-1, n_parts, *examples.shape[1:]), 1, 0)

    start = (jnp.zeros(()), stats, jax.tree.map(jnp.zeros_like, params))
    parts = (jax.tree.map(deal, batch), jax.random.split(key, n_parts))
    (loss, stats, gradients), _ = jax.lax.scan(add, start, parts)
    return loss / n_parts, stats, jax.tree.map(lambda total: total / n_parts, gradients)


def make_step(
    recipe: Recipe,
    network: Network,
    optimizer: optax.GradientTransformation,
    n_words: int,
    mesh: Mesh,
) -> Callable[..., tuple[TrainState, Measures]]:
    """Return the compiled step ``(state, bank, palette, chances) -> (state, measures)``."""
    draw = make_batch(recipe, network, n_words, mesh)
    loss_of = make_loss(recipe, network)
    base_key = jax.random.key(recipe.seed)

    @partial(jax.jit, donate_argnums=0, out_shardings=NamedSharding(mesh, EVERYWHERE))
    def step(
        state: TrainState, bank: Bank, palette: Palette, chances: jax.Array
    ) -> tuple[TrainState, Measures]:
        k_batch, k_dropout = jax.random.split(jax.random.fold_in(base_key, state.step))
        batch = draw(k_batch, bank, palette, chances)
        loss, stats, gradients = differentiate(
            loss_of, recipe.accumulate_steps, state.params, state.stats, batch, k_dropout
        )
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        # Early averages forget fast, or the random start would linger in them.
        decay = jnp.minimum(recipe.ema_decay, (1.0 + state.step) / (10.0 + state.step))
        average = jax.tree.map(
            # In this form the average of what never changes is exactly that.
            lambda old, new: old + (1 - decay) * (new - old),
            state.average,
            (params[0], stats),
        )
        first_of_epoch = state.step % recipe.steps_per_epoch == 0
        return (
            state._replace(
                step=state.step + 1,
                loss_sum=jnp.where(first_of_epoch, 0.0, state.loss_sum) + loss,
                params=params,
                stats=stats,
                optimizer=optimizer_state,
                average=average,
            ),
            Measures(loss, optax.tree.norm(gradients)),
        )

    return step


def make_predict(
    network: Network, mesh: Mesh
) -> Callable[[Any, Any, NDArray[np.float32]], NDArray[np.intp]]:
    """Return ``(params, stats, windows [n, samples]) -> class indices [n]``, in even batches."""

    @partial(jax.jit, out_shardings=NamedSharding(mesh, EVERYWHERE))
    def guess(params: Any, stats: Any, audio: jax.Array) -> jax.Array:
        model = network.join(params, stats)
        model.eval()
        return model(log_mel(audio, network.front_end)).argmax(axis=1)

    def predict(
        params: Any, stats: Any, windows: NDArray[np.float32], per_device: int = 256
    ) -> NDArray[np.intp]:
        def share_and_guess(part: jax.Array) -> jax.Array:
            return guess(params, stats, share_out(np.asarray(part), mesh))

        return map_batches(share_and_guess, per_device * mesh.size, windows)

    return predict
