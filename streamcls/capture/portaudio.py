"""PortAudio, the library under every sound device, kept in processes of their own.

Three of its habits make that worth a process for each stream: the devices it knows are those of
the moment it was initialised, and looking again ends every open stream of the process; opening or
closing a device that is stuck hangs for ever; and its callbacks would share Python's lock with
everything else in the daemon. A `RecorderProcess` starts in a tenth of a second, always knows the
present devices, and can be killed. See docs/decisions/0014-capture-processes.md.
"""

import contextlib
import fcntl
import json
import os
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from streamcls.capture import recorder
from streamcls.capture.source import SourceLost, wait_to_read
from streamcls.errors import SourceError

LIST_TIMEOUT_S = 10.0
KILL_TIMEOUT_S = 2.0
PIPE_BYTES = 1 << 20
"""Audio held for a feeder that is kept from running; then the recorder drops blocks, counted.
The most that Linux gives to everyone: 2.5 s of 48 kHz stereo."""
READ_BYTES = 1 << 16
MAX_BLOCK_BYTES = select.PIPE_BUF - recorder.HEADER.size
"""A larger block might be written to the pipe in part."""

INSTALL_HINT = (
    "the PortAudio library is not installed, so no sound device can be used; install it with "
    "`apt-get install libportaudio2` (Debian, Ubuntu), `dnf install portaudio` (Fedora) or "
    "`brew install portaudio` (macOS); file: and pipe: sources work without it"
)


@dataclass(frozen=True, slots=True)
class InputDevice:
    """A device that can record, as `streamcls devices` lists it."""

    index: int
    name: str
    host_api: str
    max_channels: int
    default_sample_rate_hz: int
    is_default: bool


class Record(NamedTuple):
    """A block as the callback took it."""

    called_ns: int
    """Monotonic time of the callback."""
    age_s: float
    """Of the first sample then, by PortAudio."""
    n_frames: int
    missed_frames: int
    """Lost in front of this block because the pipe was full."""
    overflowed: int
    """The driver reported a loss since the block before."""
    data: bytes


class RecorderProcess:
    """A `recorder` at work; belongs to the thread that made it.

    Raises:
        SourceLost: The machine cannot start a process now.
    """

    def __init__(self) -> None:
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", recorder.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # ALSA thinks aloud there
                bufsize=0,
            )
        except OSError as error:
            raise SourceLost(f"the recording process cannot be started: {error}") from error
        assert self._process.stdout is not None
        self._fd = self._process.stdout.fileno()
        with contextlib.suppress(OSError):  # the user has used up what is allowed: 64 KiB remain
            fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._received = bytearray()
        self._frame_bytes = 0

    def receive(self) -> dict[str, Any] | None:
        """Return the next message, or None when none came within `READ_WAIT_S`.

        Raises:
            SourceError: PortAudio is not installed.
            SourceLost: PortAudio or the recorder has failed.
        """
        end = self._received.find(b"\n")
        if end < 0:
            self._fill()
            end = self._received.find(b"\n")
        if end < 0:
            return None
        message: dict[str, Any] = json.loads(self._received[:end])
        del self._received[: end + 1]
        if "error" in message:
            if message["kind"] == "OSError":  # what sounddevice says when it finds no library
                raise SourceError(INSTALL_HINT)
            raise SourceLost(message["error"])
        return message

    def open(self, order: dict[str, Any]) -> None:
        """Ask for a device: the arguments of `sounddevice.RawInputStream`."""
        assert self._process.stdin is not None
        self._frame_bytes = order["channels"] * np.dtype(order["dtype"]).itemsize
        with contextlib.suppress(BrokenPipeError):  # it has died: `receive` will find that out
            self._process.stdin.write(json.dumps(order).encode() + b"\n")

    def read(self) -> Record | None:
        """Return the next block, or None when none came within `READ_WAIT_S`.

        Raises:
            SourceLost: The driver has ended the stream, or the recorder died.
        """
        return self._take_record() or (self._take_record() if self._fill() else None)

    def close(self) -> None:
        """Kill the process; one that the kernel cannot end now is left behind."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(KILL_TIMEOUT_S)

    def _take_record(self) -> Record | None:
        received, size = self._received, recorder.HEADER.size
        if len(received) < size:
            return None
        header = recorder.HEADER.unpack_from(received)
        end = size + header[2] * self._frame_bytes
        if end == size:  # no frames
            del received[:size]
            self.receive()
        if len(received) < end:
            return None
        data = bytes(received[size:end])
        del received[:end]
        return Record._make((*header, data))

    def _fill(self) -> bool:
        """Take what is there, waiting for it if need be; tell whether there was anything."""
        if not wait_to_read(self._fd):
            return False
        data = os.read(self._fd, READ_BYTES)
        if not data:
            raise SourceLost(self._explain_end())
        self._received += data
        return True

    def _explain_end(self) -> str:
        try:
            status = self._process.wait(KILL_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            status = None
        if status == 0:
            return "the sound server or driver ended the stream"
        return f"the recording process died (exit status {status})"


def list_devices(timeout_s: float = LIST_TIMEOUT_S) -> list[InputDevice]:
    """Return the devices that can record now, in PortAudio's order.

    Raises:
        SourceError: PortAudio is not installed.
        SourceLost: It does not answer in time, or fails.
    """
    return read_devices(_look(timeout_s))


def describe_portaudio() -> str:
    """Return PortAudio's name and version.

    Raises:
        SourceError: As `list_devices`.
    """
    return _look(LIST_TIMEOUT_S)["version"].partition(",")[0]


def _look(timeout_s: float) -> dict[str, Any]:
    """Return the first message of a recorder that opens nothing."""
    process = RecorderProcess()
    try:
        deadline_s = time.monotonic() + timeout_s
        while (message := process.receive()) is None:
            if time.monotonic() > deadline_s:
                raise SourceLost(explain_hang("list the sound devices", timeout_s))
        return message
    finally:
        process.close()


def read_devices(message: dict[str, Any]) -> list[InputDevice]:
    """Return the devices in a recorder's first message."""
    return [InputDevice(**device) for device in message["devices"]]


def explain_hang(what: str, waited_s: float) -> str:
    """Return what to say of PortAudio when it does not come back."""
    return (
        f"PortAudio cannot {what}: no answer for {waited_s:.0f} s; does the sound server or a "
        "driver hang? Restart it, or unplug the device that is stuck"
    )


def find_device(name: str, devices: list[InputDevice]) -> InputDevice:
    """Return the device meant by `name`.

    Args:
        name: Empty for the default device, an index, a name, or a part of exactly one name (case
            does not matter).
        devices: What there is.

    Raises:
        SourceLost: No device or several match; the message lists what there is.
    """
    if not name:
        matches = [d for d in devices if d.is_default]
        wanted = "default sound device"
    else:
        wanted = f"sound device {name!r}"
        low = name.casefold()
        matches = (
            [d for d in devices if d.name == name]
            or [d for d in devices if d.name.casefold() == low]
            or [d for d in devices if str(d.index) == name]
            or [d for d in devices if low in d.name.casefold()]
        )
    if len(matches) == 1:
        return matches[0]
    listing = "".join(f"\n  {d.index}: {d.name} ({d.host_api})" for d in matches or devices)
    if matches:
        raise SourceLost(f"{len(matches)} devices match {wanted}; name one of{listing}")
    if not devices:
        raise SourceLost(f"there is no {wanted}, nor any other that can record; plug one in")
    raise SourceLost(f"there is no {wanted} that can record; choose one of{listing}")
