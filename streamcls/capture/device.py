"""A sound card, microphone or sound server as a source.

The device is opened and its callbacks run in a process of its own (see `portaudio`); the feeder's
thread reads that process's pipe in `DeviceSource.read`. PortAudio calls a stream "active" long
after its device has died, so the age of the last block decides whether the source is lost.
"""

import time
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np

from streamcls.capture.arrival import ArrivalClock
from streamcls.capture.portaudio import (
    MAX_BLOCK_BYTES,
    InputDevice,
    Record,
    RecorderProcess,
    explain_hang,
    find_device,
    list_devices,
    read_devices,
)
from streamcls.capture.source import SampleFormat, SourceLost
from streamcls.errors import SourceError
from streamcls.types import Block
from streamcls.units import NS_PER_S, ns_to_samples

BLOCK_S = 0.01
LATENCY_S = 0.1
"""Asked of the driver: room for a busy machine, small against a hop plus a window."""
ANSWER_TIMEOUT_S = 10.0
"""For PortAudio to look for devices, and again to open one; Bluetooth may take seconds."""
FIRST_BLOCK_TIMEOUT_S = 6.0
STALL_TIMEOUT_S = 3.0
AGES_SETTLE_S = 2.0
"""PulseAudio only guesses how old audio is when a stream begins; wrong by half a second."""
LOSS_S = 0.25
"""Audio that comes later than this by the count of frames, and no longer early again ..."""
LOSS_CONFIRM_S = 1.0
"""... for so long: frames are missing that no driver has reported."""
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
        self._process: RecorderProcess | None = None
        self._blocks: Iterator[Block | None] = iter(())

    def __str__(self) -> str:
        return f"device:{self.name}" if self.name else "device"

    def check(self) -> None:
        """Look whether the device is there and has the channels asked for."""
        self.channels = self._choose_channels(find_device(self.name, list_devices()))

    def open(self) -> None:
        """Start the process that will record; how that goes, `read` will tell."""
        self._process = RecorderProcess()
        self._blocks = self._record(self._process)

    def read(self) -> Block | None:
        """Return the next block; judges by its age whether the device is still alive."""
        return next(self._blocks)

    def close(self) -> None:
        """End the process, whatever it hangs in."""
        process, self._process = self._process, None
        if process is not None:
            process.close()

    def _record(self, process: RecorderProcess) -> Iterator[Block | None]:
        """Yield the blocks of one opening, and None when there was nothing for a while."""
        message = yield from self._await_message(process, "list the sound devices")
        device = find_device(self.name, read_devices(message))
        try:
            order = self._make_order(device)
        except SourceError as error:  # it had them when it was looked for, and may again
            raise SourceLost(str(error)) from error
        process.open(order)
        try:
            yield from self._await_message(process, f"open {device.name!r}")
        except SourceLost as error:
            raise SourceLost(
                f"sound device {device.name!r} cannot be opened ({error}); is it unplugged, in use "
                "or limited to another sample_rate_hz or number of channels?"
            ) from error
        self._frames = 0
        self._clock: ArrivalClock | None = None
        self._late_since_ns: int | None = None
        heard_s, limit_s = time.monotonic(), FIRST_BLOCK_TIMEOUT_S
        while True:
            try:
                record = process.read()
            except SourceLost as error:
                raise SourceLost(f"{self}: {error}") from error
            if record is not None:
                heard_s, limit_s = time.monotonic(), STALL_TIMEOUT_S
                yield self._make_block(record)
            elif (silent_s := time.monotonic() - heard_s) > limit_s:
                raise SourceLost(f"{self}: no audio for {silent_s:.1f} s (limit {limit_s:g} s)")
            else:
                yield None

    def _await_message(
        self, process: RecorderProcess, what: str
    ) -> Generator[None, None, dict[str, Any]]:
        deadline_s = time.monotonic() + ANSWER_TIMEOUT_S
        while (message := process.receive()) is None:
            if time.monotonic() > deadline_s:
                raise SourceLost(explain_hang(what, ANSWER_TIMEOUT_S))
            yield None
        return message

    def _make_order(self, device: InputDevice) -> dict[str, Any]:
        self.channels = self._choose_channels(device)
        self.sample_rate_hz = self._wanted_rate_hz or device.default_sample_rate_hz
        most_frames = MAX_BLOCK_BYTES // (self.channels * np.dtype(self._dtype).itemsize)
        return {
            "device": device.index,
            "samplerate": self.sample_rate_hz,
            "channels": self.channels,
            "blocksize": max(1, min(round(BLOCK_S * self.sample_rate_hz), most_frames)),
            "dtype": self._dtype,
            "latency": LATENCY_S,
        }

    def _make_block(self, record: Record) -> Block:
        samples = np.frombuffer(record.data, self._dtype).reshape(record.n_frames, self.channels)
        taken_ns = record.called_ns - self._find_age_ns(record)
        lost_frames = record.missed_frames
        self._frames += lost_frames
        hidden_frames = self._find_hidden_loss(record, taken_ns)
        if hidden_frames or self._clock is None:
            self._clock = ArrivalClock(self.sample_rate_hz)
            self._late_since_ns = None
        lost_frames += hidden_frames
        self._frames += hidden_frames
        self._clock.observe(self._frames, taken_ns)
        t_first_ns = self._clock.time_ns(self._frames)
        self._frames += record.n_frames
        xruns = int(record.overflowed or lost_frames > 0)
        return Block(samples, t_first_ns, lost_frames, xruns)

    def _find_age_ns(self, record: Record) -> int:
        """How old the first sample was in the callback: never younger than the block is long.

        The base of PortAudio's times varies, ages do not. Some drivers tell none, and some tell
        nonsense at times.
        """
        block_s = record.n_frames / self.sample_rate_hz
        is_settled = self._frames > AGES_SETTLE_S * self.sample_rate_hz
        age_s = max(block_s, min(record.age_s, LOSS_S)) if is_settled else block_s
        return round(age_s * NS_PER_S)

    def _find_hidden_loss(self, record: Record, taken_ns: int) -> int:
        """Return how many frames are missing in front of this block that nobody has counted.

        A driver that reports an overflow does not say how much it lost, and a sound server that
        was kept from running may not report it at all; the clock knows, to some milliseconds.
        """
        if self._clock is None:
            return 0
        late_ns = taken_ns - self._clock.time_ns(self._frames)
        if record.overflowed:
            return max(1, ns_to_samples(late_ns, self.sample_rate_hz))
        if late_ns < LOSS_S * NS_PER_S:
            self._late_since_ns = None
            return 0
        if self._late_since_ns is None:
            self._late_since_ns, self._least_late_ns = record.called_ns, late_ns
        self._least_late_ns = min(self._least_late_ns, late_ns)
        if record.called_ns - self._late_since_ns < LOSS_CONFIRM_S * NS_PER_S:
            return 0
        return ns_to_samples(self._least_late_ns, self.sample_rate_hz)

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
