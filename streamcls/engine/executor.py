"""What every executor does: one compiled step over the memories of many streams.

What is remembered of all streams lives on the device in arrays ``[slots + 1, ...]``; the extra row
belongs to the padding of half-filled buckets. A step gathers the rows of the streams that have a
hop, runs front end and network on them, and scatters the rows back into the donated arrays. Steps
are compiled for a few numbers of rows, the buckets; all are compiled and checked in
`Executor.warm_up`, so nothing compiles while audio flows. A step moves one array to the device and
one back.

What a stream's memory is and how a hop of frames becomes logits is up to the kind of executor:
`incremental` or `windowed`. Owned by the engine's thread after `Executor.warm_up`.
"""

import os
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from streamcls.checkpoint import Checkpoint
from streamcls.engine.compilation import return_compilers_memory
from streamcls.engine.device import list_buckets
from streamcls.errors import ModelError
from streamcls.features import initial_history, stream_log_mel
from streamcls.models import Classifier
from streamcls.models.layers import State
from streamcls.types import FloatArray

FULL_SCALE = 32767 / 32768
"""Largest positive 16-bit sample: at or above it the converter has clipped."""

_CHECK_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step says about each of its streams (host arrays, first axis: streams).

    Attributes:
        probabilities: ``[streams, classes]`` float32 in [0, 1].
        mean_square: ``[streams]`` float32, power of the hop.
        peak: ``[streams]`` float32, largest magnitude in the hop.
    """

    probabilities: FloatArray
    mean_square: FloatArray
    peak: FloatArray


class Executor(ABC):
    """Runs a classifier one hop at a time for up to ``max_streams`` streams.

    Args:
        checkpoint: The model; it is folded for inference.
        hop_samples: New audio per prediction, as from `choose_hop_samples`.
        max_streams: Number of slots.
        max_bucket: Streams per step at most; None leaves it to `list_buckets`.

    Attributes:
        hop_samples: New audio per prediction.
        window_samples: Audio that one prediction hears.
        max_streams: Number of slots.
        buckets: Sizes of the compiled steps, ascending; the last is the most that `step` takes.
        n_classes: Number of labels.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        hop_samples: int,
        max_streams: int,
        max_bucket: int | None = None,
    ):
        self.hop_samples = hop_samples
        self.max_streams = max_streams
        self.n_classes = len(checkpoint.header.labels)
        self.window_samples = checkpoint.front_end.samples_for(checkpoint.model.window_frames)
        self.buckets = list_buckets(min(max_streams, max_bucket or max_streams))
        self._padding_slot = max_streams
        self._front_end = checkpoint.front_end
        self._temperature = checkpoint.header.temperature
        self._single_label = checkpoint.header.task == "single-label"
        checkpoint.model.fold()
        self._graph, weights = nnx.split(checkpoint.model)
        # A plain list: taking nnx's containers apart for each step costs as much as the call.
        leaves, self._weights_tree = jax.tree.flatten(weights)
        self._weights = jax.device_put(leaves)
        self._state = jax.jit(self._initial_state)()
        self._steps: dict[int, jax.stages.Compiled] = {}
        self._staging = {b: _Staging(b, hop_samples) for b in self.buckets}

    @abstractmethod
    def _initial_memory(self, model: Classifier, rows: int) -> State:
        """Return what is remembered of ``rows`` streams that begin, zeros ``[rows, ...]``."""

    @abstractmethod
    def _advance(self, model: Classifier, mel: jax.Array, memory: State) -> tuple[jax.Array, State]:
        """Take ``[batch, hop_frames, n_mels]`` new frames; return (logits, next memory)."""

    def _initial_state(self) -> Any:
        rows = self.max_streams + 1
        model = self._merge(self._weights)
        return initial_history(rows, self._front_end), self._initial_memory(model, rows)

    def _merge(self, weights: list[jax.Array]) -> Classifier:
        return nnx.merge(self._graph, jax.tree.unflatten(self._weights_tree, weights))

    def _step(self, weights: list[jax.Array], state: Any, rows: jax.Array) -> tuple[Any, jax.Array]:
        """Advance the streams of ``rows`` (see `_Staging`) by one hop; compiled per bucket."""
        audio = rows[:, : self.hop_samples]
        control = jax.lax.bitcast_convert_type(rows[:, self.hop_samples], jnp.int32)
        slots, fresh = control >> 1, (control & 1).astype(bool)

        def gather(rows: jax.Array) -> jax.Array:
            taken = rows[slots]
            return jnp.where(fresh.reshape(-1, *[1] * (rows.ndim - 1)), 0.0, taken)

        history, memory = jax.tree.map(gather, state)
        mel, history = stream_log_mel(audio, history, self._front_end)
        logits, memory = self._advance(self._merge(weights), mel, memory)
        scaled = logits / self._temperature
        probabilities = jax.nn.softmax(scaled) if self._single_label else jax.nn.sigmoid(scaled)
        stepped = jax.tree.map(lambda rows, new: rows.at[slots].set(new), state, (history, memory))
        mean_square = jnp.mean(jnp.square(audio), axis=1, keepdims=True)
        peak = jnp.max(jnp.abs(audio), axis=1, keepdims=True)
        return stepped, jnp.concatenate([probabilities, mean_square, peak], axis=1)

    def warm_up(self) -> None:
        """Compile every bucket, then check each against the smallest on the same audio.

        Raises:
            ModelError: A bucket gives other probabilities than the single-stream step.
        """
        step = jax.jit(self._step, donate_argnums=1)

        def compile_bucket(bucket: int) -> jax.stages.Compiled:
            rows = jax.ShapeDtypeStruct((bucket, self.hop_samples + 1), jnp.float32)
            return step.lower(self._weights, self._state, rows).compile()

        # XLA compiles without the interpreter's lock: all cores share the work.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            compiled = pool.map(compile_bucket, self.buckets)
            self._steps = dict(zip(self.buckets, compiled, strict=True))
        return_compilers_memory()
        generator = np.random.default_rng(0)
        audio = generator.normal(0, 0.1, (self.buckets[-1], self.hop_samples)).astype(np.float32)
        fresh = np.ones(len(audio), bool)
        slots = np.arange(len(audio), dtype=np.int32)
        single = np.concatenate(
            [self.step(audio[i : i + 1], slots[:1], fresh[:1]).probabilities for i in slots]
        )
        for bucket in self.buckets:
            batch = slice(0, bucket)
            result = self.step(audio[batch], slots[batch], fresh[batch])
            worst = float(np.abs(result.probabilities - single[batch]).max())
            if not worst <= _CHECK_TOLERANCE:
                raise ModelError(
                    f"compiled step for {bucket} streams differs by {worst:g} from the one for a "
                    f"single stream, the limit is {_CHECK_TOLERANCE:g}; clear the compilation "
                    f"cache and start again"
                )

    def compiled(self, bucket: int) -> jax.stages.Compiled:
        """Return the compiled step for so many rows, to be looked at."""
        return self._steps[bucket]

    def step(
        self, audio: FloatArray, slots: NDArray[np.int32], fresh: NDArray[np.bool_]
    ) -> StepResult:
        """Run one hop for up to ``max_bucket`` streams and wait for the result.

        Args:
            audio: ``[streams, hop_samples]`` float32 in [-1, 1], finite.
            slots: ``[streams]`` int32, all different.
            fresh: ``[streams]`` bool; true starts the stream's state anew.
        """
        n = len(slots)
        bucket = next(b for b in self.buckets if b >= n)
        staging = self._staging[bucket]
        staging.audio[:n] = audio
        staging.control[:n] = slots << 1 | fresh
        staging.control[n:] = self._padding_slot << 1 | 1
        self._state, packed = self._steps[bucket](self._weights, self._state, staging.rows)
        # Waits for the computation: the staging arrays, which the device may alias, are free again.
        host = np.asarray(packed)[:n]
        return StepResult(host[:, : self.n_classes], host[:, -2], host[:, -1])


class _Staging:
    """Preallocated input of one bucket: a row per stream, in one array.

    Attributes:
        rows: ``[bucket, hop_samples + 1]`` float32; what the device gets.
        audio: The first ``hop_samples`` columns.
        control: The bits of the last column: ``slot << 1 | fresh``, int32.
    """

    def __init__(self, bucket: int, hop_samples: int):
        self.rows = np.zeros((bucket, hop_samples + 1), np.float32)
        self.audio = self.rows[:, :hop_samples]
        self.control = self.rows.view(np.int32)[:, hop_samples]
