"""The front end equals librosa and does not depend on how the audio was cut into chunks."""

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from streamcls.errors import ModelError
from streamcls.features import FrontEnd, initial_history, log_mel, mel_filter_bank, stream_log_mel
from streamcls.features.mel import split_bank

# A float32 spectrum of a full-scale tone has an absolute error; what it means after the logarithm
# depends on the floor. Wider banks than those of the shipped models need a higher one for 1e-4.
FRONT_ENDS = {
    "16 kHz": FrontEnd(),
    "8 kHz": FrontEnd(8_000, 200, 80, 256, 40, 60.0, 3_800.0),
    "frame fills the FFT": FrontEnd(16_000, 512, 160, 512, 64, 0.0, 8_000.0, log_offset=1e-5),
    "htk magnitudes": FrontEnd(
        power=1.0, mel_scale="htk", mel_unit_area=False, log_offset=1e-3, n_mels=64
    ),
    "hop does not divide the frame": FrontEnd(
        22_050, 551, 220, 1024, 80, 20.0, 11_000.0, log_offset=1e-5
    ),
}


def librosa_log_mel(audio: np.ndarray, front_end: FrontEnd) -> np.ndarray:
    """Librosa centres a short window inside the FFT, so shift the audio by the difference."""
    lead = (front_end.n_fft - front_end.frame_samples) // 2
    mel = librosa.feature.melspectrogram(
        y=np.pad(audio, (lead, front_end.n_fft)),
        sr=front_end.sample_rate_hz,
        n_fft=front_end.n_fft,
        win_length=front_end.frame_samples,
        hop_length=front_end.hop_samples,
        center=False,
        power=front_end.power,
        n_mels=front_end.n_mels,
        fmin=front_end.fmin_hz,
        fmax=front_end.fmax_hz,
        htk=front_end.mel_scale == "htk",
        norm="slaney" if front_end.mel_unit_area else None,
    )
    return np.log(mel + front_end.log_offset).T


jit_log_mel = jax.jit(log_mel, static_argnums=1)


def compare_with_librosa(audio: np.ndarray, front_end: FrontEnd) -> None:
    ours = np.asarray(jit_log_mel(jnp.asarray(audio[None]), front_end))[0]
    theirs = librosa_log_mel(audio, front_end)[: len(ours)]
    assert ours.shape == theirs.shape
    assert len(ours) == 1 + (len(audio) - front_end.frame_samples) // front_end.hop_samples
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


