"""How good a checkpoint is: accuracy, confusions, accuracy in noise; always measured on the file.

After `train.loop`. A clip is centred in one window; one longer than one and a half windows gets the
mean of its windows' probabilities (see `train.data.spread_windows`). The class is the argmax over
*all* classes, "unknown" and "silence" included. Where clips have several labels there is no argmax:
the headline is the mean average precision (mAP), and a label is said from one half on. Noise fills
the whole window; its SNR is the clip's mean power over the noise's mean power. The noise is the
same in every call.
"""

from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from streamcls.checkpoint import Checkpoint
from streamcls.features import log_mel
from train.batches import map_batches
from train.data import Clips, Task, spread_windows
from train.errors import DataError
from train.metrics import Reliability, area_under_roc, average_precision, measure_reliability
from train.passing import Passing, place_in_stream
from train.scores import NOISES, SNRS_DB, Scores

_TALKERS = 4
_BATCH = 256
_SAID = 0.5
"""Probability from which a label of several is said."""


class Classify:
    """A checkpoint as a function from windows to probabilities, in even compiled batches."""

    def __init__(self, checkpoint: Checkpoint):
        graph, state = nnx.split(checkpoint.model)
        front_end = checkpoint.front_end
        temperature = checkpoint.header.temperature
        single = checkpoint.header.task == "single-label"
        self.window_samples = front_end.samples_for(checkpoint.model.window_frames)

        @jax.jit
        def run(state: Any, audio: jax.Array) -> jax.Array:
            logits = nnx.merge(graph, state)(log_mel(audio, front_end))
            scaled = logits / temperature
            return jax.nn.softmax(scaled) if single else jax.nn.sigmoid(scaled)

        self._run = run
        self._state = state

    def __call__(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map ``[n, window_samples]`` float32 to probabilities ``[n, classes]``."""
        return map_batches(partial(self._run, self._state), _BATCH, windows)


def make_noise(
    kind: str, n: int, samples: int, talkers: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return unit-power noise ``[n, samples]``.

    Args:
        kind: ``white``, ``pink`` or ``babble``.
        n: Number of windows.
        samples: Length.
        talkers: ``[m, samples]`` windows with speech, four of which make babble.
        rng: Source of randomness.
    """
    if kind == "babble":
        chosen = rng.integers(len(talkers), size=(n, _TALKERS))
        shift = rng.integers(samples, size=(n, _TALKERS))
        noise = np.zeros((n, samples), np.float32)
        for row in range(n):
            for who, by in zip(chosen[row], shift[row], strict=True):
                voice = talkers[who]
                noise[row] += np.roll(voice, by) / (np.sqrt(np.mean(voice**2)) + 1e-6)
    else:
        noise = rng.standard_normal((n, samples), dtype=np.float32)
        if kind == "pink":
            bins = np.maximum(np.arange(samples // 2 + 1), 1.0)
            noise = np.fft.irfft(np.fft.rfft(noise) / np.sqrt(bins), n=samples).astype(np.float32)
    power = np.mean(np.square(noise), axis=1, keepdims=True)
    return (noise / np.sqrt(power + 1e-12)).astype(np.float32)


def clip_power(clips: Clips) -> NDArray[np.float32]:
    """Return the mean power of every clip, ``[clips]`` (full-scale square wave = 1)."""
    spans = zip(clips.start, clips.length, strict=True)
    values = [np.mean(np.square(clips.audio[s : s + n] / np.float32(32768))) for s, n in spans]
    return np.array(values, np.float32)


def count_confusions(
    truth: NDArray[np.integer], guess: NDArray[np.integer], n_classes: int
) -> NDArray[np.int64]:
    """Return ``[n_classes, n_classes]`` counts, rows true, columns predicted."""
    table = np.zeros((n_classes, n_classes), np.int64)
    np.add.at(table, (truth, guess), 1)
    return table


def mean_over_clips(
    probabilities: NDArray[np.float32], clip: NDArray[np.intp]
) -> NDArray[np.float32]:
    """Average the windows ``[windows, classes]`` of each clip, in ascending order of ``clip``."""
    first = np.flatnonzero(np.diff(clip, prepend=-1))
    n_windows = np.diff(first, append=len(clip))
    return (np.add.reduceat(probabilities, first) / n_windows[:, None]).astype(np.float32)


def _scale(
    probabilities: NDArray[np.floating], temperature: float, task: Task
) -> NDArray[np.float64]:
    """Return the probabilities of the logits divided by ``temperature``."""
    clipped = np.clip(probabilities, 1e-30, 1.0).astype(np.float64)
    if task == "single-label":
        scaled = np.log(clipped) / temperature
        raised = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return raised / raised.sum(axis=1, keepdims=True)
    logits = np.log(clipped) - np.log(np.maximum(1.0 - probabilities, 1e-7))
    return 1 / (1 + np.exp(-logits / temperature))


def fit_temperature(
    probabilities: NDArray[np.float32],
    targets: NDArray[np.bool_],
    task: Task = "single-label",
) -> float:
    """Return the temperature that makes probabilities most likely, in 0.2 to 5.

    Args:
        probabilities: ``[clips, classes]`` at temperature 1, from clips not trained on.
        targets: ``[clips, classes]``, which classes each clip has.
        task: Softmax or sigmoid.

    References:
        Guo et al., "On calibration of modern neural networks", arXiv 1706.04599.
    """

    def loss(temperature: float) -> float:
        scaled = _scale(probabilities, temperature, task)
        likely = (
            scaled[targets] if task == "single-label" else np.where(targets, scaled, 1 - scaled)
        )
        return float(-np.log(np.maximum(likely, 1e-30)).mean())

    return float(round(min(np.geomspace(0.2, 5.0, 161), key=loss), 3))


def _measure_reliability(
    probabilities: NDArray[np.floating], targets: NDArray[np.bool_], task: Task
) -> Reliability:
    """Sort into bins: the likeliest class of each clip, or every answer about every label."""
    if task == "single-label":
        top = probabilities.argmax(axis=1)
        rows = np.arange(len(top))
        return measure_reliability(probabilities[rows, top], targets[rows, top])
    return measure_reliability(probabilities.ravel(), targets.ravel())


def _measure_calibrated(
    probabilities: NDArray[np.float32],
    targets: NDArray[np.bool_],
    group: NDArray[np.str_],
    task: Task,
) -> Reliability:
    """Scale each half of the groups by the temperature of the other, then measure."""
    names = sorted(set(group.tolist()))
    # With one group only there is nothing else to halve than its clips.
    second = np.isin(group, names[1::2]) if len(names) > 1 else np.arange(len(group)) % 2 == 1
    scaled = np.array(probabilities, np.float64)
    for half in (second, ~second):
        if half.any() and (~half).any():
            temperature = fit_temperature(probabilities[~half], targets[~half], task)
            scaled[half] = _scale(probabilities[half], temperature, task)
    return _measure_reliability(scaled, targets, task)


def _score(probabilities: NDArray[np.floating], targets: NDArray[np.bool_], task: Task) -> float:
    """Return the headline: accuracy, or mAP where clips have several labels."""
    if task == "single-label":
        return float(targets[np.arange(len(targets)), probabilities.argmax(axis=1)].mean())
    present = np.flatnonzero(targets.any(axis=0))
    return float(np.mean([average_precision(targets[:, i], probabilities[:, i]) for i in present]))


def evaluate(checkpoint: Checkpoint, clips: Clips, name: str) -> Scores:
    """Measure a checkpoint on clips.

    Args:
        checkpoint: The loaded file.
        clips: Held-out clips at the model's rate, labels in the model's order.
        name: What the set is called in the report.

    Raises:
        DataError: If there is nothing to measure on, or labels or rate differ.
    """
    labels, task = checkpoint.header.labels, checkpoint.header.task
    if list(clips.labels) != list(labels):
        raise DataError(f"the clips have labels {list(clips.labels)}, the model {list(labels)}")
    if clips.sample_rate_hz != checkpoint.front_end.sample_rate_hz:
        raise DataError(
            f"the clips are at {clips.sample_rate_hz} Hz, the model hears "
            f"{checkpoint.front_end.sample_rate_hz} Hz"
        )
    scored = np.array([s.scored for s in clips.sources])[clips.source]
    if not scored.any():
        raise DataError("nothing to evaluate on: no clip of a scored source is held out")
    classify = Classify(checkpoint)
    windows, clip = spread_windows(clips, classify.window_samples)
    probabilities = mean_over_clips(classify(windows), clip)
    guess = probabilities.argmax(axis=1)
    hit = clips.targets[np.arange(len(clips)), guess]

    nothing = [labels.index(name) for name in checkpoint.header.unknown_labels]
    not_a_word = np.isin(clips.label, nothing)
    rng = np.random.default_rng(0)
    words, word_clip, truth = windows[scored[clip]], clip[scored[clip]], clips.targets[scored]
    talkers = windows[clips.label[clip] == nothing[0]] if nothing else words
    talkers = talkers if len(talkers) else words
    rms = np.sqrt(clip_power(clips)[word_clip])[:, None].astype(np.float32)
    noisy_accuracy: dict[str, dict[int, float]] = {}
    for kind in NOISES:
        noise = make_noise(kind, len(words), classify.window_samples, talkers, rng) * rms
        noisy_accuracy[kind] = {}
        for snr_db in SNRS_DB:
            scale = np.float32(10 ** (-snr_db / 20))
            mixed = classify((words + scale * noise).astype(np.float32))
            noisy_accuracy[kind][snr_db] = _score(mean_over_clips(mixed, word_clip), truth, task)
    passing: dict[str, float] = {}
    short = np.median(np.unique(word_clip, return_counts=True)[1]) == 1
    if short and checkpoint.model.time_valid and task == "single-label":
        passing = _score_passing(checkpoint, clips.take(scored), talkers, rng)
    other = ~scored
    clean = probabilities[scored]
    single = task == "single-label"
    said = np.eye(len(labels), dtype=np.bool_)[guess[scored]] if single else clean >= _SAID
    present = [i for i in range(len(labels)) if truth[:, i].any()]
    return Scores(
        name=name,
        groups=sorted(set(clips.group[scored].tolist())),
        labels=list(labels),
        task=task,
        confusion=(
            count_confusions(clips.label[scored], guess[scored], len(labels)).tolist()
            if single
            else []
        ),
        tallies={
            label: [int(truth[:, i].sum()), int(said[:, i].sum()), int((truth & said)[:, i].sum())]
            for i, label in enumerate(labels)
        },
        accuracy=_score(clean, truth, task),
        noisy_accuracy=noisy_accuracy,
        passing=passing,
        others={
            label: float(hit[other & (clips.label == i)].mean())
            for i, label in enumerate(labels)
            if (other & (clips.label == i)).any()
        },
        false_words=(
            float((~np.isin(guess[not_a_word], nothing)).mean()) if not_a_word.any() else None
        ),
        temperature=round(
            checkpoint.header.temperature * fit_temperature(probabilities, clips.targets, task), 3
        ),
        average_precision={
            labels[i]: round(average_precision(truth[:, i], clean[:, i]), 4) for i in present
        },
        auc={
            labels[i]: round(area_under_roc(truth[:, i], clean[:, i]), 4)
            for i in present
            if not truth[:, i].all()
        },
        reliability=_measure_reliability(clean, truth, task),
        calibrated=_measure_calibrated(clean, truth, clips.group[scored], task),
    )


def _score_passing(
    checkpoint: Checkpoint,
    clips: Clips,
    talkers: NDArray[np.float32],
    rng: np.random.Generator,
) -> dict[str, float]:
    """Return the accuracy on clips that pass through a stream, clean and at 10 dB."""
    classify = Passing(checkpoint)
    audio, holds = place_in_stream(clips, classify.window_samples, classify.step_samples)
    rms = np.sqrt(clip_power(clips))[:, None].astype(np.float32)
    accuracy = {}
    for kind in ("clean", *NOISES):
        heard = audio
        if kind != "clean":
            # The talkers go on through both windows.
            both = np.tile(talkers, (1, 2))
            noise = make_noise(kind, len(audio), audio.shape[1], both, rng)
            heard = (audio + np.float32(10**-0.5) * rms * noise).astype(np.float32)
        accuracy[kind] = float((classify(heard, holds).argmax(axis=1) == clips.label).mean())
    return accuracy
