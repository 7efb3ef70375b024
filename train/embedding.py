"""A trained trunk as a function from windows to embeddings: what its own dense layer would see.

Before `train.fewshot`, which puts another dense layer on them. The trunk is evaluated once per
window and never changed, so that a head costs seconds, however large the network.
"""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from streamcls.checkpoint import Checkpoint
from streamcls.features import log_mel
from train.augment import Augment, make_palette, make_windows
from train.bank import to_bank
from train.batches import map_batches
from train.data import Clips, window_starts

_BATCH = 64
_QUIET = 10**-2.5
"""Power of a window relative to the clip's loudest from which on it counts as part of the sound."""


class Embedded(NamedTuple):
    """Windows as the trunk hears them."""

    vectors: NDArray[np.float32]
    """``[windows, features]``."""
    targets: NDArray[np.float32]
    """``[windows, labels]``, each row sums to one."""
    clip: NDArray[np.intp]
    """``[windows]``, the clip that each was cut from."""


class Embedder:
    """A checkpoint up to its last dense layer, in even compiled batches.

    Attributes:
        window_samples: Audio that one embedding hears.
        features: Width of an embedding.
    """

    def __init__(self, checkpoint: Checkpoint):
        self._graph, self._state = nnx.split(checkpoint.model)
        self._front_end = checkpoint.front_end
        self._sample_rate_hz = checkpoint.front_end.sample_rate_hz
        self.window_samples = checkpoint.front_end.samples_for(checkpoint.model.window_frames)
        self.features = checkpoint.model.head.dense.in_features

        @jax.jit
        def embed(state: Any, audio: jax.Array) -> jax.Array:
            model = nnx.merge(self._graph, state)
            return model.head.pool(model.trunk(log_mel(audio, self._front_end))[:, :, 0])

        self._embed = embed

    def __call__(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map ``[n, window_samples]`` float32 in [-1, 1] to ``[n, features]``."""
        return map_batches(partial(self._embed, self._state), _BATCH, windows)

    def embed_augmented(
        self,
        clips: Clips,
        copies: int,
        settings: Augment,
        unknown: int | None,
        silence: int | None,
        seed: int,
    ) -> Embedded:
        """Embed ``copies`` differently augmented windows of each clip.

        Args:
            clips: At the model's rate.
            copies: Windows per clip.
            settings: Strengths of the augmentation.
            unknown: Label of cut words; None: none are cut.
            silence: Label that stands for nothing, shown with noise of all colours; None: there is
                none.
            seed: Of all that is random.
        """
        pieces, owner = cut_audible(clips, self.window_samples)
        bank = to_bank(pieces)
        key = jax.random.key(seed)
        noise_clips = jnp.zeros((0,), jnp.int32)
        palette = make_palette(
            key, noise_clips, self.window_samples, self._sample_rate_hz, settings
        )
        make = jax.jit(
            partial(
                make_windows,
                window_samples=self.window_samples,
                sample_rate_hz=self._sample_rate_hz,
                n_classes=len(clips.labels),
                n_words=1,
                unknown=unknown,
                silence=silence,
                settings=settings,
            )
        )
        chosen = _draw_pieces(owner, len(clips), copies, np.random.default_rng(seed))
        padded = np.pad(chosen, (0, -len(chosen) % _BATCH), mode="wrap")
        vectors, targets = [], []
        for i in range(0, len(padded), _BATCH):
            batch = jnp.array(padded[i : i + _BATCH], jnp.int32)
            audio, labels, _ = make(jax.random.fold_in(key, i), bank, batch, palette)
            vectors.append(np.asarray(self._embed(self._state, audio)))
            targets.append(np.asarray(labels))
        n = len(chosen)
        return Embedded(np.concatenate(vectors)[:n], np.concatenate(targets)[:n], owner[chosen])


def _draw_pieces(
    owner: NDArray[np.intp], n_clips: int, copies: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    """Return ``copies`` pieces of each clip, every piece as often as the others."""
    chosen = []
    for clip in range(n_clips):
        own = np.flatnonzero(owner == clip)
        rounds = [rng.permutation(own) for _ in range(-(-copies // len(own)))]
        chosen.append(np.concatenate(rounds)[:copies])
    # Mixed, for neighbours of a batch are mixed with each other.
    return rng.permutation(np.concatenate(chosen))


def cut_audible(clips: Clips, window_samples: int) -> tuple[Clips, NDArray[np.intp]]:
    """Cut clips longer than one and a half windows into the windows where something is heard.

    Such clips pause: a dog barks, then does not. Windows 25 dB below the loudest are left out.

    Returns:
        (the pieces, which share the audio; ``[pieces]`` the clip of each).
    """
    starts, lengths, actives, owner = [], [], [], []
    for number, (start, length, active) in enumerate(
        zip(clips.start, clips.length, clips.active, strict=True)
    ):
        firsts, span, own = window_starts(length, active, window_samples), active, int(length)
        if firsts is None:
            firsts = np.array([0])
        else:
            span, own = (0, window_samples), window_samples
            power = np.array(
                [
                    np.mean(np.square(clips.audio[at : at + own].astype(np.float32)))
                    for at in start + firsts
                ]
            )
            firsts = firsts[power >= _QUIET * power.max()]
        starts += (start + firsts).tolist()
        lengths += [own] * len(firsts)
        actives += [span] * len(firsts)
        owner += [number] * len(firsts)
    index = np.array(owner)
    pieces = replace(
        clips.pick(index),
        start=np.array(starts, np.int64),
        length=np.array(lengths, np.int64),
        active=np.array(actives, np.int64),
        word=np.zeros(len(index), np.int32),
        words=("",),
    )
    return pieces, index
