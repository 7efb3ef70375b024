"""A small, real checkpoint file for tests: untrained but with plausible statistics."""

from dataclasses import asdict
from pathlib import Path

from streamcls.checkpoint import Header, describe_window, save_checkpoint
from streamcls.features import FrontEnd
from tests.models.networks import build_seasoned

LABELS = [f"class_{index}" for index in range(11)] + ["unknown"]


def save_seasoned(
    path: Path,
    architecture: str = "tc_resnet_8",
    *,
    front_end: FrontEnd | None = None,
    seed: int = 0,
    **changes,
) -> Path:
    """Write a checkpoint of ``architecture``; ``changes`` override header fields."""
    front_end = front_end or FrontEnd()
    labels, settings = changes.get("labels", LABELS), changes.get("settings")
    model = build_seasoned(architecture, front_end.n_mels, len(labels), settings, seed)
    fields = {
        "name": "seasoned",
        "description": "untrained network for tests",
        "architecture": architecture,
        "settings": {},
        "front_end": asdict(front_end),
        "labels": LABELS,
        "unknown_labels": ["unknown"],
        "window": describe_window(model),
        "licence": "Apache-2.0",
        "creator": "tests",
    }
    save_checkpoint(path, model, Header(**(fields | changes)))
    return path
