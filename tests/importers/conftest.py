"""YAMNet as it is published, and as we import it."""

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from streamcls.checkpoint import Checkpoint, load_checkpoint
from streamcls.importers.yamnet import import_yamnet
from streamcls.types import FloatArray
from tests.conftest import SHARED_DATA

RATE_HZ = 16_000


@pytest.fixture(scope="session")
def published() -> Path:
    """The folder of the published file and its test vectors; skips where it is not at hand."""
    folder = SHARED_DATA.parent / "weights" / "yamnet"
    if not folder.is_dir():
        pytest.skip(f"no YAMNet in {folder}")
    return folder


@pytest.fixture(scope="session")
def tflite_path(published: Path) -> Path:
    return published / "coral_yamnet_spectra_in.tflite"


@pytest.fixture(scope="session")
def yamnet_path(tflite_path: Path, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("yamnet") / "yamnet.safetensors"
    import_yamnet(tflite_path, "yamnet", target)
    return target


@pytest.fixture(scope="session")
def yamnet(yamnet_path: Path) -> Checkpoint:
    return load_checkpoint(yamnet_path)


@pytest.fixture(scope="session")
def clips(shared_data: Path) -> dict[str, FloatArray]:
    """Two clips of each class of esc10, ``[samples]`` at 16 kHz, by their path."""
    with (shared_data / "esc10" / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    chosen = [row for row in rows if rows.index(row) % 32 in (0, 16)]
    audio = {}
    for row in chosen:
        samples, rate_hz = soundfile.read(
            shared_data / "esc10" / row["path"], dtype="float32", always_2d=True
        )
        audio[row["path"]] = soxr.resample(samples.mean(axis=1), rate_hz, RATE_HZ)
    return {path: np.asarray(one, np.float32) for path, one in audio.items()}
