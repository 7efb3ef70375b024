"""From a checkpoint to its executor: the kind and the legal hops follow from the model."""

from streamcls.checkpoint import Checkpoint
from streamcls.engine.executor import Executor
from streamcls.engine.incremental import IncrementalExecutor
from streamcls.engine.windowed import WindowedExecutor
from streamcls.errors import ModelError
from streamcls.units import ms_to_samples, samples_to_ms


def build_executor(
    checkpoint: Checkpoint, hop_samples: int, max_streams: int, max_bucket: int | None = None
) -> Executor:
    """Build the executor that the model asks for; it is not warmed up yet.

    Args:
        checkpoint: The model; it is folded for inference.
        hop_samples: New audio per prediction, as from `choose_hop_samples`.
        max_streams: Number of slots.
        max_bucket: Streams per step at most; None leaves it to the device.
    """
    kind = IncrementalExecutor if checkpoint.model.time_valid else WindowedExecutor
    return kind(checkpoint, hop_samples, max_streams, max_bucket)


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
