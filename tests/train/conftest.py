"""A small tree of clips whose classes are chirps: real decoding, real training, seconds."""

import csv
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile as sf

from streamcls.features import FrontEnd
from train.augment import Augment
from train.data import Clips, Source, load_clips
from train.recipes import Recipe

RATE_HZ = 8_000
CHIRPS_HZ = {"rise": (400.0, 1600.0), "fall": (1600.0, 400.0), "unknown": (900.0, 900.0)}


def chirp(label: str, speaker: int, take: int) -> np.ndarray:
    """Return one 0.4 s clip; speakers differ in pitch, takes in phase and noise."""
    rng = np.random.default_rng([speaker, take, len(label)])
    t_s = np.arange(int(0.4 * RATE_HZ)) / RATE_HZ
    if label == "silence":
        return 0.003 * rng.standard_normal(len(t_s))
    begin_hz, end_hz = (hz * (1 + 0.04 * speaker) for hz in CHIRPS_HZ[label])
    phase = 2 * np.pi * (begin_hz * t_s + (end_hz - begin_hz) * t_s**2 / 0.8)
    return 0.3 * np.sin(phase + rng.uniform(0, 6)) + 0.003 * rng.standard_normal(len(t_s))


def write_tree(folder: Path, labels: tuple[str, ...], speakers: int, takes: int) -> Path:
    """Write clips and ``manifest.csv``; return the folder."""
    (folder / "audio").mkdir(parents=True)
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "split", "group"))
        for label in labels:
            for speaker in range(speakers):
                for take in range(takes):
                    path = f"audio/{label}-{speaker}-{take}.flac"
                    sf.write(folder / path, chirp(label, speaker, take), RATE_HZ)
                    writer.writerow((path, label, "train", f"speaker{speaker}"))
    return folder


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what was compiled: several tests train the same network."""
    return tmp_path_factory.mktemp("xla")


@pytest.fixture(scope="module", autouse=True)
def cheap_compilation(compiled: Path) -> Iterator[None]:
    """Compile each training step once, and in half the time: most of a short training is that."""
    jax.config.update("jax_compilation_cache_dir", str(compiled))
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.config.update("jax_compilation_cache_dir", None)


@pytest.fixture
def recipe() -> Recipe:
    """A recipe for the chirps, small enough for a test."""
    return Recipe(
        name="chirps",
        title="Chirps",
        labels=("rise", "fall", "unknown", "silence"),
        unknown="unknown",
        silence="silence",
        sources=(Source("chirps", "chirps"),),
        leave_one_out="chirps",
        validate=False,
        noise_labels=("silence",),
        front_end=FrontEnd(
            sample_rate_hz=RATE_HZ,
            frame_samples=200,
            hop_samples=80,
            n_fft=256,
            n_mels=24,
            fmax_hz=3_800.0,
        ),
        architecture="tc_resnet_8",
        model={"width": 0.5, "min_window_frames": 81, "dropout": 0.0},
        augment=Augment(reverb_max_s=0.1),
        epochs=2,
        steps_per_epoch=3,
        batch_size=16,
        licence="none",
    )


@pytest.fixture
def data_root(tmp_path: Path, recipe: Recipe) -> Path:
    """Folder with the data set ``chirps``: four classes, four speakers, three takes."""
    write_tree(tmp_path / "data" / "chirps", recipe.labels, speakers=4, takes=3)
    return tmp_path / "data"


@pytest.fixture
def clips(data_root: Path, recipe: Recipe, tmp_path: Path) -> Clips:
    """The decoded clips."""
    return load_clips(recipe.sources, recipe.labels, RATE_HZ, data_root, tmp_path / "work")
