"""A dense layer on embeddings of a few clips, fitted in seconds.

Between `train.embedding`, where the clips are augmented and embedded, and `train.fewshot`. The
layer is a regularised least-squares fit to the labels: one eigendecomposition gives it for every
strength of the penalty, so strength and temperature are chosen by cross-validation over the groups
of the few clips within seconds. What belongs to no class is learned from silence, from made sounds
(`train.strangers`), from halfway between two classes and from other recordings, if there are any.

References:
    Rifkin, Yeo and Poggio, "Regularized least-squares classification", 2003.
    Zhou et al., "Learning placeholders for open-set recognition", CVPR 2021, arXiv 2103.15086
    (halfway between two classes as a stand-in for what is unknown).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from train.augment import Augment
from train.data import Clips, spread_windows
from train.embedding import Embedded, Embedder
from train.errors import DataError
from train.evaluate import mean_over_clips
from train.strangers import make_strangers

AUGMENT = Augment(
    # Other clips are neither mixed in nor noise: what is held out must stay apart.
    mixup_probability=0.0,
    babble_probability=0.0,
    noise_clip_probability=0.0,
    trim_probability=0.0,
    background_probability=0.0,
    click_probability=0.0,
    speed_range=0.1,
    noise_probability=0.3,
    snr_min_db=5.0,
    tilt_probability=0.5,
    band_probability=0.1,
    reverb_probability=0.1,
    reverb_max_s=0.2,
    silence_max_dbfs=-45.0,
)
"""Gentle: the trunk knows noise and rooms already, the layer should not pay for them."""
COPIES = 16
"""Augmented windows of each clip."""
N_STRANGERS = 300
"""Made sounds, and windows of each folder of other recordings."""
_N_BETWEEN = 400
_STRANGER_WEIGHT = 3.0
_BETWEEN_WEIGHT = 0.5
"""Of all made sounds together, and of all mixtures, where that of a class is 1."""
_STRENGTHS = np.array([0.03, 0.1, 0.3, 1.0, 3.0, 10.0])
"""Of the penalty on the squares of the weights, for features of unit variance."""
_TEMPERATURES = np.geomspace(0.03, 1.0, 31)
_N_FOLDS = 5
_SMALLEST_DEVIATION = 0.05
"""Of a feature, relative to that of all: features that hardly change here are not blown up."""


class Head(NamedTuple):
    """A dense layer on embeddings whose outputs are logits."""

    kernel: NDArray[np.float32]
    """``[features, labels]``."""
    bias: NDArray[np.float32]
    """``[labels]``."""
    temperature: float
    strength: float
    """Of the penalty it was fitted with."""

    def judge(self, vectors: NDArray[np.float32], clip: NDArray[np.intp]) -> NDArray[np.float32]:
        """Map windows ``[n, features]`` to the mean probabilities of their clips, by `clip`."""
        logits = (vectors @ self.kernel + self.bias) / self.temperature
        return mean_over_clips(_softmax(logits), clip)


@dataclass(frozen=True)
class Material:
    """All that heads are fitted to, embedded once.

    Attributes:
        clips: What was embedded, silence included.
        unknown: Index of the label of what belongs to no class.
        copies: Augmented windows of the clips.
        strangers: ``[n, features]``, made sounds and other recordings.
    """

    clips: Clips
    unknown: int
    copies: Embedded
    strangers: NDArray[np.float32]


class _Rows(NamedTuple):
    """One row per embedding: what it should be called, what it weighs, the fold it is held out in.

    Rows of one ``owner`` (a clip) are judged by their mean, as clips are.
    """

    vectors: NDArray[np.float64]
    targets: NDArray[np.float64]
    weights: NDArray[np.float64]
    folds: NDArray[np.intp]
    owner: NDArray[np.intp]


def embed_material(
    embedder: Embedder,
    clips: Clips,
    unknown: str,
    silence: str | None,
    others: Sequence[Clips] = (),
    copies: int = COPIES,
    seed: int = 0,
) -> Material:
    """Embed everything that heads are fitted to.

    Args:
        embedder: The trunk.
        clips: Labelled clips at its rate.
        unknown: Their label of what belongs to no class; it may have no clip.
        silence: Label of windows without a sound, if there is one.
        others: Recordings of what is to be unknown.
        copies: Windows per clip.
        seed: Of all that is random.
    """
    labels, window_samples = list(clips.labels), embedder.window_samples
    short = np.median(clips.length) <= 1.5 * window_samples
    # Half a word is another word; half a minute of rain is rain.
    settings = AUGMENT if short else replace(AUGMENT, cut_probability=0.0)
    rng = np.random.default_rng(seed)
    made = make_strangers(N_STRANGERS, window_samples, clips.sample_rate_hz, rng)
    strangers = [embedder(made)]
    for other in others:
        windows, _ = spread_windows(other, window_samples)
        strangers.append(embedder(windows[rng.permutation(len(windows))[:N_STRANGERS]]))
    calm = None if silence is None else labels.index(silence)
    nothing = labels.index(unknown)
    embedded = embedder.embed_augmented(clips, copies, settings, nothing, calm, seed)
    return Material(clips, nothing, embedded, np.concatenate(strangers))


def fit_head(material: Material, chosen: NDArray[np.bool_], seed: int = 0) -> Head:
    """Fit a head to some of the clips.

    Args:
        material: Everything, embedded.
        chosen: ``[clips]``, which to learn from.
        seed: Of mixtures and folds.

    Raises:
        DataError: If a label, other than that of the unknown, has no clip.
    """
    labels = material.clips.labels
    counts = material.clips.targets[chosen].sum(axis=0)
    absent = [label for i, label in enumerate(labels) if not counts[i] and i != material.unknown]
    if absent:
        raise DataError(f"no clip of {', '.join(absent)} to learn from; add at least one")
    rows = _gather(material, chosen, np.random.default_rng(seed))
    mean = np.average(rows.vectors, axis=0, weights=rows.weights)
    deviation = rows.vectors.std(axis=0) + _SMALLEST_DEVIATION * rows.vectors.std()
    rows = rows._replace(vectors=(rows.vectors - mean) / deviation)
    strength, temperature = _choose(rows)
    ((kernel, bias),) = _solve(rows, np.ones(len(rows.weights), np.bool_), np.array([strength]))
    return Head(
        kernel=(kernel / deviation[:, None]).astype(np.float32),
        bias=(bias - (mean / deviation) @ kernel).astype(np.float32),
        temperature=temperature,
        strength=strength,
    )


def _gather(material: Material, chosen: NDArray[np.bool_], rng: np.random.Generator) -> _Rows:
    """Put the chosen clips, what lies between their classes and the strangers together."""
    clips, copies = material.clips, material.copies
    mine = chosen[copies.clip]
    own, targets, clip = copies.vectors[mine], copies.targets[mine], copies.clip[mine]
    fold = _divide(clips.group, chosen, rng)[clip]
    label = targets.argmax(axis=1)
    first, second = rng.integers(len(own), size=(2, 4 * _N_BETWEEN))
    apart = np.flatnonzero((label[first] != label[second]) & (fold[first] == fold[second]))
    first, second = first[apart[:_N_BETWEEN]], second[apart[:_N_BETWEEN]]
    share = rng.uniform(0.3, 0.7, (len(first), 1))
    between = share * own[first] + (1 - share) * own[second]
    n_strange, n_between = len(material.strangers), len(between)
    unknown = np.eye(len(clips.labels))[material.unknown]
    # A class weighs one, however many clips it has.
    per_window = 1 / np.maximum(np.bincount(clips.label[clip], minlength=len(clips.labels)), 1)
    return _Rows(
        vectors=np.concatenate([own, material.strangers, between]).astype(np.float64),
        targets=np.concatenate(
            [targets.astype(np.float64), np.tile(unknown, (n_strange + n_between, 1))]
        ),
        weights=np.concatenate(
            [
                per_window[clips.label[clip]],
                np.full(n_strange, _STRANGER_WEIGHT / n_strange),
                np.full(n_between, _BETWEEN_WEIGHT / max(1, n_between)),
            ]
        ),
        folds=np.concatenate([fold, rng.integers(_N_FOLDS, size=n_strange), fold[first]]),
        owner=np.concatenate([clip, len(clips) + np.arange(n_strange + n_between)]),
    )


def _divide(
    group: NDArray[np.str_], chosen: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.intp]:
    """Return a fold for each clip; groups stay whole where there are several."""
    names, number = np.unique(group[chosen], return_inverse=True)
    if len(names) < 3:
        number = np.arange(len(number))
    fold = np.zeros(len(chosen), np.intp)
    fold[chosen] = rng.permutation(number.max() + 1)[number] % _N_FOLDS
    return fold


def _solve(
    rows: _Rows, kept: NDArray[np.bool_], strengths: NDArray[np.float64]
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return the ridge regression (kernel, bias) on the rows that are ``kept``, per strength."""
    vectors, targets = rows.vectors[kept], rows.targets[kept]
    weights = rows.weights[kept, None] / rows.weights[kept].sum()
    mean, target = (weights * vectors).sum(axis=0), (weights * targets).sum(axis=0)
    weighted = weights * (vectors - mean)
    values, basis = np.linalg.eigh(weighted.T @ vectors)
    moment = basis.T @ (weighted.T @ targets)
    kernels = [basis @ (moment / (values + strength)[:, None]) for strength in strengths]
    return [(kernel, target - mean @ kernel) for kernel in kernels]


