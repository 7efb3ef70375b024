"""Shipped checkpoints, each ``NAME.safetensors`` with its model card ``NAME.md``."""

from pathlib import Path

ZOO_DIRECTORY = Path(__file__).parent
