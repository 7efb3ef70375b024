"""One step of a training, from clip numbers to updated weights, and the guesses it is judged by.

A step draws its clips, augments them, computes the daemon's log-mel, differentiates and updates,
all in one executable over donated state. All randomness of step ``i`` comes from
``fold_in(key, i)``.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from numpy.typing import NDArray

from streamcls.features import FrontEnd, log_mel
from streamcls.features.mel import hz_to_mel, mel_to_hz
from train.augment import Bank, Palette, augment_mel, make_windows
from train.batches import map_batches
from train.recipes import Recipe
from train.state import Network, TrainState, WordHead

_WORD_DROPOUT = 0.2


def mel_centres_hz(front_end: FrontEnd) -> jax.Array:
    """Return the centre of each mel band, ``[n_mels]``."""
    limits = hz_to_mel(np.array([front_end.fmin_hz, front_end.fmax_hz]), front_end.mel_scale)
    mels = np.linspace(limits[0], limits[1], front_end.n_mels + 2)[1:-1]
    return jnp.asarray(mel_to_hz(mels, front_end.mel_scale), jnp.float32)


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
        frozen = recipe.trunk_rate == 0
        if frozen:
            model.trunk.eval()
        k_model, k_words = jax.random.split(key)
        nnx.reseed(model, params=k_model, dropout=k_model, default=k_model)
        vectors = model.trunk(mel)[:, :, 0]
        if frozen:
            vectors = jax.lax.stop_gradient(vectors)
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
            # In this form the average of what never changes is exactly that.
            lambda old, new: old + (1 - decay) * (new - old),
            state.average,
            (params[0], stats),
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
        return map_batches(partial(guess, params, stats), batch, windows)

    return predict
