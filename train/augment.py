"""Augmentation on the device: a batch of clip numbers becomes windows as a live stream has them.

Runs inside the compiled training step, before the daemon's own log-mel; nothing of it exists at
inference. Every random effect is drawn from the key it is given, so the same key gives the same
batch. Order: place and stretch a clip in the window, filter and reverberate it, add noise at a
random SNR, mix two examples, set the level; then, on log-mel frames, warp and mask.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

_TINY = 1e-12
_N_COLOURS = 12
_COLOUR_WINDOWS = 30
"""Length of the noise of one colour, in windows."""
_N_ROOMS = 64
_N_TALKERS = 3
_GRAIN_S = 0.02
"""Step between the grains of a changed tempo; each is twice as long."""
_N_EQ_POINTS = 6
"""One per octave, from half the sample rate downwards; constant below."""


@dataclass(frozen=True)
class Augment:
    """Strengths of all effects; a probability of 0 switches one off."""

    cut_probability: float = 0.1
    """Show only the first or last 10 to 40 % of a word; the label becomes ``unknown``."""
    trim_probability: float = 0.5
    trim_max: float = 0.2
    """Largest share of a word that is missing at its start, and half of that at its end: automatic
    editing clips soft consonants, and so does a stream that begins in the middle of a word."""
    speed_range: float = 0.15
    """Resample by a factor in 1 +- this: pitch, formants and duration move together."""
    tempo_probability: float = 0.0
    """Share of examples that are said faster or slower at the same pitch."""
    tempo_min: float = 0.8
    tempo_max: float = 1.7
    """Slowest and fastest, as a factor; in between uniform on a logarithmic scale."""
    background_probability: float = 0.5
    """Add the faint hiss or rumble of a recording, from its first to its last sample only."""
    background_min_db: float = -50.0
    background_max_db: float = -15.0
    """Power of the background relative to the clip's."""
    noise_probability: float = 0.75
    snr_min_db: float = -3.0
    snr_max_db: float = 30.0
    babble_probability: float = 0.3
    """Share of noisy examples whose noise is three other clips of the data set."""
    noise_clip_probability: float = 0.3
    """Share of noisy examples whose noise is a clip of the noise label (if there are any)."""
    silence_min_dbfs: float = -90.0
    silence_max_dbfs: float = -15.0
    """Level of the noise where there is no word."""
    filter_probability: float = 0.5
    filter_db: float = 9.0
    """Standard deviation-like range of the random equaliser, over six smooth bands."""
    tilt_probability: float = 0.7
    tilt_db: float = 6.0
    """Steepest random slope of the spectrum per octave, up or down: microphones and voices."""
    band_probability: float = 0.4
    """Share of examples that lose their highs, and share that lose their lows."""
    low_pass_min: float = 0.4
    """Lowest random upper band edge, as a share of half the sample rate."""
    high_pass_max_hz: float = 350.0
    """Highest random lower band edge."""
    reverb_probability: float = 0.3
    reverb_max_s: float = 0.4
    """Longest RT60 of the synthetic room."""
    click_probability: float = 0.3
    """Add a short burst somewhere: mouse clicks, lip smacks, the edge of an edited recording."""
    click_max_s: float = 0.012
    gain_min_db: float = -25.0
    gain_max_db: float = 8.0
    """Change of level; what exceeds full scale is clipped, as a microphone would."""
    mixup_probability: float = 0.2
    mixup_max: float = 0.4
    """Largest share of the second example."""
    warp_range: float = 0.12
    """Stretch of the mel axis in frequency by 1 +- this: another length of vocal tract."""
    mask_probability: float = 0.6
    mask_mels: int = 6
    mask_frames: int = 12
    n_masks: int = 2


class Bank(NamedTuple):
    """The clips on the device, as arrays (see `train.data.Clips`)."""

    audio: jax.Array
    start: jax.Array
    length: jax.Array
    active: jax.Array
    label: jax.Array
    targets: jax.Array
    word: jax.Array


