"""Scores of the imported YAMNet against LiteRT running the published file, on all of esc10.

    python -m benchmarks.peers_scores ../shared/weights/yamnet/coral_yamnet_spectra_in.tflite

The same log-mel frames go to both; windows of 0.96 s every 0.48 s, a clip's score is the mean of
its windows.
"""

import argparse
import csv
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import soundfile
import soxr
from flax import nnx

from benchmarks.machine import describe_machine
from benchmarks.peers import open_litert
from streamcls.checkpoint import load_checkpoint
from streamcls.features import log_mel
from streamcls.importers.yamnet import FRONT_END, import_yamnet, read_labels

MEANS = {
    "baby_cry": ("Baby cry, infant cry", "Crying, sobbing"),
    "chainsaw": ("Chainsaw",),
    "clock_tick": ("Tick-tock", "Clock", "Tick"),
    "dog_bark": ("Dog", "Bark"),
    "fire_crackling": ("Fire", "Crackle"),
    "helicopter": ("Helicopter",),
    "person_sneeze": ("Sneeze",),
    "rain": ("Rain", "Rain on surface", "Raindrop"),
    "rooster": ("Chicken, rooster", "Crowing, cock-a-doodle-doo"),
    "sea_waves": ("Ocean", "Waves, surf"),
}
"""Classes of esc10 -> classes of AudioSet."""


def read_clips(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield class and samples at 16 kHz of every clip."""
    with (folder / "manifest.csv").open() as file:
        for row in csv.DictReader(file):
            samples, rate_hz = soundfile.read(folder / row["path"], dtype="float32", always_2d=True)
            yield row["label"], soxr.resample(samples.mean(axis=1), rate_hz, 16_000)


def rank(scores: np.ndarray) -> np.ndarray:
    """Return the place of each score in its row, 0 for the lowest."""
    return scores.argsort(axis=-1, kind="stable").argsort(axis=-1, kind="stable")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE.tflite")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/esc10"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        import_yamnet(arguments.file, "yamnet", Path(folder) / "yamnet.safetensors")
        model = load_checkpoint(Path(folder) / "yamnet.safetensors").model
    graph, weights = nnx.split(model)
    evaluate = jax.jit(lambda w, x: jax.nn.sigmoid(nnx.merge(graph, w)(x)))
    litert = open_litert(arguments.file.read_bytes(), 1)
    truth, ours, theirs, n_windows = [], [], [], 0
    apart = []
    for label, samples in read_clips(arguments.data):
        mel = np.asarray(log_mel(jnp.asarray(samples[None, :80_000]), FRONT_END))[0]
        frames = np.stack([mel[i : i + 96] for i in range(0, len(mel) - 95, 48)])
        one, other = np.asarray(evaluate(weights, frames)), litert(frames)
        apart.append(np.abs(one - other))
        truth.append(label)
        ours.append(one.mean(axis=0))
        theirs.append(other.mean(axis=0))
        n_windows += len(frames)
    a, b, differences = np.stack(ours), np.stack(theirs), np.concatenate(apart)
    top_a, top_b = (-a).argsort(axis=1, kind="stable"), (-b).argsort(axis=1, kind="stable")
    common = [len(set(x[:5]) & set(y[:5])) / 5 for x, y in zip(top_a, top_b, strict=True)]
    spearman = []
    for x, y in zip(a, b, strict=True):
        heard = y > 1 / 256  # below, LiteRT's scores are all the same
        if heard.sum() >= 5:
            spearman.append(np.corrcoef(rank(x[heard]), rank(y[heard]))[0, 1])
    labels = read_labels()
    columns = [[labels.index(name) for name in MEANS[label]] for label in sorted(MEANS)]
    names = sorted(MEANS)

    def accuracy(scores: np.ndarray) -> float:
        best = np.stack([scores[:, one].max(axis=1) for one in columns], axis=1).argmax(axis=1)
        return float(np.mean([names[i] == label for i, label in zip(best, truth, strict=True)]))

    print(f"{describe_machine('jax', 'ai-edge-litert')}; {len(truth)} clips, {n_windows} windows\n")
    print("| ours against LiteRT (int8 inside) | |\n|---|---:|")
    print(f"| mean difference of a score | {differences.mean():.5f} |")
    print(f"| 99.9 % of differences below | {np.quantile(differences, 0.999):.3f} |")
    print(f"| largest difference | {differences.max():.3f} |")
    print(f"| same best class of a clip | {np.mean(top_a[:, 0] == top_b[:, 0]):.1%} |")
    print(f"| best class of LiteRT among our five best | {_among(top_b[:, 0], top_a):.1%} |")
    print(f"| classes common to both five best | {np.mean(common):.1%} |")
    print(f"| Spearman over a clip's classes above 1/256, mean | {np.mean(spearman):.4f} |")
    print(f"| the same, lowest clip | {np.min(spearman):.3f} |")
    print(f"| accuracy over the ten classes of esc10, ours | {accuracy(a):.1%} |")
    print(f"| accuracy over the ten classes of esc10, LiteRT | {accuracy(b):.1%} |")


def _among(best: np.ndarray, ranked: np.ndarray) -> float:
    return float(np.mean([one in row[:5] for one, row in zip(best, ranked, strict=True)]))


if __name__ == "__main__":
    main()
