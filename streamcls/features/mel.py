"""Mel filter banks, computed once at start-up in NumPy and closed over by the compiled front end.

The Slaney scale is linear below 1 kHz and logarithmic above; the HTK scale is logarithmic
throughout. Both agree with ``librosa.filters.mel`` (the tests compare them), which is not a
dependency of the daemon because it brings numba and scipy with it.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

MelScale = Literal["slaney", "htk"]

_BAND_MELS = 16
"""Filters of a band: as many as fill a vector register of 512 bits."""

_LINEAR_HZ_PER_MEL = 200.0 / 3
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _LINEAR_HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27.0


def hz_to_mel(frequency_hz: NDArray[np.float64], scale: MelScale) -> NDArray[np.float64]:
    """Convert frequencies to mels, float64 of the same shape."""
    if scale == "htk":
        return 2595.0 * np.log10(1.0 + frequency_hz / 700.0)
    log_part = _BREAK_MEL + np.log(np.maximum(frequency_hz, _BREAK_HZ) / _BREAK_HZ) / _LOG_STEP
    return np.where(frequency_hz < _BREAK_HZ, frequency_hz / _LINEAR_HZ_PER_MEL, log_part)


def mel_to_hz(mel: NDArray[np.float64], scale: MelScale) -> NDArray[np.float64]:
    """Convert mels to frequencies in Hz, float64 of the same shape."""
    if scale == "htk":
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    log_part = _BREAK_HZ * np.exp(_LOG_STEP * (np.maximum(mel, _BREAK_MEL) - _BREAK_MEL))
    return np.where(mel < _BREAK_MEL, mel * _LINEAR_HZ_PER_MEL, log_part)


def mel_filter_bank(
    sample_rate_hz: int,
    n_fft: int,
    n_mels: int,
    fmin_hz: float,
    fmax_hz: float,
    scale: MelScale = "slaney",
    unit_area: bool = True,
) -> NDArray[np.float32]:
    """Return triangular filters ``[n_fft // 2 + 1, n_mels]`` float32: ``mel = power @ bank``.

    Args:
        sample_rate_hz: Rate of the audio.
        n_fft: FFT length in samples.
        n_mels: Number of filters.
        fmin_hz: Lower edge of the first filter.
        fmax_hz: Upper edge of the last filter.
        scale: Mel scale on which the centres are equally spaced.
        unit_area: Divide each triangle by its bandwidth (Slaney's normalisation).

    References:
        Slaney, "Auditory Toolbox", Interval Research TR 1998-010; ``librosa.filters.mel``.
    """
    bins_hz = np.arange(n_fft // 2 + 1) * (sample_rate_hz / n_fft)
    limits_mel = hz_to_mel(np.array([fmin_hz, fmax_hz], dtype=np.float64), scale)
    edges_hz = mel_to_hz(np.linspace(limits_mel[0], limits_mel[1], n_mels + 2), scale)
    widths_hz = np.diff(edges_hz)
    distance_hz = edges_hz[:, None] - bins_hz[None, :]
    rising = -distance_hz[:-2] / widths_hz[:-1, None]
    falling = distance_hz[2:] / widths_hz[1:, None]
    bank = np.maximum(0.0, np.minimum(rising, falling))
    if unit_area:
        bank *= (2.0 / (edges_hz[2:] - edges_hz[:-2]))[:, None]
    return np.ascontiguousarray(bank.T, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class MelBand:
    """Neighbouring filters and the part of the spectrum that they look at.

    Attributes:
        bins: Where their bins lie.
        weights: ``[bins, filters]`` float32.
    """

    bins: slice
    weights: NDArray[np.float32]


def split_bank(bank: NDArray[np.float32], most_bins: int) -> list[MelBand]:
    """Split a filter bank into bands: all together have half of its weights or less.

    Most of a bank is zeros, since a filter meets few bins.

    Args:
        bank: ``[bins, n_mels]`` as from `mel_filter_bank`.
        most_bins: Bins of a band at most, unless a single filter has more.
    """
    bands, first, n_mels = [], 0, bank.shape[1]
    while first < n_mels:
        last = min(first + _BAND_MELS, n_mels)
        while last - first > 1 and len(_bins_of(bank[:, first:last])) > most_bins:
            last -= 1
        bins = _bins_of(bank[:, first:last])
        weights = np.ascontiguousarray(bank[bins.start : bins.stop, first:last])
        bands.append(MelBand(slice(bins.start, bins.stop), weights))
        first = last
    return bands


def _bins_of(filters: NDArray[np.float32]) -> range:
    """Return the bins from the first to the last that any filter meets; one if none does."""
    used = np.flatnonzero(filters.any(axis=1)).tolist() or [0]
    return range(used[0], used[-1] + 1)