class Palette(NamedTuple):
    """What is mixed under and around the words; drawn once per training, see `make_palette`."""

    colours: jax.Array
    """``[colours, samples]`` noise of unit power, from white to brown."""
    rooms: jax.Array
    """``[rooms, bins]`` complex spectra of reverberation without the direct sound, unit energy."""
    noise_clips: jax.Array
    """``[m]`` int, numbers of noise recordings in the bank; may be empty."""


class Placement(NamedTuple):
    """Where clips lie in their windows, each ``[batch]``."""

    offset: jax.Array
    """Window position of the clip's first sample, in window samples (may be negative)."""
    speed: jax.Array
    """Clip samples per window sample within a grain: pitch."""
    tempo: jax.Array
    """How much faster than that the grains follow each other."""
    first: jax.Array
    """First clip sample that is heard."""
    last: jax.Array
    """First clip sample that is not heard any more."""


def place_at_random(
    key: jax.Array,
    length: jax.Array,
    active: jax.Array,
    window_samples: int,
    cut: jax.Array,
    settings: Augment,
) -> Placement:
    """Draw speed and position so that the active part is inside the window, or cut on purpose.

    Args:
        key: PRNG key.
        length: ``[batch]`` int, clip lengths in samples.
        active: ``[batch, 2]`` int, active span in clip samples.
        window_samples: Length of the window.
        cut: ``[batch]`` bool, which words to show less than half of.
        settings: Strengths.
    """
    keys = jax.random.split(key, 9)
    n = active.shape[0]
    trimmed = settings.trim_max * jax.random.bernoulli(keys[4], settings.trim_probability, (n,))
    head = trimmed * jax.random.uniform(keys[5], (n,))
    tail = trimmed * jax.random.uniform(keys[6], (n,), maxval=0.5)
    whole = (active[:, 1] - active[:, 0]).astype(jnp.float32)
    first = jnp.where(head > 0, active[:, 0] + head * whole, 0.0)
    last = jnp.where(tail > 0, active[:, 1] - tail * whole, length)

    factor = jax.random.uniform(keys[0], (n,), minval=-1.0, maxval=1.0)
    speed = 1.0 + settings.speed_range * factor
    share = jax.random.uniform(keys[7], (n,))
    tempo = settings.tempo_min * (settings.tempo_max / settings.tempo_min) ** share
    changed = jax.random.bernoulli(keys[8], settings.tempo_probability, (n,))
    tempo = jnp.where(changed, tempo, 1.0)
    rate = speed * tempo
    begin = jnp.maximum(active[:, 0], first) / rate
    span = jnp.minimum(active[:, 1], last) / rate - begin
    # A span longer than the window fills it: the range of onsets then turns round by itself.
    onset = (window_samples - span) * jax.random.uniform(keys[1], (n,))
    heard = span * jax.random.uniform(keys[2], (n,), minval=0.1, maxval=0.4)
    heard = jnp.minimum(heard, 0.8 * window_samples)
    at_end = jax.random.bernoulli(keys[3], 0.5, (n,))
    cut_onset = jnp.where(at_end, window_samples - heard, heard - span)
    onset = jnp.where(cut, cut_onset, onset)
    # At whole samples, an unstretched clip is read as it is, without interpolation.
    return Placement(jnp.round(onset - begin), speed, tempo, first, last)


def cut_windows(
    bank: Bank, clip: jax.Array, place: Placement, window_samples: int, grain_samples: int = 0
) -> jax.Array:
    """Read clips through their placement, zero outside the clip.

    Args:
        bank: All clips.
        clip: ``[batch]`` int, clip numbers.
        place: Their placement.
        window_samples: Length of the window.
        grain_samples: Step between the grains that change the tempo; 0 if no tempo is changed.

    Returns:
        ``[batch, window_samples]`` float32 in [-1, 1].
    """
    time = jnp.arange(window_samples, dtype=jnp.float32)[None]
    if not grain_samples:
        return _read(bank, clip, place, clip_position(place, time))
    # Overlap-add without alignment: two neighbouring grains, cross-faded. It sounds rough, but
    # 25 ms spectra hardly tell.
    speed = place.speed[:, None]
    older = jnp.floor(time / grain_samples) * grain_samples
    newer = older + grain_samples
    fade = (time - older) / grain_samples
    before = _read(bank, clip, place, clip_position(place, older) + (time - older) * speed)
    after = _read(bank, clip, place, clip_position(place, newer) + (time - newer) * speed)
    return (1 - fade) * before + fade * after


