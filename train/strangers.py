"""Made sounds of all kinds, which belong to none of a user's classes.

For `train.fewshot`: a head that has heard ten dogs and ten doors only takes everything else for
one of them. Real recordings of the place teach it more, but nobody has to bring any.
"""

import numpy as np
from numpy.typing import NDArray

from train.augment.colour import tint

_LOWEST_HZ, _HIGHEST_HZ = 60.0, 2_000.0
"""Of the pitch of tones, from a truck to a whistle."""


def make_strangers(
    n: int, samples: int, sample_rate_hz: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return ``[n, samples]`` float32 in [-1, 1]: voices, tones, bursts, hums and two at once."""
    kinds = (_make_voice, _make_bursts, _make_hum, _make_beeps)
    sounds = np.stack([kinds[i % len(kinds)](samples, sample_rate_hz, rng) for i in range(n)])
    sounds /= np.sqrt(np.mean(np.square(sounds), axis=1, keepdims=True)) + 1e-9
    share = rng.uniform(0.0, 1.0, (n, 1)) * (rng.random((n, 1)) < 0.3)
    mixed = sounds + share * sounds[rng.permutation(n)]
    mixed += _colour(rng.standard_normal((n, samples)), rng.uniform(0, 2, n)) * 10 ** (
        rng.uniform(-50, -10, (n, 1)) / 20
    )
    peak = np.abs(mixed).max(axis=1, keepdims=True)
    return (mixed / peak * 10 ** (rng.uniform(-30, 0, (n, 1)) / 20)).astype(np.float32)


def _colour(noise: NDArray[np.float64], exponent: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give white noise ``[n, samples]`` unit power that falls with ``1/f**exponent``."""
    coloured = tint(noise, exponent)
    return coloured / (np.sqrt(np.mean(np.square(coloured), axis=1, keepdims=True)) + 1e-9)


def _resonate(
    sound: NDArray[np.float64], centres_hz: NDArray[np.float64], sample_rate_hz: int, width: float
) -> NDArray[np.float64]:
    """Amplify around some frequencies."""
    hz = np.fft.rfftfreq(len(sound), 1 / sample_rate_hz)[None]
    gain = 1 / (1 + ((hz - centres_hz[:, None]) / (width * centres_hz[:, None])) ** 2)
    return np.fft.irfft(np.fft.rfft(sound) * (0.02 + gain.sum(axis=0)), n=len(sound))


def _draw_contour(
    samples: int, n_points: int, low: float, high: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return a random line of ``n_points`` straight pieces."""
    return np.interp(
        np.linspace(0, 1, samples), np.linspace(0, 1, n_points), rng.uniform(low, high, n_points)
    )


def _make_envelope(
    samples: int, sample_rate_hz: int, per_s: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return a random loudness in [0, 1] with about ``per_s`` onsets a second."""
    seconds = samples / sample_rate_hz
    t_s = np.arange(samples) / sample_rate_hz
    total = np.zeros(samples)
    for _ in range(1 + rng.poisson(per_s * seconds)):
        since_s = t_s - rng.uniform(-0.1, seconds)
        rise_s, fall_s = 10 ** rng.uniform(-3, -1), 10 ** rng.uniform(-2, 0)
        shape = np.minimum(since_s / rise_s, 1.0) * np.exp(-np.maximum(since_s, 0) / fall_s)
        total += np.where(since_s > 0, shape, 0.0) * rng.uniform(0.2, 1.0)
    return total / (total.max() + 1e-9)


def _make_tone(
    pitch_hz: NDArray[np.float64], sample_rate_hz: int, slope: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return harmonics of a moving pitch, falling with ``1/number**slope``."""
    phase = 2 * np.pi * np.cumsum(pitch_hz) / sample_rate_hz
    n_harmonics = int(min(30, 0.45 * sample_rate_hz / pitch_hz.max()))
    return sum(
        (k**-slope * np.sin(k * phase + rng.uniform(0, 6)) for k in range(1, n_harmonics + 1)),
        start=np.zeros(len(pitch_hz)),
    )


def _draw_pitch(rng: np.random.Generator, highest_hz: float = _HIGHEST_HZ) -> float:
    return float(np.exp(rng.uniform(np.log(_LOWEST_HZ), np.log(highest_hz))))


def _make_voice(samples: int, rate_hz: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Speech, song, animals: a gliding pitch through resonances, in syllables, partly breathed."""
    glide = 2 ** _draw_contour(samples, int(rng.integers(2, 7)), -0.4, 0.4, rng)
    voiced = _make_tone(_draw_pitch(rng, 700.0) * glide, rate_hz, rng.uniform(0.5, 1.5), rng)
    breath = rng.standard_normal(samples) * rng.uniform(0.02, 0.6)
    blend = _draw_contour(samples, int(rng.integers(2, 9)), 0, 1, rng)
    sound = voiced * blend + breath * (1 - blend)
    parts = [
        _resonate(
            sound,
            rng.uniform([250, 700, 1_800], [900, 2_300, 3_400]),
            rate_hz,
            rng.uniform(0.05, 0.2),
        )
        for _ in range(3)
    ]
    where = _draw_contour(samples, int(rng.integers(3, 8)), 0, 2, rng)
    sound = sum(
        (part * np.maximum(0, 1 - np.abs(where - i)) for i, part in enumerate(parts)),
        start=np.zeros(samples),
    )
    return sound * _make_envelope(samples, rate_hz, rng.uniform(2, 8), rng)


def _make_bursts(samples: int, rate_hz: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Steps, knocks, rustling, sneezes: coloured noise that begins and decays."""
    noise = _colour(rng.standard_normal((1, samples)), rng.uniform(-0.5, 2, 1))[0]
    if rng.random() < 0.7:
        centres = np.exp(rng.uniform(np.log(100), np.log(0.45 * rate_hz), rng.integers(1, 4)))
        noise = _resonate(noise, centres, rate_hz, 10 ** rng.uniform(-2, 0))
    return noise * _make_envelope(samples, rate_hz, 10 ** rng.uniform(-0.5, 1.3), rng)


def _make_hum(samples: int, rate_hz: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Engines, fans, water: a steady tone and steady noise, perhaps beating."""
    drift = 2 ** _draw_contour(samples, 3, -0.05, 0.05, rng)
    tone = _make_tone(_draw_pitch(rng, 500.0) * drift, rate_hz, rng.uniform(0.3, 2), rng)
    noise = _colour(rng.standard_normal((1, samples)), rng.uniform(0, 2, 1))[0]
    share = rng.random()
    beat_hz = 10 ** rng.uniform(-0.3, 1.6)
    beat = 1 + rng.random() * np.sin(2 * np.pi * beat_hz * np.arange(samples) / rate_hz)
    return (share * tone / (np.std(tone) + 1e-9) + (1 - share) * noise) * beat


def _make_beeps(samples: int, rate_hz: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Alarms, bells, music: one to three tones, steady, stepping or sweeping."""
    total = np.zeros(samples)
    for _ in range(rng.integers(1, 4)):
        line = _draw_contour(samples, int(rng.integers(2, 6)), -1, 1, rng)
        line = np.round(line * 6) / 12 if rng.random() < 0.6 else line * rng.uniform(0, 1)
        tone = _make_tone(_draw_pitch(rng) * 2**line, rate_hz, rng.uniform(1, 3), rng)
        total += tone * _make_envelope(samples, rate_hz, rng.uniform(0.5, 6), rng)
    return total
