"""One audio file as mono int16 at the model's rate, and where in it something is heard."""

from pathlib import Path

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

from train.errors import DataError

AUDIO_SUFFIXES = frozenset(
    ".wav .flac .ogg .oga .opus .mp3 .aif .aiff .au .snd .caf .w64".split()  # noqa: SIM905
)
"""What counts as a clip where a folder is searched; all of it libsndfile reads."""
_ACTIVE_RANGE_DB = 28.0
_ACTIVE_MARGIN_S = 0.04
_ENERGY_FRAME_S = 0.01


def read_audio(path: Path) -> tuple[NDArray[np.float32], int]:
    """Read a file as it is.

    Returns:
        ``[samples, channels]`` float32 and the rate in Hz.

    Raises:
        DataError: If the file is missing, unreadable, empty or not finite.
    """
    try:
        audio, rate_hz = sf.read(path, dtype="float32", always_2d=True)
    except (OSError, sf.LibsndfileError) as error:
        raise DataError(
            f"cannot decode {path}: {error}; repair it or remove it from the manifest"
        ) from error
    if audio.size == 0 or not np.isfinite(audio).all():
        raise DataError(f"{path}: empty or with non-finite samples; remove it from the manifest")
    return np.asarray(audio, np.float32), rate_hz


def to_mono(audio: NDArray[np.float32], native_hz: int, sample_rate_hz: int) -> NDArray[np.int16]:
    """Mix ``[samples, channels]`` down to mono int16 at ``sample_rate_hz``."""
    mono = audio.mean(axis=1)
    if native_hz != sample_rate_hz:
        mono = soxr.resample(mono, native_hz, sample_rate_hz)
    return np.round(np.clip(mono, -1, 1) * 32767).astype(np.int16)


def decode_clip(path: Path, sample_rate_hz: int) -> NDArray[np.int16]:
    """Decode one file to mono int16 at ``sample_rate_hz``.

    Raises:
        DataError: If the file is missing, unreadable, empty or not finite.
    """
    audio, native_hz = read_audio(path)
    clip = to_mono(audio, native_hz, sample_rate_hz)
    if clip.size == 0:
        raise DataError(f"{path}: {len(audio)} samples are nothing at {sample_rate_hz} Hz")
    return clip


def find_active_span(audio: NDArray[np.int16], sample_rate_hz: int) -> tuple[int, int]:
    """Return where the clip is within 28 dB of its loudest 10 ms, with a small margin.

    A clip of steady noise is active from end to end; a word in a quiet room is cut close.
    """
    frame = max(1, round(_ENERGY_FRAME_S * sample_rate_hz))
    margin = round(_ACTIVE_MARGIN_S * sample_rate_hz)
    n_frames = -(-len(audio) // frame)
    padded = np.zeros(n_frames * frame, np.float64)
    padded[: len(audio)] = audio
    energy = np.square(padded).reshape(n_frames, frame).mean(axis=1)
    loud = np.flatnonzero(energy >= energy.max() * 10 ** (-_ACTIVE_RANGE_DB / 10))
    return (
        max(0, int(loud[0]) * frame - margin),
        min(len(audio), (int(loud[-1]) + 1) * frame + margin),
    )