def clip_position(place: Placement, time: jax.Array) -> jax.Array:
    """Return which clip sample is heard at a window sample, ``[batch, n]`` for ``[.., n]``."""
    rate = (place.speed * place.tempo)[:, None]
    return (time - place.offset[:, None]) * rate


def _read(bank: Bank, clip: jax.Array, place: Placement, position: jax.Array) -> jax.Array:
    """Read clips at fractional positions ``[batch, n]`` (Catmull-Rom), zero outside."""
    whole = jnp.floor(position)
    t = position - whole
    whole = whole.astype(jnp.int32)
    first, last = place.first[:, None], place.last[:, None]
    start = bank.start[clip][:, None]

    def tap(shift: int) -> jax.Array:
        at = whole + shift
        inside = (at >= first) & (at < last)
        value = bank.audio[jnp.where(inside, start + at, 0)].astype(jnp.float32)
        return jnp.where(inside, value, 0.0) * (1.0 / 32768.0)

    before, here, after, beyond = tap(-1), tap(0), tap(1), tap(2)
    return here + 0.5 * t * (
        after
        - before
        + t
        * (2 * before - 5 * here + 4 * after - beyond + t * (3 * (here - after) + beyond - before))
    )


def mean_power(audio: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Return the mean square of ``[batch, samples]`` (within a mask), ``[batch, 1]``."""
    if mask is None:
        return jnp.mean(jnp.square(audio), axis=1, keepdims=True)
    n = jnp.maximum(mask.sum(axis=1, keepdims=True), 1)
    return jnp.sum(jnp.square(audio) * mask, axis=1, keepdims=True) / n


def inside_clip(place: Placement, window_samples: int) -> jax.Array:
    """Return where the window shows the clip, ``[batch, window_samples]`` float32 0 or 1."""
    position = clip_position(place, jnp.arange(window_samples, dtype=jnp.float32)[None])
    inside = (position >= place.first[:, None]) & (position < place.last[:, None])
    return inside.astype(jnp.float32)


def coloured_noise(key: jax.Array, exponent: jax.Array, samples: int) -> jax.Array:
    """Return noise with power proportional to ``1/f**exponent``, unit power.

    Args:
        key: PRNG key.
        exponent: ``[batch]``: 0 white, 1 pink, 2 brown.
        samples: Length.

    Returns:
        ``[batch, samples]`` float32.
    """
    white = jax.random.normal(key, (exponent.shape[0], samples))
    spectrum = jnp.fft.rfft(white)
    # Flat in the lowest 1/200 of the band: an unbounded rise would put all power into rumble.
    bins = jnp.maximum(jnp.arange(spectrum.shape[1], dtype=jnp.float32), samples / 400)
    noise = jnp.fft.irfft(spectrum * bins[None] ** (-exponent[:, None] / 2), n=samples)
    return noise * jax.lax.rsqrt(mean_power(noise) + _TINY)


def filter_fft_samples(window_samples: int, sample_rate_hz: int, settings: Augment) -> int:
    """Return the FFT length at which a window and its reverberation do not wrap round."""
    needed = window_samples + round(settings.reverb_max_s * sample_rate_hz)
    return 2 * _fast_size(-(-needed // 2))


def _fast_size(samples: int) -> int:
    """Return the smallest product of 2, 3 and 5 that is not below ``samples``."""
    while True:
        rest = samples
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return samples
        samples += 1


def make_palette(
    key: jax.Array,
    noise_clips: jax.Array,
    window_samples: int,
    sample_rate_hz: int,
    settings: Augment,
) -> Palette:
    """Draw the noise and the rooms of a training; drawing them anew each step costs too much."""
    k_noise, k_room, k_time = jax.random.split(key, 3)
    exponents = jnp.linspace(0.0, 2.2, _N_COLOURS)
    colours = coloured_noise(k_noise, exponents, _COLOUR_WINDOWS * window_samples)
    room_samples = round(settings.reverb_max_s * sample_rate_hz)
    rt60_s = jax.random.uniform(k_time, (_N_ROOMS, 1), minval=0.05, maxval=settings.reverb_max_s)
    t_s = jnp.arange(room_samples, dtype=jnp.float32)[None] / sample_rate_hz
    # 6.9 = ln(10**3): 60 dB of decay in one RT60. The direct sound is not part of the tail.
    tail = jax.random.normal(k_room, (_N_ROOMS, room_samples)) * jnp.exp(-6.9 * t_s / rt60_s)
    tail = tail.at[:, 0].set(0.0)
    tail *= jax.lax.rsqrt(jnp.sum(jnp.square(tail), axis=1, keepdims=True) + _TINY)
    n_fft = filter_fft_samples(window_samples, sample_rate_hz, settings)
    return Palette(colours, jnp.fft.rfft(tail, n=n_fft), noise_clips)


def add_at_snr(
    signal: jax.Array, noise: jax.Array, snr_db: jax.Array, mask: jax.Array
) -> jax.Array:
    """Add noise so that signal power (mean over ``mask``) to noise power is ``snr_db``.

    Args:
        signal: ``[batch, samples]``.
        noise: ``[batch, samples]``, any level; all zeros adds nothing.
        snr_db: ``[batch]``.
        mask: ``[batch, samples]``, where the signal is.
    """
    wanted = mean_power(signal, mask) * 10.0 ** (-snr_db[:, None] / 10.0)
    return signal + noise * jnp.sqrt(wanted / (mean_power(noise) + _TINY))


def random_microphone(
    key: jax.Array, n: int, n_bins: int, sample_rate_hz: int, settings: Augment
) -> jax.Array:
    """Return random amplitude responses ``[n, n_bins]``: equaliser, slope and band edges."""
    keys = jax.random.split(key, 8)
    # Gains at points equally spaced on a logarithmic frequency axis, straight lines between.
    gains_db = settings.filter_db * jax.random.uniform(
        keys[0], (n, _N_EQ_POINTS), minval=-1.0, maxval=1.0
    )
    gains_db *= jax.random.bernoulli(keys[1], settings.filter_probability, (n, 1))
    share = jnp.arange(n_bins) / (n_bins - 1)
    octave = jnp.log2(jnp.maximum(share, 2.0**-_N_EQ_POINTS))
    at = jnp.maximum(octave + _N_EQ_POINTS - 1.0, 0.0)
    hat = jnp.maximum(0.0, 1.0 - jnp.abs(at[None] - jnp.arange(_N_EQ_POINTS)[:, None]))
    slope_db = settings.tilt_db * jax.random.uniform(keys[2], (n, 1), minval=-1.0, maxval=1.0)
    slope_db *= jax.random.bernoulli(keys[3], settings.tilt_probability, (n, 1))
    # The slope turns about two octaves below the upper end, where speech is strong.
    response = 10.0 ** ((gains_db @ hat + slope_db * (octave + 2.0)[None]) / 20.0)
    upper = jax.random.uniform(keys[4], (n, 1), minval=settings.low_pass_min, maxval=1.0)
    low_pass = 1.0 / (1.0 + (share[None] / upper) ** 10)
    response *= jnp.where(
        jax.random.bernoulli(keys[5], settings.band_probability, (n, 1)), low_pass, 1.0
    )
    lower_hz = jax.random.uniform(keys[6], (n, 1), minval=40.0, maxval=settings.high_pass_max_hz)
    ratio = share[None] * (sample_rate_hz / 2) / lower_hz
    high_pass = ratio**4 / (1.0 + ratio**4)
    return response * jnp.where(
        jax.random.bernoulli(keys[7], settings.band_probability, (n, 1)), high_pass, 1.0
    )


def filter_and_reverberate(
    key: jax.Array, audio: jax.Array, rooms: jax.Array, sample_rate_hz: int, settings: Augment
) -> jax.Array:
    """Apply a random microphone and, to some examples, a random synthetic room.

    Args:
        key: PRNG key.
        audio: ``[batch, samples]``.
        rooms: ``[rooms, bins]`` complex, see `Palette`.
        sample_rate_hz: Rate of the audio.
        settings: Strengths.
    """
    n, samples = audio.shape
    n_bins = rooms.shape[1]
    n_fft = 2 * (n_bins - 1)
    k_microphone, k_room, k_wet, k_room_on = jax.random.split(key, 4)
    response = random_microphone(k_microphone, n, n_bins, sample_rate_hz, settings)
    wet = jax.random.uniform(k_wet, (n, 1), minval=0.1, maxval=0.9)
    wet *= jax.random.bernoulli(k_room_on, settings.reverb_probability, (n, 1))
    room = rooms[jax.random.randint(k_room, (n,), 0, rooms.shape[0])]
    spectrum = jnp.fft.rfft(audio, n=n_fft) * response * (1.0 + wet * room)
    return jnp.fft.irfft(spectrum, n=n_fft)[:, :samples]


def random_colours(key: jax.Array, colours: jax.Array, n: int, samples: int) -> jax.Array:
    """Cut ``n`` stretches of noise of random colour, ``[n, samples]``."""
    k_which, k_from = jax.random.split(key)
    which = jax.random.randint(k_which, (n, 1), 0, colours.shape[0])
    first = jax.random.randint(k_from, (n, 1), 0, colours.shape[1] - samples)
    return colours[which, first + jnp.arange(samples)[None]]


def add_background(
    key: jax.Array, audio: jax.Array, mask: jax.Array, colours: jax.Array, settings: Augment
) -> jax.Array:
    """Add faint noise of random colour and level to some examples, where ``mask`` is 1."""
    n, samples = audio.shape
    k_noise, k_level, k_on = jax.random.split(key, 3)
    noise = random_colours(k_noise, colours, n, samples) * mask
    noise *= jax.random.bernoulli(k_on, settings.background_probability, (n, 1))
    level_db = jax.random.uniform(
        k_level, (n, 1), minval=settings.background_min_db, maxval=settings.background_max_db
    )
    return audio + noise * jnp.sqrt(mean_power(audio, mask) * 10.0 ** (level_db / 10.0))


def random_noise(
    key: jax.Array, bank: Bank, palette: Palette, n: int, samples: int, settings: Augment
) -> jax.Array:
    """Return unit-power noise: coloured, babble of three clips, or a noise recording.

    Args:
        key: PRNG key.
        bank: All clips.
        palette: Noise to draw from.
        n: Batch size.
        samples: Length.
        settings: Shares of the kinds.
    """
    k_colour, k_talk, k_kind, k_clip, k_at = jax.random.split(key, 5)
    noise = random_colours(k_colour, palette.colours, n, samples)
    kind = jax.random.uniform(k_kind, (n, 1))
    talkers = jax.random.randint(k_talk, (_N_TALKERS * n,), 0, bank.length.shape[0])
    babble = _loop_windows(k_at, bank, talkers, samples).reshape(_N_TALKERS, n, samples)
    babble *= jax.lax.rsqrt(jnp.mean(jnp.square(babble), axis=2, keepdims=True) + 1e-8)
    noise = jnp.where(kind < settings.babble_probability, babble.sum(axis=0), noise)
    if palette.noise_clips.shape[0]:
        k_pick, k_from = jax.random.split(k_clip)
        pick = jax.random.randint(k_pick, (n,), 0, palette.noise_clips.shape[0])
        recorded = _loop_windows(k_from, bank, palette.noise_clips[pick], samples)
        noise = jnp.where(kind > 1.0 - settings.noise_clip_probability, recorded, noise)
    return noise * jax.lax.rsqrt(mean_power(noise) + _TINY)


def add_clicks(
    key: jax.Array, audio: jax.Array, sample_rate_hz: int, settings: Augment
) -> jax.Array:
    """Add one decaying burst of noise, 5 to 35 dB below the peak, to some examples."""
    n, samples = audio.shape
    k_on, k_at, k_length, k_level, k_noise = jax.random.split(key, 5)
    longest = round(settings.click_max_s * sample_rate_hz)
    decay_samples = jax.random.uniform(k_length, (n, 1), minval=2.0, maxval=longest / 3)
    burst = jnp.exp(-jnp.arange(longest) / decay_samples)
    burst *= jax.random.normal(k_noise, (n, longest))
    level_db = jax.random.uniform(k_level, (n, 1), minval=-35.0, maxval=-5.0)
    peak = jnp.max(jnp.abs(audio), axis=1, keepdims=True) * 10.0 ** (level_db / 20.0)
    burst *= peak * jax.random.bernoulli(k_on, settings.click_probability, (n, 1))
    first = jax.random.randint(k_at, (n, 1), 0, samples - longest)
    return audio.at[jnp.arange(n)[:, None], first + jnp.arange(longest)[None]].add(burst)


def _loop_windows(key: jax.Array, bank: Bank, clip: jax.Array, samples: int) -> jax.Array:
    """Read clips from random positions, going round at their ends: ``[batch, samples]``."""
    first = jax.random.randint(key, clip.shape, 0, bank.length[clip])
    at = (first[:, None] + jnp.arange(samples)[None]) % bank.length[clip][:, None]
    return bank.audio[bank.start[clip][:, None] + at].astype(jnp.float32) * (1.0 / 32768.0)


def make_windows(
    key: jax.Array,
    bank: Bank,
    clip: jax.Array,
    palette: Palette,
    *,
    window_samples: int,
    sample_rate_hz: int,
    n_classes: int,
    n_words: int,
    unknown: int | None,
    silence: int | None,
    settings: Augment,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Turn clip numbers into augmented windows with soft labels.

    Args:
        key: PRNG key.
        bank: All clips.
        clip: ``[batch]`` int, clip numbers.
        palette: Noise and rooms.
        window_samples: Length of the model's window.
        sample_rate_hz: The model's rate.
        n_classes: Number of classes.
        n_words: Number of different words.
        unknown: Class of cut words; None cuts none.
        silence: Class without a word, if there is one.
        settings: Strengths.

    Returns:
        ``(audio [batch, window_samples] float32 in [-1, 1], labels [batch, n_classes],
        words [batch, n_words])``; cut words have an all-zero row in ``words``.
    """
    n = clip.shape[0]
    keys = jax.random.split(key, 12)
    label = bank.label[clip]
    is_silence = jnp.zeros((n,), bool) if silence is None else label == silence
    cut_probability = 0.0 if unknown is None else settings.cut_probability
    cut = jax.random.bernoulli(keys[0], cut_probability, (n,)) & ~is_silence
    place = place_at_random(
        keys[1], bank.length[clip], bank.active[clip], window_samples, cut, settings
    )
    grain_samples = round(_GRAIN_S * sample_rate_hz) if settings.tempo_probability else 0
    audio = cut_windows(bank, clip, place, window_samples, grain_samples)
    mask = inside_clip(place, window_samples)
    audio = add_background(keys[11], audio, mask, palette.colours, settings)
    audio = add_clicks(keys[10], audio, sample_rate_hz, settings)
    audio = filter_and_reverberate(keys[2], audio, palette.rooms, sample_rate_hz, settings)

    noise = random_noise(keys[3], bank, palette, n, window_samples, settings)
    snr_db = jax.random.uniform(
        keys[4], (n,), minval=settings.snr_min_db, maxval=settings.snr_max_db
    )
    noisy = add_at_snr(audio, noise, snr_db, mask)
    level_dbfs = jax.random.uniform(
        keys[5], (n, 1), minval=settings.silence_min_dbfs, maxval=settings.silence_max_dbfs
    )
    # Babble is speech: where nothing is to be heard, noise is coloured noise only.
    calm = random_colours(keys[6], palette.colours, n, window_samples)
    calm *= 10.0 ** (level_dbfs / 20.0)
    noisy = jnp.where(is_silence[:, None], audio + calm, noisy)
    add = jax.random.bernoulli(keys[7], settings.noise_probability, (n, 1))
    audio = jnp.where(add, noisy, audio)

    labels = bank.targets[clip].astype(jnp.float32)
    if unknown is not None:
        labels = jnp.where(cut[:, None], jax.nn.one_hot(unknown, n_classes), labels)
    words = jax.nn.one_hot(bank.word[clip], n_words) * ~cut[:, None]
    k_share, k_on = jax.random.split(keys[8])
    share = jax.random.uniform(k_share, (n, 1), maxval=settings.mixup_max)
    share *= jax.random.bernoulli(k_on, settings.mixup_probability, (n, 1))
    audio = (1 - share) * audio + share * jnp.roll(audio, 1, axis=0)
    labels = (1 - share) * labels + share * jnp.roll(labels, 1, axis=0)
    words = (1 - share) * words + share * jnp.roll(words, 1, axis=0)

    gain_db = jax.random.uniform(
        keys[9], (n, 1), minval=settings.gain_min_db, maxval=settings.gain_max_db
    )
    return jnp.clip(audio * 10.0 ** (gain_db / 20.0), -1.0, 1.0), labels, words


def warp_mel_axis(mel: jax.Array, centres_hz: jax.Array, factor: jax.Array) -> jax.Array:
    """Stretch ``[batch, frames, n_mels]`` in frequency by ``factor`` ``[batch]``.

    References:
        Jaitly & Hinton, "Vocal Tract Length Perturbation (VTLP) improves speech recognition".
    """
    n_mels = centres_hz.shape[0]
    wanted_hz = jnp.clip(centres_hz[None] * factor[:, None], centres_hz[0], centres_hz[-1])
    # Position of each wanted frequency among the centres, as a matrix of hat functions.
    index = jax.vmap(lambda hz: jnp.interp(hz, centres_hz, jnp.arange(n_mels, dtype=mel.dtype)))
    hat = jnp.maximum(
        0.0, 1.0 - jnp.abs(index(wanted_hz)[:, None, :] - jnp.arange(n_mels)[:, None])
    )
    return jnp.einsum("bfm,bmn->bfn", mel, hat)


def mask_frames_and_mels(key: jax.Array, mel: jax.Array, settings: Augment) -> jax.Array:
    """Replace random bands and stretches of time by the example's mean (SpecAugment)."""
    n, frames, n_mels = mel.shape
    mean = mel.mean(axis=(1, 2), keepdims=True)
    hidden = jnp.zeros(mel.shape, bool)
    for i in range(settings.n_masks):
        k_band, k_time = jax.random.split(jax.random.fold_in(key, i))
        hidden |= _random_run(k_band, n, n_mels, settings.mask_mels)[:, None, :]
        hidden |= _random_run(k_time, n, frames, settings.mask_frames)[:, :, None]
    k_on = jax.random.fold_in(key, settings.n_masks)
    hidden &= jax.random.bernoulli(k_on, settings.mask_probability, (n, 1, 1))
    return jnp.where(hidden, mean, mel)


def _random_run(key: jax.Array, n: int, size: int, longest: int) -> jax.Array:
    """Return one random run of up to ``longest`` True per row, ``[n, size]``."""
    k_length, k_first = jax.random.split(key)
    length = jax.random.randint(k_length, (n, 1), 0, longest + 1)
    first = jax.random.randint(k_first, (n, 1), 0, size - length + 1)
    at = jnp.arange(size)[None]
    return (at >= first) & (at < first + length)


def augment_mel(
    key: jax.Array, mel: jax.Array, centres_hz: jax.Array, settings: Augment
) -> jax.Array:
    """Warp and mask log-mel frames ``[batch, frames, n_mels]``."""
    k_warp, k_mask = jax.random.split(key)
    factor = 1.0 + settings.warp_range * jax.random.uniform(
        k_warp, (mel.shape[0],), minval=-1.0, maxval=1.0
    )
    return mask_frames_and_mels(k_mask, warp_mel_axis(mel, centres_hz, factor), settings)
