"""From native blocks to mono at the model's rate, streaming.

Runs on the feeder's thread, between the source and the ring. Channel first, then rate, so that
only one channel is resampled.
"""

from typing import Literal

import numpy as np
import soxr

from streamcls.errors import SourceError
from streamcls.types import FloatArray

Channel = int | Literal["mix"]


def check_channel(channel: Channel, n_channels: int) -> None:
    """Refuse a channel that a source of ``n_channels`` does not have.

    Raises:
        SourceError: There is no such channel.
    """
    if channel != "mix" and not 0 <= channel < n_channels:
        there = "0" if n_channels == 1 else f"0 to {n_channels - 1}"
        raise SourceError(
            f"channel {channel} does not exist, the source is open with {n_channels}: choose "
            f'{there} or "mix", or ask a device for more: channels = {channel + 1}'
        )


def select_channel(samples: FloatArray, channel: Channel) -> FloatArray:
    """Return one channel, or the mean of all.

    Args:
        samples: ``[frames, channels]`` float32.
        channel: Index from 0, or ``mix``.

    Returns:
        ``[frames]`` float32, contiguous.

    Raises:
        SourceError: There is no such channel.
    """
    check_channel(channel, samples.shape[1])
    if channel == "mix":
        with np.errstate(invalid="ignore", over="ignore"):  # inf - inf: sanitised afterwards
            return samples.mean(axis=1, dtype=np.float32)
    return np.ascontiguousarray(samples[:, channel])


class Resampler:
    """Mono rate conversion in pieces; the pieces joined equal one conversion of the whole.

    Output sample ``k`` belongs to the instant of input sample ``k * rate_in / rate_out``
    counted from the start or the last `flush`: the filter's delay is already taken off.

    Args:
        rate_in_hz: Native rate.
        rate_out_hz: The model's rate.
    """

    def __init__(self, rate_in_hz: int, rate_out_hz: int) -> None:
        self.rate_in_hz = rate_in_hz
        self.rate_out_hz = rate_out_hz
        self._stream = (
            None
            if rate_in_hz == rate_out_hz
            else soxr.ResampleStream(rate_in_hz, rate_out_hz, 1, dtype="float32", quality="HQ")
        )

    def process(self, samples: FloatArray) -> FloatArray:
        """Return what is ready after ``[n]`` float32 input samples; may be empty."""
        if self._stream is None or samples.size == 0:
            return samples
        return self._stream.resample_chunk(samples)

    def flush(self) -> FloatArray:
        """Return the samples still inside and begin afresh (at a gap or at the end)."""
        if self._stream is None:
            return np.empty(0, np.float32)
        tail = self._stream.resample_chunk(np.empty(0, np.float32), last=True)
        self._stream.clear()
        return tail
