"""The incremental executor: one compiled step over the states of many streams.

State of all streams lives on the device in arrays ``[slots + 1, ...]``; the extra row belongs to
the padding of half-filled buckets. A step gathers the rows of the streams that have a hop, runs
front end, trunk and head on them, and scatters the rows back into the donated arrays. Buckets have
1, 2, 4, ... rows; all are compiled and checked in `warm_up`, so nothing compiles while audio flows.

Owned by the engine's thread after `warm_up`.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from streamcls.checkpoint import Checkpoint
from streamcls.errors import ModelError
from streamcls.features import initial_history, stream_log_mel
from streamcls.types import FloatArray
from streamcls.units import ms_to_samples, samples_to_ms

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


def choose_hop_samples(checkpoint: Checkpoint, hop_ms: float) -> int:
    """Return the hop in samples after checking that the model allows it.

    Raises:
        ModelError: The hop is not a multiple of the model's stride; names the nearest legal ones.
    """
    front_end = checkpoint.front_end
    stride_samples = checkpoint.model.geometry.stride_frames * front_end.hop_samples
    hop_samples = ms_to_samples(hop_ms, front_end.sample_rate_hz)
    exact = abs(samples_to_ms(hop_samples, front_end.sample_rate_hz) - hop_ms) < 1e-6
    if hop_samples > 0 and hop_samples % stride_samples == 0 and exact:
        return hop_samples
    stride_ms = samples_to_ms(stride_samples, front_end.sample_rate_hz)
    lower = int(hop_ms / stride_ms) * stride_ms
    legal = " or ".join(f"{ms:g} ms" for ms in (lower, lower + stride_ms) if ms > 0)
    raise ModelError(
        f"hop_ms = {hop_ms:g} is not a multiple of the stride of model "
        f"{checkpoint.header.name!r}, which is {stride_ms:g} ms; use {legal}"
    )


class IncrementalExecutor:
    """Runs a time-valid classifier one hop at a time for up to ``max_streams`` streams.

    Args:
        checkpoint: The model; it is folded for inference.
        hop_samples: New audio per prediction, as from `choose_hop_samples`.
        max_streams: Number of slots.
        max_bucket: Streams per step at most; larger batches fall out of the CPU's caches.

    Attributes:
        window_samples: Audio that one prediction hears.
    """

    def __init__(
        self, checkpoint: Checkpoint, hop_samples: int, max_streams: int, max_bucket: int = 32
    ):
        self.hop_samples = hop_samples
        self.max_streams = max_streams
        self.n_classes = len(checkpoint.header.labels)
        self.window_samples = checkpoint.front_end.samples_for(checkpoint.model.window_frames)
        self.buckets = _list_buckets(min(max_streams, max_bucket))
        self._padding_slot = max_streams
        self._front_end = checkpoint.front_end
        self._temperature = checkpoint.header.temperature
        self._single_label = checkpoint.header.task == "single-label"
        checkpoint.model.fold()
        self._graph, weights = nnx.split(checkpoint.model)
        self._weights = jax.device_put(weights)
        self._state = jax.jit(self._initial_state)()
        self._steps: dict[int, jax.stages.Compiled] = {}
        self._staging = {b: _Staging.allocate(b, hop_samples) for b in self.buckets}

    def _initial_state(self) -> Any:
        rows = self.max_streams + 1
        model = nnx.merge(self._graph, self._weights)
        return initial_history(rows, self._front_end), model.initial_state(rows)

    def _step(
        self, weights: Any, state: Any, audio: jax.Array, slots: jax.Array, fresh: jax.Array
    ) -> tuple[Any, jax.Array]:
        """Advance the streams in ``slots`` by one hop (traced and compiled per bucket)."""

        def gather(rows: jax.Array) -> jax.Array:
            taken = rows[slots]
            return jnp.where(fresh.reshape(-1, *[1] * (rows.ndim - 1)), 0.0, taken)

        history, memory = jax.tree.map(gather, state)
        mel, history = stream_log_mel(audio, history, self._front_end)
        logits, memory = nnx.merge(self._graph, weights).step(mel, memory)
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
        shape = jax.ShapeDtypeStruct

        def compile_bucket(bucket: int) -> jax.stages.Compiled:
            audio = shape((bucket, self.hop_samples), jnp.float32)
            slots, fresh = shape((bucket,), jnp.int32), shape((bucket,), jnp.bool_)
            return step.lower(self._weights, self._state, audio, slots, fresh).compile()

        # XLA compiles without the interpreter's lock: all cores share the work.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            compiled = pool.map(compile_bucket, self.buckets)
            self._steps = dict(zip(self.buckets, compiled, strict=True))
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
        staging.slots[:n] = slots
        staging.slots[n:] = self._padding_slot
        staging.fresh[:n] = fresh
        staging.fresh[n:] = True
        self._state, packed = self._steps[bucket](
            self._weights, self._state, staging.audio, staging.slots, staging.fresh
        )
        # Waits for the computation: the staging arrays, which the device may alias, are free again.
        host = np.asarray(packed)[:n]
        return StepResult(host[:, : self.n_classes], host[:, -2], host[:, -1])


@dataclass(frozen=True, slots=True)
class _Staging:
    """Preallocated inputs of one bucket."""

    audio: FloatArray
    slots: NDArray[np.int32]
    fresh: NDArray[np.bool_]

    @classmethod
    def allocate(cls, bucket: int, hop_samples: int) -> "_Staging":
        return cls(
            np.zeros((bucket, hop_samples), np.float32),
            np.zeros(bucket, np.int32),
            np.ones(bucket, bool),
        )


def _list_buckets(largest: int) -> list[int]:
    """Return 1, 2, 4, ... up to the first power of two that holds ``largest``."""
    buckets = [1]
    while buckets[-1] < largest:
        buckets.append(buckets[-1] * 2)
    return buckets
