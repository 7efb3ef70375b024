"""What every executor does: one compiled step over the memories of many streams.

What is remembered of all streams lives on the device in one array ``[slots + 1, ...]``; the extra
row belongs to the padding of half-filled buckets. A step gathers the rows of the streams that have
a hop, runs front end and network on them, and scatters the rows back into the donated array. Steps
are compiled for a few numbers of rows, the buckets; all are compiled and checked in
`Executor.warm_up`, so nothing compiles while audio flows. A step moves one array to the device and
one back.

For one stream a step is a hundred kernels of less than a microsecond, so what counts is how often
anything is done at all: arguments, results, copies, switches of threads (decision 23).

What a stream's memory is and how a hop of frames becomes logits is up to the kind of executor:
`incremental` or `windowed`. Owned by the engine's thread after `Executor.warm_up`.
"""

import bisect
import functools
import itertools
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from streamcls.checkpoint import Checkpoint
from streamcls.engine.allocator import return_compilers_memory
from streamcls.engine.compilation import compiler_options, exhausts_compiler
from streamcls.engine.device import list_buckets
from streamcls.errors import ModelError
from streamcls.features import initial_history, stream_log_mel
from streamcls.models import Classifier
from streamcls.models.layers import State
from streamcls.types import FloatArray

FULL_SCALE = 32767 / 32768
"""Largest positive 16-bit sample: at or above it the converter has clipped."""

_CHECK_TOLERANCE = 1e-4
_TUNING_STEPS = 5
_TILE_MARGIN = 0.04
_LEVEL_PARTS = 16
_ALIGNMENT_BYTES = 64
_SMALL = 1024
"""Numbers that are copied out of an array sooner than handed over as one of their own."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step says about each of its streams.

    Attributes:
        probabilities: ``[streams, classes]`` float32 in [0, 1].
        mean_square: For each stream the power of the hop.
        peak: For each stream the largest magnitude in the hop.
    """

    probabilities: FloatArray
    mean_square: Sequence[float]
    peak: Sequence[float]


