"""Pieces of a signal, resampled one after the other, are the resampled signal."""

import random

import numpy as np
import pytest
import soxr

from streamcls.capture.resample import Resampler, select_channel
from streamcls.errors import SourceError


def random_pieces(signal: np.ndarray, seed: int) -> list[np.ndarray]:
    rng = random.Random(seed)
    pieces = []
    while signal.size:
        n = rng.choice([1, 2, 160, 441, 480, 5000])
        pieces.append(signal[:n])
        signal = signal[n:]
    return pieces


@pytest.mark.parametrize("n_samples", [1, 3, 1000, 100_003])
@pytest.mark.parametrize("rates_hz", [(48_000, 16_000), (44_100, 16_000), (8_000, 16_000)])
def test_pieces_equal_the_whole(rates_hz: tuple[int, int], n_samples: int) -> None:
    signal = np.random.default_rng(n_samples).standard_normal(n_samples).astype(np.float32)
    resampler = Resampler(*rates_hz)
    for _ in range(2):  # after a flush it begins afresh
        pieces = [resampler.process(piece) for piece in random_pieces(signal, seed=n_samples)]
        whole = np.concatenate([*pieces, resampler.flush()])
        np.testing.assert_array_equal(whole, soxr.resample(signal, *rates_hz))
        assert whole.size == round(n_samples * rates_hz[1] / rates_hz[0])


def test_equal_rates_pass_through() -> None:
    signal = np.arange(10, dtype=np.float32)
    resampler = Resampler(16_000, 16_000)
    np.testing.assert_array_equal(resampler.process(signal), signal)
    assert resampler.flush().size == 0


def test_channels_are_chosen_or_mixed() -> None:
    samples = np.array([[1, 3], [2, 6]], np.float32)
    assert select_channel(samples, 0).tolist() == [1, 2]
    assert select_channel(samples, 1).tolist() == [3, 6]
    assert select_channel(samples, "mix").tolist() == [2, 4]


def test_a_channel_that_is_not_there_is_refused() -> None:
    with pytest.raises(SourceError, match=r"channel 2 does not exist.*with 2: choose 0 to 1"):
        select_channel(np.zeros((4, 2), np.float32), 2)
    with pytest.raises(SourceError, match=r'with 1: choose 0 or "mix"'):
        select_channel(np.zeros((4, 1), np.float32), 1)
