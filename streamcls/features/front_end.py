"""Log-mel front end: one description and one implementation for training and streaming.

A frame looks back only: frame ``i`` covers samples ``[i*hop, i*hop + frame_samples)``; nothing is
centred, padded or normalised over the clip. So a stream needs no more memory than the last
``frame_samples - hop_samples`` samples, and any chunking gives the frames of the whole signal.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from streamcls.errors import ModelError
from streamcls.features.mel import MelBand, MelScale, mel_filter_bank, split_bank
from streamcls.products import MOST_INPUTS, multiply_blocks
from streamcls.units import frames_to_samples

HIGHEST_RATE_HZ = 384_000


@dataclass(frozen=True, slots=True)
class FrontEnd:
    """Settings of the log-mel front end; hashable, stored in every checkpoint.

    Raises:
        ModelError: If the settings contradict each other.
    """

    sample_rate_hz: int = 16_000
    frame_samples: int = 400
    """Length of the (periodic Hann) analysis window."""
    hop_samples: int = 160
    n_fft: int = 512
    """FFT length; the frame is zero-padded to it."""
    n_mels: int = 40
    fmin_hz: float = 60.0
    fmax_hz: float = 7_600.0
    log_offset: float = 3e-6
    """Added to the mel power before the logarithm: the floor of what the model can hear (about
    -62 dBFS of white noise). Much lower, and a float32 spectrum of full-scale sound would differ
    from a float64 one by more than 1e-4 after the logarithm."""
    power: float = 2.0
    """Exponent of the magnitude: 2 for power, 1 for magnitude."""
    mel_scale: MelScale = "slaney"
    mel_unit_area: bool = True

    def __post_init__(self) -> None:
        for name in ("sample_rate_hz", "frame_samples", "hop_samples", "n_fft", "n_mels"):
            if getattr(self, name) <= 0:
                raise ModelError(f"front end: {name} = {getattr(self, name)}, must be positive")
        if self.sample_rate_hz > HIGHEST_RATE_HZ:
            raise ModelError(
                f"front end: sample_rate_hz = {self.sample_rate_hz}, the limit is {HIGHEST_RATE_HZ}"
            )
        # Else the logarithm of silence, or of the loudest there is, is no number.
        if not 1e-30 <= self.log_offset <= 1e30:
            raise ModelError(f"front end: log_offset = {self.log_offset:g}, must be 1e-30 to 1e30")
        if not 0 < self.power <= 4:
            raise ModelError(f"front end: power = {self.power:g}, must be above 0, at most 4")
        if not self.hop_samples <= self.frame_samples <= self.n_fft:
            raise ModelError(
                f"front end: need hop_samples <= frame_samples <= n_fft, got "
                f"{self.hop_samples}, {self.frame_samples}, {self.n_fft}"
            )
        if not 0 <= self.fmin_hz < self.fmax_hz <= self.sample_rate_hz / 2:
            raise ModelError(
                f"front end: need 0 <= fmin_hz < fmax_hz <= {self.sample_rate_hz / 2:g} "
                f"(half the sample rate), got {self.fmin_hz:g} and {self.fmax_hz:g}"
            )

    @property
    def history_samples(self) -> int:
        """Samples of the past that the next frame still needs."""
        return self.frame_samples - self.hop_samples

    def samples_for(self, frames: int) -> int:
        """Return how many samples ``frames`` frames cover."""
        return frames_to_samples(frames, self.hop_samples, self.frame_samples)


@lru_cache(maxsize=16)
def _constants(front_end: FrontEnd) -> tuple[NDArray[np.float32], list[MelBand]]:
    """Return the Hann window ``[frame_samples]`` and the mel filters."""
    phase = 2 * np.pi * np.arange(front_end.frame_samples) / front_end.frame_samples
    hann = (0.5 - 0.5 * np.cos(phase)).astype(np.float32)
    bank = mel_filter_bank(
        front_end.sample_rate_hz,
        front_end.n_fft,
        front_end.n_mels,
        front_end.fmin_hz,
        front_end.fmax_hz,
        front_end.mel_scale,
        front_end.mel_unit_area,
    )
    return hann, split_bank(bank, MOST_INPUTS)


def _windowed_frames(audio: jax.Array, front_end: FrontEnd) -> jax.Array:
    """Cut ``[batch, samples]`` into frames times window ``[batch, frames, n_fft]``, zeros behind.

    Put together from hop-sized slices, because a gather is several times slower on the CPU.
    """
    hop, frame = front_end.hop_samples, front_end.frame_samples
    hann, _ = _constants(front_end)
    n_frames = 1 + (audio.shape[1] - frame) // hop
    pieces, start = [], 0
    for stop in range(frame % hop or hop, frame + 1, hop):
        chunks = audio[:, start : start + n_frames * hop].reshape(audio.shape[0], n_frames, hop)
        pieces.append(chunks[:, :, : stop - start] * hann[start:stop])
        start = stop
    behind = front_end.n_fft - frame
    pieces.append(jnp.zeros((audio.shape[0], n_frames, behind), jnp.float32))
    return jnp.concatenate(pieces, axis=-1)


def log_mel(audio: jax.Array, front_end: FrontEnd) -> jax.Array:
    """Compute log-mel frames of a whole signal.

    Args:
        audio: ``[batch, samples]`` float32 in [-1, 1] at ``front_end.sample_rate_hz``.
        front_end: The settings (static under ``jit``).

    Returns:
        ``[batch, frames, n_mels]`` float32, natural logarithm, with
        ``frames = 1 + (samples - frame_samples) // hop_samples``.

    Raises:
        ModelError: If the audio is shorter than one frame.

    Example:
        >>> import jax.numpy as jnp
        >>> log_mel(jnp.zeros((2, 16_000)), FrontEnd()).shape
        (2, 98, 40)

    References:
        ``librosa.feature.melspectrogram(..., center=False)``, which this equals.
    """
    if audio.shape[1] < front_end.frame_samples:
        raise ModelError(
            f"audio has {audio.shape[1]} samples, a frame needs {front_end.frame_samples}"
        )
    _, bands = _constants(front_end)
    spectrum = jnp.fft.rfft(_windowed_frames(audio, front_end))
    # Each band to the end: the logarithm of what is put together already takes longer.
    return jnp.concatenate([_log_band(spectrum, band, front_end) for band in bands], axis=-1)


def _log_band(spectrum: jax.Array, band: MelBand, front_end: FrontEnd) -> jax.Array:
    heard = spectrum[..., band.bins]
    magnitude = jnp.square(heard.real) + jnp.square(heard.imag)
    if front_end.power != 2.0:
        magnitude = magnitude ** (front_end.power / 2)
    return jnp.log(multiply_blocks(magnitude, band.weights) + front_end.log_offset)


def initial_history(batch: int, front_end: FrontEnd) -> jax.Array:
    """Return the audio history of a stream that begins: silence ``[batch, history_samples]``."""
    return jnp.zeros((batch, front_end.history_samples), jnp.float32)


def stream_log_mel(
    audio: jax.Array, history: jax.Array, front_end: FrontEnd
) -> tuple[jax.Array, jax.Array]:
    """Compute the frames that new audio completes.

    Args:
        audio: ``[batch, samples]`` float32, ``samples`` a multiple of ``hop_samples``.
        history: ``[batch, history_samples]`` from the previous call.
        front_end: The settings (static under ``jit``).

    Returns:
        ``(frames [batch, samples // hop_samples, n_mels], next history)``. Until real audio has
        filled the history the first frames hear the silence before the stream.
    """
    if audio.shape[1] % front_end.hop_samples:
        raise ModelError(
            f"streamed audio of {audio.shape[1]} samples is no multiple of the "
            f"{front_end.hop_samples}-sample frame step"
        )
    joined = jnp.concatenate([history, audio], axis=1)
    frames = log_mel(joined, front_end)
    return frames, joined[:, joined.shape[1] - front_end.history_samples :]


def front_end_from_dict(settings: dict[str, Any]) -> FrontEnd:
    """Build a front end from checkpoint metadata, rejecting unknown keys by name."""
    known = set(FrontEnd.__dataclass_fields__)
    unknown = sorted(set(settings) - known)
    if unknown:
        raise ModelError(f"front end: unknown settings {unknown}; known are {sorted(known)}")
    return FrontEnd(**settings)
