"""Print the table of docs/models.md: what every registered network costs and how it is served.

    python scripts/model_table.py

Multiply-adds are half of the floating-point operations that XLA counts in the inference program,
so they include activations, pooling and what is multiplied with padding. The features are left
out: they are the same for all.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from streamcls.features import FrontEnd
from streamcls.models import ARCHITECTURES, Classifier, build_model

_HOP_MS = 80
_FRAME_MS = 10
_PUBLISHED_WITH = {
    "choi": (96, 50),
    "mobilenet": (64, 521),
    "sb_cnn": (128, 10),
    "simple_audio": (40, 8),
    "smales": (40, 10),
}
"""Mels and classes by the start of a name; 40 and 12 otherwise."""

_COLUMNS = (
    "network", "weights", "mels", "classes", "executor", "R", "S", "W", "hops of",
    "MMAC per window", "MMAC per second",
)  # fmt: skip


def count_mmac(function, *shapes) -> float:
    """Return the multiply-adds of a traced function in millions."""
    cost = jax.jit(function).lower(*shapes).cost_analysis()
    assert isinstance(cost, dict)
    return cost["flops"] / 2e6


def describe(name: str) -> list[str]:
    """Return one row of the table."""
    sizes = [sizes for start, sizes in _PUBLISHED_WITH.items() if name.startswith(start)]
    n_mels, n_classes = sizes[0] if sizes else (40, 12)
    model = build_model(name, None, n_mels, n_classes, nnx.Rngs(0))
    n_weights = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    model.fold()
    graph, weights = nnx.split(model)

    def run(function):
        return lambda weights, *inputs: function(nnx.merge(graph, weights), *inputs)

    window = jax.ShapeDtypeStruct((1, model.window_frames, n_mels), jnp.float32)
    per_window = count_mmac(run(Classifier.__call__), weights, window)
    stride_ms = model.geometry.stride_frames * _FRAME_MS
    # The shortest legal hop from 80 ms on.
    hop_ms = -(-_HOP_MS // stride_ms) * stride_ms
    per_hop = per_window
    if model.time_valid:
        hop = jax.ShapeDtypeStruct((1, hop_ms // _FRAME_MS, n_mels), jnp.float32)
        per_hop = count_mmac(run(Classifier.step), weights, hop, model.initial_state(1))
    geometry = model.geometry
    return [
        f"`{name}`",
        f"{n_weights:,}",
        str(n_mels),
        str(n_classes),
        "incremental" if model.time_valid else "windowed",
        str(geometry.receptive_frames),
        str(geometry.stride_frames),
        str(model.window_frames),
        f"{stride_ms} ms",
        f"{per_window:,.1f}",
        f"{per_hop * 1000 / hop_ms:,.1f}" + ("" if hop_ms == _HOP_MS else f" at {hop_ms} ms"),
    ]


def main() -> None:
    """Print the table, smallest cost per second first."""
    rows = [describe(name) for name in ARCHITECTURES]
    rows.sort(key=lambda row: float(row[-1].split()[0].replace(",", "")))
    assert FrontEnd().hop_samples * 1000 == _FRAME_MS * FrontEnd().sample_rate_hz
    print(f"| {' | '.join(_COLUMNS)} |")
    print(f"|---{'|--:' * (len(_COLUMNS) - 1)}|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
