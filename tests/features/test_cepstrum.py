"""Cepstral coefficients equal librosa's."""

import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from streamcls.errors import ModelError
from streamcls.features import FrontEnd, log_mel, mfcc


@pytest.mark.parametrize(("n_mels", "n_coefficients"), [(40, 40), (40, 10), (128, 40)])
def test_equals_librosa(n_mels: int, n_coefficients: int) -> None:
    generator = np.random.default_rng(0)
    audio = generator.normal(0, 0.1, (1, 8000)) * np.linspace(0, 1, 8000)
    frames = log_mel(jnp.asarray(audio, jnp.float32), FrontEnd(n_mels=n_mels, n_fft=2048))
    decibels = 10 / np.log(10)
    theirs = librosa.feature.mfcc(S=np.asarray(frames[0]).T * decibels, n_mfcc=n_coefficients).T
    ours = mfcc(frames, n_coefficients)[0]
    np.testing.assert_allclose(ours, theirs / decibels, atol=1e-4)


def test_more_coefficients_than_mels_are_refused() -> None:
    with pytest.raises(ModelError, match="41 cepstral coefficients of 40 mels: must be 1 to 40"):
        mfcc(jnp.zeros((1, 3, 40)), 41)