class Executor(ABC):
    """Runs a classifier one hop at a time for up to ``max_streams`` streams.

    Args:
        checkpoint: The model; it is made ready for inference.
        hop_samples: New audio per prediction, as from `choose_hop_samples`.
        max_streams: Number of slots.
        max_bucket: Streams per step at most; None leaves it to `list_buckets` and `tune`.

    Attributes:
        hop_samples: New audio per prediction.
        window_samples: Audio that one prediction hears.
        max_streams: Number of slots.
        buckets: Sizes of the compiled steps, ascending; the last is the most that `step` takes.
        n_classes: Number of labels.
        tile: ``[rows, hop_samples]`` float32, ``buckets[-1]`` rows or more; who fills its first
            rows in place calls `step_tile` and saves the copy that `step` makes.
    """

    _shares_products: ClassVar[bool]
    """The network's products are large enough for several threads (`compiler_options`)."""

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
        self._prepare(checkpoint.model)
        # The keys of dropout are not wanted, but a call would pay for them as arguments.
        self._graph, self._keys, weights = nnx.split(checkpoint.model, nnx.RngState, ...)
        self._weights, self._unpack = _pack(weights)
        self._memory = _Layout(jax.eval_shape(self._initial_state))
        self._state = jnp.zeros((max_streams + 1, self._memory.width), jnp.float32)
        self._steps: dict[int, jax.stages.Compiled] = {}
        self._staging = _Staging(self.buckets, hop_samples)
        self.tile = self._staging.audio

    def _prepare(self, model: Classifier) -> None:
        """Make the model ready for inference."""
        model.fold()

    @abstractmethod
    def _initial_memory(self, model: Classifier, rows: int) -> State:
        """Return what is remembered of ``rows`` streams that begin, zeros ``[rows, ...]``."""

    @abstractmethod
    def _advance(self, model: Classifier, mel: jax.Array, memory: State) -> tuple[jax.Array, State]:
        """Take ``[batch, hop_frames, n_mels]`` new frames; return (logits, next memory)."""

    def _initial_state(self) -> Any:
        model = self._merge(self._weights)
        return initial_history(1, self._front_end), self._initial_memory(model, 1)

    def _merge(self, weights: list[jax.Array]) -> Classifier:
        return nnx.merge(self._graph, self._keys, self._unpack(weights))

    def _step(
        self, weights: list[jax.Array], state: jax.Array, rows: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Advance the streams of ``rows`` (see `_Staging`) by one hop; compiled per bucket."""
        # The scopes name the parts in profiles (`benchmarks.stages`) and do nothing else.
        with jax.named_scope("take_state"):
            audio = rows[:, : self.hop_samples]
            control = jax.lax.bitcast_convert_type(rows[:, self.hop_samples], jnp.int32)
            slots, fresh = control >> 1, (control & 1).astype(bool)
            # All is read before any is written: else XLA would first copy all streams' state.
            taken = jax.lax.optimization_barrier(jnp.where(fresh[:, None], 0.0, state[slots]))
            history, memory = self._memory.unpack(taken)
        with jax.named_scope("front_end"):
            mel, history = stream_log_mel(audio, history, self._front_end)
        logits, memory = self._advance(self._merge(weights), mel, memory)
        with jax.named_scope("scores"):
            scaled = logits / self._temperature
            probabilities = jax.nn.softmax(scaled) if self._single_label else jax.nn.sigmoid(scaled)
        with jax.named_scope("level"):
            mean_square, peak = _measure_level(audio)
        with jax.named_scope("put_state"):
            next_state = state.at[slots].set(self._memory.pack((history, memory)))
        with jax.named_scope("result"):
            return next_state, jnp.concatenate([probabilities, mean_square, peak], axis=1)

    def warm_up(self) -> None:
        """Compile every bucket, then check each against the smallest on the same audio.

        Raises:
            ModelError: A bucket gives other probabilities than the single-stream step.
        """
        step = jax.jit(self._step, donate_argnums=1)

        def compile_bucket(bucket: int) -> jax.stages.Compiled:
            rows = jax.ShapeDtypeStruct((bucket, self.hop_samples + 1), jnp.float32)
            # Else accelerators round what is multiplied: to 10 bits (TF32) or 7 (bfloat16).
            with jax.default_matmul_precision("highest"):
                traced = step.trace(self._weights, self._state, rows)
            share = self._shares_products or exhausts_compiler(traced.jaxpr.jaxpr)
            return traced.lower().compile(compiler_options(share))

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

    def tune(self) -> None:
        """Give up the buckets that are no better per stream than a smaller one (`choose_tile`).

        After `warm_up`, where many streams shall be served; takes some steps of each bucket.
        """
        audio = np.zeros((self.buckets[-1], self.hop_samples), np.float32)
        fresh, slots = np.ones(len(audio), bool), np.arange(len(audio), dtype=np.int32)

        def time_step(bucket: int) -> float:
            began_s = time.perf_counter()
            self.step(audio[:bucket], slots[:bucket], fresh[:bucket])
            return time.perf_counter() - began_s

        seconds = {b: min(time_step(b) for _ in range(_TUNING_STEPS)) for b in self.buckets}
        tile = choose_tile({bucket: step_s / bucket for bucket, step_s in seconds.items()})
        self.buckets = [bucket for bucket in self.buckets if bucket <= tile]
        self._steps = {bucket: self._steps[bucket] for bucket in self.buckets}

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
        self.tile[: len(slots)] = audio
        return self.step_tile(slots.tolist(), fresh.tolist())

    def step_tile(self, slots: Sequence[int], fresh: Sequence[bool]) -> StepResult:
        """Do the same with the audio in the first rows of `tile`.

        Plain numbers for few rows: behind a compiled step the caches are cold, and each operation
        of NumPy takes three times as long as it does in a loop of its own.
        """
        n = len(slots)
        bucket = self.buckets[bisect.bisect_left(self.buckets, n)]
        control = self._staging.control
        for row, slot in enumerate(slots):
            control[row] = slot << 1 | fresh[row]
        for row in range(n, bucket):
            control[row] = self._padding_slot << 1 | 1
        rows = self._staging.rows[bucket]
        self._state, packed = self._steps[bucket](self._weights, self._state, rows)
        # Waits for the computation: the staging array, which the device may alias, is free again.
        host = np.asarray(packed)[:n]
        return StepResult(host[:, : self.n_classes], host[:, -2].tolist(), host[:, -1].tolist())


def choose_tile(row_s: Mapping[int, float]) -> int:
    """Return the smallest number of rows that is about as cheap per row as any.

    Larger tiles only make everybody wait for longer.

    Args:
        row_s: Seconds a row by the number of rows, ascending.

    Example:
        >>> choose_tile({1: 60e-6, 8: 19e-6, 16: 16.5e-6, 32: 16e-6, 64: 17e-6})
        16
    """
    enough_s = (1 + _TILE_MARGIN) * min(row_s.values())
    return next(rows for rows, one_s in row_s.items() if one_s <= enough_s)


def _measure_level(audio: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return power and largest magnitude ``[rows, 1]`` of audio ``[rows, samples]``.

    XLA reduces along a row number by number. A row folded into parts that lie over each other is
    reduced a vector at a time, three times faster.
    """
    samples = audio.shape[1]
    whole = jnp.pad(audio, ((0, 0), (0, -samples % _LEVEL_PARTS)))
    parts = jnp.split(whole, _LEVEL_PARTS, axis=1)
    power = sum(map(jnp.square, parts[1:]), start=jnp.square(parts[0]))
    peak = functools.reduce(jnp.maximum, map(jnp.abs, parts))
    return power.sum(axis=1, keepdims=True) / samples, peak.max(axis=1, keepdims=True)


class _Staging:
    """Preallocated input of all buckets: a row per stream, in one array.

    Attributes:
        rows: For each bucket ``[bucket, hop_samples + 1]`` float32; what the device gets.
        audio: The first ``hop_samples`` columns of the largest.
        control: The bits of its last column: ``slot << 1 | fresh``, int32 each.
    """

    def __init__(self, buckets: Sequence[int], hop_samples: int):
        rows = _aligned_zeros((buckets[-1], hop_samples + 1))
        self.rows = {bucket: rows[:bucket] for bucket in buckets}
        self.audio = rows[:, :hop_samples]
        self.control = rows.view(np.int32)[:, hop_samples].data


def _aligned_zeros(shape: tuple[int, int]) -> FloatArray:
    """Return zeros that XLA reads where they lie; it copies what is aligned less."""
    n_bytes = 4 * math.prod(shape)
    raw = np.zeros(n_bytes + _ALIGNMENT_BYTES, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT_BYTES
    return raw[start : start + n_bytes].view(np.float32).reshape(shape)


class _Layout:
    """How what is remembered of a stream lies in one row.

    Args:
        example: Pytree of float32 arrays ``[1, ...]``, or what describes their shapes.

    Attributes:
        width: Numbers in a row.
    """

    def __init__(self, example: Any):
        leaves, self._tree = jax.tree.flatten(example)
        self._shapes = [leaf.shape[1:] for leaf in leaves]
        *self._ends, self.width = np.cumsum([leaf.size for leaf in leaves]).tolist()

    def pack(self, memory: Any) -> jax.Array:
        """Return ``[rows, width]`` of arrays ``[rows, ...]``."""
        # Else the parts are ready all at once, and where more than eight kernels are, XLA hands
        # half of them to another thread.
        leaves = jax.tree.leaves(jax.lax.optimization_barrier(memory))
        return jnp.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)

    def unpack(self, rows: jax.Array) -> Any:
        """Return what `pack` was given."""
        parts = zip(jnp.split(rows, self._ends, axis=1), self._shapes, strict=True)
        return self._tree.unflatten([part.reshape(-1, *shape) for part, shape in parts])


def _pack(weights: Any) -> tuple[list[jax.Array], Callable[[list[jax.Array]], Any]]:
    """Put weights on the device, all small ones as one array; return them and what undoes it.

    A call pays for each argument, and half of them would be vectors of some hundred bytes.
    """
    leaves, tree = jax.tree.flatten(weights)
    is_small = [leaf.size <= _SMALL and leaf.dtype == np.float32 for leaf in leaves]
    small = [np.asarray(leaf) for leaf in itertools.compress(leaves, is_small)]
    others = [leaf for leaf, one in zip(leaves, is_small, strict=True) if not one]
    shapes = [one.shape for one in small]
    ends = np.cumsum([one.size for one in small])[:-1]

    def unpack(packed: list[jax.Array]) -> Any:
        parts = zip(jnp.split(packed[0], ends), shapes, strict=True)
        small, large = (part.reshape(shape) for part, shape in parts), iter(packed[1:])
        return tree.unflatten([next(small if one else large) for one in is_small])

    return jax.device_put([np.concatenate([one.ravel() for one in small]), *others]), unpack