def _choose(rows: _Rows) -> tuple[float, float]:
    """Return (strength, temperature) that make what was held out most likely."""
    logits = np.zeros((len(_STRENGTHS), *rows.targets.shape))
    for fold in range(_N_FOLDS):
        held = rows.folds == fold
        if held.any():
            for i, (kernel, bias) in enumerate(_solve(rows, ~held, _STRENGTHS)):
                logits[i, held] = rows.vectors[held] @ kernel + bias
    order = np.argsort(rows.owner, kind="stable")
    _, first = np.unique(rows.owner[order], return_index=True)
    truth = rows.targets[order][first].argmax(axis=1)
    weight = np.add.reduceat(rows.weights[order], first)

    def loss(strength: int, temperature: float) -> float:
        probabilities = _softmax(logits[strength] / temperature)[order]
        judged = mean_over_clips(probabilities, rows.owner[order])
        return float(-weight @ np.log(np.maximum(judged[np.arange(len(judged)), truth], 1e-9)))

    pairs = [(i, t) for i in range(len(_STRENGTHS)) for t in _TEMPERATURES]
    strength, temperature = min(pairs, key=lambda pair: loss(*pair))
    return float(_STRENGTHS[strength]), float(round(temperature, 4))


def _softmax(logits: NDArray[np.floating]) -> NDArray[np.float32]:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (raised / raised.sum(axis=1, keepdims=True)).astype(np.float32)
