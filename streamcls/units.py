"""Conversions between samples, frames, milliseconds and nanoseconds; nowhere else.

*Sample* counts are at the model's rate unless a name says otherwise. A *frame* is one STFT
column: frame ``i`` of an un-centred STFT covers samples ``[i*hop, i*hop + frame)``.
"""

NS_PER_S = 1_000_000_000


def samples_to_ns(samples: int, sample_rate_hz: int) -> int:
    """Return the duration of ``samples`` in nanoseconds, rounded to nearest."""
    return (samples * NS_PER_S + sample_rate_hz // 2) // sample_rate_hz


def ns_to_samples(duration_ns: int, sample_rate_hz: int) -> int:
    """Return the number of samples in ``duration_ns``, rounded to nearest."""
    return (duration_ns * sample_rate_hz + NS_PER_S // 2) // NS_PER_S


def ms_to_samples(duration_ms: float, sample_rate_hz: int) -> int:
    """Return the number of samples in ``duration_ms``, rounded to nearest."""
    return round(duration_ms * sample_rate_hz / 1000)


def samples_to_ms(samples: int, sample_rate_hz: int) -> float:
    """Return the duration of ``samples`` in milliseconds."""
    return samples * 1000 / sample_rate_hz


def frames_to_samples(frames: int, hop_samples: int, frame_samples: int) -> int:
    """Return the samples that ``frames`` STFT columns cover (0 for no frames)."""
    return 0 if frames <= 0 else (frames - 1) * hop_samples + frame_samples


def samples_to_frames(samples: int, hop_samples: int, frame_samples: int) -> int:
    """Return the number of complete, un-centred STFT columns in ``samples``."""
    return 0 if samples < frame_samples else 1 + (samples - frame_samples) // hop_samples
