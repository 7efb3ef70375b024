"""Heads: the last ``n`` trunk outputs to logits.

A head is evaluated anew for every prediction: a running sum would drift over days, and a recurrent
state carried on would hear more than the window. So each is a plain function of ``n`` vectors, the
same ones in a stream as in a window.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

HeadKind = Literal["mean", "max", "statistics", "attention", "gru"]


class Head(nnx.Module):
    """Pooling over time, dropout, one dense layer; subclasses pool.

    Args:
        pooled: Width of what `pool` returns.
        n_classes: Number of labels.
        dropout: Rate in training.
        rngs: Source of the initial weights.
    """

    def __init__(self, pooled: int, n_classes: int, dropout: float, rngs: nnx.Rngs):
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.dense = nnx.Linear(pooled, n_classes, rngs=rngs)

    @abstractmethod
    def pool(self, vectors: jax.Array) -> jax.Array:
        """Map ``[batch, n, features]`` to ``[batch, pooled]``."""

    def __call__(self, vectors: jax.Array) -> jax.Array:
        """Map ``[batch, n, features]`` to logits ``[batch, classes]``."""
        return self.dense(self.dropout(self.pool(vectors)))


class MeanHead(Head):
    """Mean over time."""

    def pool(self, vectors: jax.Array) -> jax.Array:
        """Map ``[batch, n, features]`` to ``[batch, features]``."""
        return vectors.mean(axis=1)


class MaxHead(Head):
    """Maximum over time: for sounds that are short against the window."""

    def pool(self, vectors: jax.Array) -> jax.Array:
        """Map ``[batch, n, features]`` to ``[batch, features]``."""
        return vectors.max(axis=1)


class StatisticsHead(Head):
    """Mean and standard deviation over time.

    Reference: Snyder et al., "X-vectors: robust DNN embeddings for speaker recognition",
    ICASSP 2018.
    """

    def __init__(self, features: int, n_classes: int, dropout: float, rngs: nnx.Rngs):
        super().__init__(2 * features, n_classes, dropout, rngs)

    def pool(self, vectors: jax.Array) -> jax.Array:
        """Map ``[batch, n, features]`` to ``[batch, 2 * features]``."""
        mean = vectors.mean(axis=1)
        variance = jnp.square(vectors - mean[:, None]).mean(axis=1)
        # The root of a constant feature's variance, zero, would have an infinite slope.
        return jnp.concatenate([mean, jnp.sqrt(variance + 1e-5)], axis=-1)


class AttentionHead(Head):
    """Weighted mean over time, the weights learned from the vectors themselves.

    Each of ``n_heads`` groups of features has its own weights.

    Reference: India et al., "Self multi-head attention for speaker recognition", Interspeech 2019,
    arXiv 1906.09890.
    """

    def __init__(
        self, features: int, n_classes: int, dropout: float, rngs: nnx.Rngs, n_heads: int = 4
    ):
        super().__init__(features, n_classes, dropout, rngs)
        self.n_heads = n_heads
        self.score = nnx.Linear(features, n_heads, rngs=rngs)

    def pool(self, vectors: jax.Array) -> jax.Array:
        """Map ``[batch, n, features]`` to ``[batch, features]``."""
        batch, n, features = vectors.shape
        weights = jax.nn.softmax(self.score(vectors), axis=1)
        groups = vectors.reshape(batch, n, self.n_heads, features // self.n_heads)
        return (groups * weights[..., None]).sum(axis=1).reshape(batch, features)


class GruHead(Head):
    """Last state of a stack of gated recurrent units that starts from zero with the window.

    Args:
        features: Width of a trunk output.
        n_classes: Number of labels.
        dropout: Rate in training.
        rngs: Source of the initial weights.
        widths: Units of each layer; one layer as wide as the features if empty.
    """

    def __init__(
        self,
        features: int,
        n_classes: int,
        dropout: float,
        rngs: nnx.Rngs,
        widths: Sequence[int] = (),
    ):
        widths = widths or (features,)
        super().__init__(widths[-1], n_classes, dropout, rngs)
        inputs = (features, *widths[:-1])
        self.cells = nnx.List(
            nnx.GRUCell(width_in, width, rngs=rngs)
            for width_in, width in zip(inputs, widths, strict=True)
        )

    def pool(self, vectors: jax.Array) -> jax.Array:
        """Map ``[batch, n, features]`` to ``[batch, widths[-1]]``."""
        sequence = vectors.swapaxes(0, 1)
        state = sequence[0]
        for cell in self.cells:
            start = jnp.zeros((vectors.shape[0], cell.hidden_features), vectors.dtype)
            state, sequence = jax.lax.scan(cell, start, sequence, unroll=min(16, len(sequence)))
        return state


HEADS: Mapping[HeadKind, Callable[[int, int, float, nnx.Rngs], Head]] = {
    "mean": MeanHead,
    "max": MaxHead,
    "statistics": StatisticsHead,
    "attention": AttentionHead,
    "gru": GruHead,
}
"""Constructors ``(features, n_classes, dropout, rngs)`` by the name in a network's settings."""
