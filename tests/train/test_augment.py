"""Augmentation: reproducible, and each effect does what it says."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.augment import Augment, augment_mel, make_palette, make_windows
from train.augment.channel import random_microphone
from train.augment.colour import coloured_noise, mean_power
from train.augment.mel import mask_frames_and_mels, warp_mel_axis
from train.augment.noise import add_at_snr, add_background, add_clicks
from train.augment.placement import Placement, cut_windows, inside_clip, place_at_random
from train.bank import Bank, to_bank
from train.data import Clips

WINDOW = 6_600
RATE_HZ = 8_000
UNKNOWN, SILENCE = 2, 3


@pytest.fixture
def bank(clips: Clips) -> Bank:
    return to_bank(clips)


@partial(jax.jit, static_argnames="settings")
def windows(bank: Bank, key: jax.Array, settings: Augment, clip: jax.Array) -> tuple:
    no_clips = jnp.zeros((0,), jnp.int32)
    palette = make_palette(jax.random.key(1), no_clips, WINDOW, RATE_HZ, settings)
    return make_windows(
        key,
        bank,
        clip,
        palette,
        window_samples=WINDOW,
        sample_rate_hz=RATE_HZ,
        n_classes=4,
        n_words=4,
        unknown=UNKNOWN,
        silence=SILENCE,
        settings=settings,
    )


QUIET = Augment(
    cut_probability=0.0,
    trim_probability=0.0,
    speed_range=0.0,
    background_probability=0.0,
    noise_probability=0.0,
    filter_probability=0.0,
    tilt_probability=0.0,
    band_probability=0.0,
    reverb_probability=0.0,
    click_probability=0.0,
    gain_min_db=0.0,
    gain_max_db=0.0,
    mixup_probability=0.0,
    reverb_max_s=0.1,
)


def test_same_key_same_batch(bank: Bank) -> None:
    clip = jnp.arange(24)
    first = windows(bank, jax.random.key(3), Augment(), clip)
    again = windows(bank, jax.random.key(3), Augment(), clip)
    other = windows(bank, jax.random.key(4), Augment(), clip)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert float(jnp.abs(first[0] - other[0]).max()) > 0.01
    assert bool(jnp.isfinite(first[0]).all())
    assert float(jnp.abs(first[0]).max()) <= 1.0


def test_everything_off_is_the_clip_itself(bank: Bank, clips: Clips) -> None:
    audio, labels, _ = windows(bank, jax.random.key(0), QUIET, jnp.arange(8))
    for i in range(8):
        clip = clips.audio[clips.start[i] : clips.start[i] + clips.length[i]] / 32768
        begins = [int(np.flatnonzero(np.abs(x) > 1e-3)[0]) for x in (np.asarray(audio[i]), clip)]
        first = begins[0] - begins[1]
        np.testing.assert_allclose(audio[i, first : first + len(clip)], clip, atol=1e-3)
    np.testing.assert_array_equal(labels.argmax(axis=1), clips.label[:8])


def test_cut_at_whole_samples_is_exact(bank: Bank, clips: Clips) -> None:
    one = jnp.ones(1)
    place = Placement(100 * one, one, one, 0 * one, jnp.array(clips.length[:1]) * one)
    audio = cut_windows(bank, jnp.array([0]), place, WINDOW)
    clip = clips.audio[: clips.length[0]] / np.float32(32768)
    np.testing.assert_allclose(audio[0, 100 : 100 + len(clip)], clip, atol=1e-6)
    assert float(jnp.abs(audio[0, :100]).max()) == 0.0


def test_speed_moves_the_pitch(bank: Bank, clips: Clips) -> None:
    steady = int(np.flatnonzero(clips.label == UNKNOWN)[0])
    one = jnp.ones(1)

    def peak_hz(speed: float) -> float:
        place = Placement(0 * one, speed * one, one, 0 * one, clips.length[steady] * one)
        audio = cut_windows(bank, jnp.array([steady]), place, 3_000)[0]
        spectrum = np.abs(np.fft.rfft(np.asarray(audio), n=1 << 15))
        return float(spectrum.argmax()) * RATE_HZ / (1 << 15)

    assert peak_hz(1.1) / peak_hz(1.0) == pytest.approx(1.1, abs=0.003)


def test_tempo_moves_the_duration_but_not_the_pitch(bank: Bank, clips: Clips) -> None:
    steady = int(np.flatnonzero(clips.label == UNKNOWN)[0])
    one = jnp.ones(1)
    length = float(clips.length[steady])

    def measure(tempo: float) -> tuple[float, float]:
        place = Placement(0 * one, one, tempo * one, 0 * one, length * one)
        audio = np.asarray(cut_windows(bank, jnp.array([steady]), place, 16_000, 160)[0])
        spectrum = np.abs(np.fft.rfft(audio, n=1 << 16))
        return np.flatnonzero(np.abs(audio) > 1e-3)[-1], float(spectrum.argmax())

    end, pitch = measure(1.0)
    faster_end, same_pitch = measure(1.6)
    assert faster_end == pytest.approx(end / 1.6, abs=400)
    assert same_pitch == pytest.approx(pitch, rel=0.02)


def test_placed_words_are_inside_and_cut_words_are_not(bank: Bank) -> None:
    n = 400
    clip = jnp.arange(n) % 36
    cut = jnp.arange(n) % 2 == 0
    settings = Augment(trim_probability=0.0)
    place = place_at_random(
        jax.random.key(0), bank.length[clip], bank.active[clip], WINDOW, cut, settings
    )
    begin = place.offset + bank.active[clip, 0] / place.speed
    end = place.offset + bank.active[clip, 1] / place.speed
    heard = jnp.clip(jnp.minimum(end, WINDOW) - jnp.maximum(begin, 0), 0) / (end - begin)
    assert float(heard[~cut].min()) > 0.999
    assert float(heard[cut].max()) < 0.5
    assert float(heard[cut].min()) > 0.05
    # Positions fill the window, its end included.
    assert float(begin[~cut].min()) < 0.1 * WINDOW
    assert float(end[~cut].max()) > 0.9 * WINDOW


def test_cut_words_become_unknown(bank: Bank, clips: Clips) -> None:
    settings = Augment(cut_probability=1.0, mixup_probability=0.0)
    clip = jnp.arange(len(clips))
    _, labels, words = windows(bank, jax.random.key(0), settings, clip)
    expected = np.where(clips.label == SILENCE, SILENCE, UNKNOWN)
    np.testing.assert_array_equal(labels.argmax(axis=1), expected)
    np.testing.assert_array_equal(words.sum(axis=1), clips.label == SILENCE)


@pytest.mark.parametrize("snr_db", [-3.0, 0.0, 10.0, 20.0])
def test_snr_is_what_it_says(bank: Bank, clips: Clips, snr_db: float) -> None:
    n = 12
    one = jnp.ones(n)
    place = Placement(500 * one, one, one, 0 * one, jnp.array(clips.length[:n]) * one)
    signal = cut_windows(bank, jnp.arange(n), place, WINDOW)
    mask = inside_clip(place, WINDOW)
    noise = 7.0 * coloured_noise(jax.random.key(0), jnp.linspace(0, 2, n), WINDOW)
    added = add_at_snr(signal, noise, jnp.full(n, snr_db), mask) - signal
    measured = 10 * jnp.log10(mean_power(signal, mask) / mean_power(added))
    np.testing.assert_allclose(measured, snr_db, atol=0.1)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_noise_has_its_colour(exponent: float) -> None:
    noise = coloured_noise(jax.random.key(0), jnp.full(4, exponent), 1 << 15)
    power = np.square(np.abs(np.fft.rfft(np.asarray(noise)))).mean(axis=0)
    low, high = power[1000:2000].mean(), power[4000:8000].mean()
    assert np.log2(low / high) / 2 == pytest.approx(exponent, abs=0.1)
    np.testing.assert_allclose(mean_power(noise), 1.0, rtol=1e-4)


def test_mixup_mixes_labels_with_the_audio(bank: Bank) -> None:
    settings = Augment(mixup_probability=1.0, mixup_max=0.4, cut_probability=0.0)
    _, labels, _ = windows(bank, jax.random.key(0), settings, jnp.arange(48))
    np.testing.assert_allclose(labels.sum(axis=1), 1.0, rtol=1e-5)
    assert float(labels.max(axis=1).min()) >= 0.6 - 1e-6
    assert bool(((labels > 0).sum(axis=1) == 2).any())


def test_background_ends_with_the_recording() -> None:
    mask = jnp.zeros((8, 2_000)).at[:, 500:1_500].set(1.0)
    audio = 0.1 * mask
    colours = coloured_noise(jax.random.key(0), jnp.linspace(0, 2, 4), 8_000)
    settings = Augment(background_probability=1.0, background_min_db=-30.0, background_max_db=-20.0)
    added = add_background(jax.random.key(1), audio, mask, colours, settings) - audio
    assert float(jnp.abs(added * (1 - mask)).max()) == 0.0
    # A stretch of brown noise is louder or softer than the noise it is cut from.
    below_db = 10 * jnp.log10(mean_power(added, mask) / mean_power(audio, mask))
    assert -36 < float(below_db.min()) < float(below_db.max()) < -14


def test_microphones_stay_within_their_limits() -> None:
    neutral = Augment(filter_probability=0.0, tilt_probability=0.0, band_probability=0.0)
    flat = random_microphone(jax.random.key(0), 4, 513, RATE_HZ, neutral)
    np.testing.assert_allclose(flat, 1.0)

    sloped = replace(neutral, tilt_probability=1.0, tilt_db=6.0)
    response_db = 20 * jnp.log10(random_microphone(jax.random.key(0), 64, 513, RATE_HZ, sloped))
    per_octave_db = response_db[:, 512] - response_db[:, 256]
    assert -6 <= float(per_octave_db.min()) < -4
    assert 4 < float(per_octave_db.max()) <= 6
    np.testing.assert_allclose(response_db[:, 128], 0.0, atol=1e-4)

    banded = replace(neutral, band_probability=1.0, low_pass_min=0.4)
    response = random_microphone(jax.random.key(0), 64, 513, RATE_HZ, banded)
    assert float(response[:, 0].max()) == 0.0
    assert float(response.max()) <= 1.0
    # 1 kHz lies between every pair of edges (350 Hz and 1.6 kHz at the narrowest).
    assert float(response[:, 128].min()) > 0.95


def test_clicks_are_short_and_below_the_peak() -> None:
    audio = jnp.ones((16, 4_000)) * 0.1
    settings = Augment(click_probability=1.0, click_max_s=0.01)
    added = add_clicks(jax.random.key(0), audio, RATE_HZ, settings) - audio
    touched = jnp.abs(added) > 0
    assert int(touched.sum(axis=1).max()) <= 80
    assert int(touched.sum(axis=1).min()) > 0


def test_warp_moves_a_peak_and_one_leaves_it() -> None:
    centres_hz = jnp.linspace(100, 3_000, 30)
    mel = jnp.exp(-0.5 * ((jnp.arange(30.0) - 15) / 2) ** 2)[None, None].repeat(3, axis=0)
    warped = warp_mel_axis(mel, centres_hz, jnp.array([1.0, 1.1, 0.9]))
    np.testing.assert_allclose(warped[0], mel[0], atol=1e-4)
    assert int(warped[1, 0].argmax()) < 15 < int(warped[2, 0].argmax())


def test_masks_hide_no_more_than_allowed() -> None:
    mel = jax.random.normal(jax.random.key(0), (64, 80, 40))
    settings = Augment(mask_probability=1.0, mask_mels=5, mask_frames=9, n_masks=2)
    masked = mask_frames_and_mels(jax.random.key(1), mel, settings)
    hidden = np.asarray(masked != mel)
    assert hidden.all(axis=1).sum(axis=1).max() <= 10
    assert hidden.all(axis=2).sum(axis=1).max() <= 18
    assert hidden.any()
    off = Augment(mask_probability=0.0, warp_range=0.0)
    same = augment_mel(jax.random.key(1), mel, jnp.linspace(100, 3_000, 40), off)
    np.testing.assert_allclose(same, mel, atol=1e-4)
