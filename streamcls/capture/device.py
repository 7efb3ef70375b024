"""A sound card, microphone or sound server as a source.

Two threads meet here. PortAudio's own thread runs the callback, which only copies a block into a
preallocated slot and counts what it could not take; the feeder's thread takes the slots out
again in `DeviceSource.read`. `queue.SimpleQueue` carries the slot numbers: its `put` never
blocks, and it never holds more than there are slots.

PortAudio calls a stream "active" long after its device has died, so the age of the last block
decides whether the source is lost.
"""

import queue
import threading
import time
from types import ModuleType
from typing import Any

import numpy as np

from streamcls.capture.portaudio import (
    InputDevice,
    close_stream,
    find_device,
    list_devices,
    open_stream,
)
from streamcls.capture.source import READ_WAIT_S, SampleFormat, SourceLost
from streamcls.errors import SourceError
from streamcls.types import Block
from streamcls.units import NS_PER_S, samples_to_ns

BLOCK_S = 0.01
BUFFER_S = 3.0
"""Native audio held for a feeder that is kept from running; then the callback drops blocks."""
LATENCY_S = 0.1
"""Asked of the driver: room for a busy machine, small against a hop plus a window."""
FIRST_BLOCK_TIMEOUT_S = 6.0
STALL_TIMEOUT_S = 3.0
MAX_PLAUSIBLE_AGE_S = 5.0
DEFAULT_CHANNELS = 2

DTYPES: dict[SampleFormat | None, str] = {None: "float32", "f32le": "float32", "s16le": "int16"}