KINDS = ["noise", "sweep", "quiet", "click", "silence"]
# Between the harmonics of a full-scale tone a *magnitude* is all rounding in float32.
CASES = [
    (name, kind)
    for name in FRONT_ENDS
    for kind in KINDS
    if (name, kind) != ("htk magnitudes", "sweep")
]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_equals_librosa(name: str, kind: str) -> None:
    front_end = FRONT_ENDS[name]
    rate = front_end.sample_rate_hz
    t = np.arange(rate) / rate
    audio = {
        "noise": np.random.default_rng(0).normal(0, 0.2, rate),
        "sweep": 0.9 * np.sin(2 * np.pi * (50 + rate / 5 * t) * t),
        "quiet": np.random.default_rng(1).normal(0, 1e-5, rate),
        "click": np.where(np.arange(rate) == rate // 3, 1.0, 0.0),
        "silence": np.zeros(rate),
    }[kind].astype(np.float32)
    compare_with_librosa(audio, front_end)


@pytest.mark.shared_data
def test_equals_librosa_on_real_recordings(shared_data) -> None:
    paths = sorted((shared_data / "speech_commands" / "audio").glob("*/*"))[::400]
    assert len(paths) >= 5
    for path in paths:
        audio, rate = soundfile.read(path, dtype="float32")
        assert rate == 16_000
        compare_with_librosa(audio, FrontEnd())


@pytest.mark.parametrize("scale", ["slaney", "htk"])
@pytest.mark.parametrize("unit_area", [True, False])
def test_filter_bank_equals_librosa(scale, unit_area: bool) -> None:
    ours = mel_filter_bank(16_000, 512, 40, 60.0, 7_600.0, scale, unit_area)
    theirs = librosa.filters.mel(
        sr=16_000,
        n_fft=512,
        n_mels=40,
        fmin=60.0,
        fmax=7_600.0,
        htk=scale == "htk",
        norm="slaney" if unit_area else None,
    )
    np.testing.assert_allclose(ours.T, theirs, atol=1e-7)


@settings(max_examples=25)
@given(
    name=st.sampled_from(list(FRONT_ENDS)),
    chunks=st.lists(st.integers(1, 9), min_size=2, max_size=8),
    seed=st.integers(0, 2**31),
)
def test_any_chunking_gives_the_frames_of_the_whole(name, chunks, seed) -> None:
    front_end = FRONT_ENDS[name]
    n_samples = sum(chunks) * front_end.hop_samples
    audio = np.random.default_rng(seed).normal(0, 0.3, (2, n_samples)).astype(np.float32)
    stream = jax.jit(stream_log_mel, static_argnums=2)
    history = initial_history(2, front_end)
    pieces, start = [], 0
    for chunk in chunks:
        stop = start + chunk * front_end.hop_samples
        frames, history = stream(jnp.asarray(audio[:, start:stop]), history, front_end)
        assert frames.shape == (2, chunk, front_end.n_mels)
        pieces.append(frames)
        start = stop
    # The stream began with silence, so the whole is the silence followed by the audio.
    whole = np.pad(audio, ((0, 0), (front_end.history_samples, 0)))
    streamed = np.concatenate(pieces, axis=1)
    for row in range(2):
        expected = librosa_log_mel(whole[row], front_end)[: sum(chunks)]
        np.testing.assert_allclose(streamed[row], expected, atol=1e-4)


def test_refuses_what_it_cannot_frame() -> None:
    front_end = FrontEnd()
    with pytest.raises(ModelError, match="399 samples, a frame needs 400"):
        log_mel(jnp.zeros((1, 399)), front_end)
    with pytest.raises(ModelError, match="170 samples is no multiple of the 160-sample"):
        stream_log_mel(jnp.zeros((1, 170)), initial_history(1, front_end), front_end)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"hop_samples": 0}, "hop_samples = 0, must be positive"),
        ({"sample_rate_hz": 10**9}, "sample_rate_hz = 1000000000, the limit is 384000"),
        ({"log_offset": 0.0}, "log_offset = 0, must be 1e-30 to 1e30"),
        ({"log_offset": float("nan")}, "log_offset = nan, must be 1e-30 to 1e30"),
        ({"power": -2.0}, "power = -2, must be above 0, at most 4"),
        ({"frame_samples": 600}, "hop_samples <= frame_samples <= n_fft, got 160, 600, 512"),
        ({"fmax_hz": 9000.0}, "fmax_hz <= 8000"),
        ({"fmin_hz": 7700.0}, "got 7700 and 7600"),
    ],
)
def test_contradicting_settings_name_value_and_limit(settings_, message) -> None:
    with pytest.raises(ModelError, match=message):
        FrontEnd(**settings_)


@pytest.mark.parametrize(
    ("rate_hz", "n_fft", "n_mels", "fmin_hz", "fmax_hz"),
    [
        (16_000, 512, 40, 60.0, 7600.0),
        (8000, 256, 40, 60.0, 3800.0),
        (16_000, 2048, 128, 60.0, 7600.0),
        (16_000, 512, 128, 0.0, 7600.0),  # some filters meet no bin
        (16_000, 512, 2, 60.0, 7600.0),
    ],
    ids=["default", "8 kHz", "long", "empty filters", "two"],
)
def test_bands_are_the_filter_bank(rate_hz, n_fft, n_mels, fmin_hz, fmax_hz) -> None:
    bank = mel_filter_bank(rate_hz, n_fft, n_mels, fmin_hz, fmax_hz)
    bands = split_bank(bank, most_bins=128)
    rebuilt, first = np.zeros_like(bank), 0
    for band in bands:
        last = first + band.weights.shape[1]
        rebuilt[band.bins, first:last] = band.weights
        assert len(band.weights) <= 128 or band.weights.shape[1] == 1
        first = last
    np.testing.assert_array_equal(rebuilt, bank)
    if n_mels >= 40:
        assert sum(band.weights.size for band in bands) < bank.size / 2