class DeviceSource:
    """Blocks of 10 ms from a device.

    Args:
        name: See `find_device`.
        sample_rate_hz: Rate to open with; None takes the device's default.
        channels: Channels to open; None takes two, or one where there is only one.
        sample_format: ``f32le`` (default) or ``s16le``.
    """

    live = True
    finite = False

    def __init__(
        self,
        name: str = "",
        sample_rate_hz: int | None = None,
        channels: int | None = None,
        sample_format: SampleFormat | None = None,
    ) -> None:
        if sample_format not in DTYPES:
            raise SourceError(
                f"a sound device cannot be read as {sample_format}; choose f32le or s16le"
            )
        self.name = name
        self.sample_rate_hz = 0
        self.channels = 0
        self._wanted_rate_hz = sample_rate_hz
        self._wanted_channels = channels
        self._dtype = DTYPES[sample_format]
        self._stream: Any = None
        self._needs_rescan = False

    def __str__(self) -> str:
        return f"device:{self.name}" if self.name else "device"

    def check(self) -> None:
        """Look whether the device is there and has the channels asked for."""
        self._choose_channels(find_device(self.name, list_devices()))

    def open(self) -> None:
        """Open the device and start its callbacks."""
        rescan, self._needs_rescan = self._needs_rescan, True  # until a block has come
        self._stream = open_stream(self.name, rescan, self._make_stream)
        self._last_block_s = time.monotonic()

    def read(self) -> Block | None:
        """Return the next block; judges by its age whether the device is still alive."""
        try:
            slot = self._filled.get(timeout=READ_WAIT_S)
        except queue.Empty:
            self._check_alive()
            return None
        self._last_block_s = time.monotonic()
        self._needs_rescan = False
        self._seen_block = True
        n_frames = int(self._slot_frames[slot])
        samples = self._slots[slot, :n_frames].copy()
        t_first_ns = self._find_time_ns(slot, n_frames)
        missed_frames = int(self._slot_missed_frames[slot])
        overflowed = bool(self._slot_overflowed[slot])
        self._taken += 1  # from here on the callback may fill the slot again
        lost_frames = missed_frames
        if overflowed and self._expected_ns is not None:
            # The driver does not say how much it lost. The clock does, roughly; at least one.
            gap_ns = t_first_ns - self._expected_ns
            lost_frames += max(1, gap_ns * self.sample_rate_hz // NS_PER_S - missed_frames)
        self._expected_ns = t_first_ns + samples_to_ns(n_frames, self.sample_rate_hz)
        return Block(samples, t_first_ns, lost_frames, xruns=overflowed + (missed_frames > 0))

    def close(self) -> None:
        """Stop and close the stream; leaves a hanging one behind after a while."""
        stream, self._stream = self._stream, None
        if stream is not None:
            close_stream(stream)

    def _make_stream(self, sounddevice: ModuleType, device: InputDevice) -> Any:
        self.channels = self._choose_channels(device)
        self.sample_rate_hz = self._wanted_rate_hz or device.default_sample_rate_hz
        self._prepare()
        return sounddevice.InputStream(
            device=device.index,
            samplerate=self.sample_rate_hz,
            channels=self.channels,
            blocksize=self._block_frames,
            dtype=self._dtype,
            latency=LATENCY_S,
            callback=self._copy_block,
            finished_callback=self._finished.set,
        )

    def _prepare(self) -> None:
        self._block_frames = max(1, round(BLOCK_S * self.sample_rate_hz))
        n_slots = round(BUFFER_S / BLOCK_S)
        self._slots = np.zeros((n_slots, self._block_frames, self.channels), self._dtype)
        self._slot_frames = np.zeros(n_slots, np.int64)
        self._slot_called_ns = np.zeros(n_slots, np.int64)
        self._slot_age_s = np.zeros(n_slots, np.float64)
        self._slot_missed_frames = np.zeros(n_slots, np.int64)
        self._slot_overflowed = np.zeros(n_slots, np.bool_)
        self._filled: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._finished = threading.Event()
        self._put = 0  # written by the callback only
        self._missed_frames = 0  # written by the callback only
        self._overflow_missed = False  # written by the callback only
        self._taken = 0  # written by `read` only
        self._expected_ns: int | None = None
        self._seen_block = False

    def _copy_block(self, data: np.ndarray, n_frames: int, times: Any, status: Any) -> None:
        """PortAudio's callback: copy, note the time, count; nothing that can wait or fail."""
        n_slots = self._slots.shape[0]
        if self._put - self._taken >= n_slots:
            self._missed_frames += n_frames
            self._overflow_missed |= status.input_overflow
            return
        slot = self._put % n_slots
        self._slots[slot, :n_frames] = data
        self._slot_frames[slot] = n_frames
        self._slot_called_ns[slot] = time.monotonic_ns()
        self._slot_age_s[slot] = times.currentTime - times.inputBufferAdcTime
        self._slot_missed_frames[slot] = self._missed_frames
        self._slot_overflowed[slot] = status.input_overflow or self._overflow_missed
        self._missed_frames = 0
        self._overflow_missed = False
        self._put += 1
        self._filled.put(slot)

    def _find_time_ns(self, slot: int, n_frames: int) -> int:
        """Time of the slot's first sample; the base of PortAudio's times varies, ages do not."""
        block_s = n_frames / self.sample_rate_hz
        age_s = float(self._slot_age_s[slot])
        if not 0.0 <= age_s <= MAX_PLAUSIBLE_AGE_S:
            age_s = block_s  # no ADC time from this driver
        return int(self._slot_called_ns[slot]) - round(max(age_s, block_s) * NS_PER_S)

    def _check_alive(self) -> None:
        if self._finished.is_set():
            raise SourceLost(f"{self}: the sound server or driver ended the stream")
        silent_s = time.monotonic() - self._last_block_s
        limit_s = STALL_TIMEOUT_S if self._seen_block else FIRST_BLOCK_TIMEOUT_S
        if silent_s > limit_s:
            raise SourceLost(f"{self}: no audio for {silent_s:.1f} s (limit {limit_s:g} s)")

    def _choose_channels(self, device: InputDevice) -> int:
        wanted = self._wanted_channels
        if wanted is None:
            return min(device.max_channels, DEFAULT_CHANNELS)
        if not 1 <= wanted <= device.max_channels:
            raise SourceError(
                f"{device.name} has {device.max_channels} channels, not {wanted}; "
                f"set channels to at most {device.max_channels}"
            )
        return wanted
