"""The program that records one sound device: PortAudio in a process of its own.

Started by `RecorderProcess` (which has the reasons), once for each device stream, by its path and
with nothing but `sounddevice`, so that it records within a tenth of a second. On its standard
output it says, in this order:

1. one line of JSON: the devices that can record, as PortAudio finds them now, and its version;
2. when a line of JSON on standard input has named the one to open: ``{"opened": true}``;
3. blocks until the driver ends the stream: a `HEADER`, then the samples.

Instead of the first or second it may be ``{"error": ...}`` and the end; where a device opens but
does not start, that comes behind a header of no frames.

PortAudio's thread runs the callback, which copies its block into the pipe: one write that never
waits and is taken whole or not at all. The main thread sleeps. A third one leads the process out
the moment its parent is gone, even when PortAudio hangs.
"""

import json
import os
import queue
import signal
import struct
import sys
import threading
import time
from typing import Any

HEADER = struct.Struct("<qdIII")
"""Monotonic time of the callback (ns), age of the first sample by PortAudio (s), frames, frames
that found no room since the block before, and whether the driver reported an overflow since."""


def main() -> None:
    """Serve the parent on standard input and output."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # sent to the whole group; the parent decides
    out = os.dup(1)
    os.dup2(2, 1)  # libraries under PortAudio print what they like
    orders: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=follow_parent, args=(orders,), daemon=True).start()
    try:
        record(out, orders)
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent has to know
        say(out, error=str(error) or type(error).__name__, kind=type(error).__name__)
    os._exit(0)  # a regular end would wait for a dead device


def follow_parent(orders: "queue.SimpleQueue[dict[str, Any]]") -> None:
    """Pass on what the parent says, and leave with it."""
    for line in sys.stdin:
        orders.put(json.loads(line))
    os._exit(0)


def record(out: int, orders: "queue.SimpleQueue[dict[str, Any]]") -> None:
    """List the devices, open the one asked for and write its blocks until they end."""
    import sounddevice  # loads and initialises PortAudio, which looks for devices only now

    version = sounddevice.get_portaudio_version()[1]
    say(out, devices=list_devices(sounddevice), version=version)
    order = orders.get()
    finished = threading.Event()
    missed_frames, overflowed = 0, False

    def copy_block(data: Any, n_frames: int, times: Any, status: Any) -> None:
        nonlocal missed_frames, overflowed
        overflowed |= status.input_overflow
        age_s = times.currentTime - times.inputBufferAdcTime
        header = HEADER.pack(time.monotonic_ns(), age_s, n_frames, missed_frames, overflowed)
        try:
            os.writev(out, (header, data))
        except BlockingIOError:
            missed_frames += n_frames
        else:
            missed_frames, overflowed = 0, False

    stream = sounddevice.RawInputStream(
        callback=copy_block, finished_callback=finished.set, **order
    )
    say(out, opened=True)
    os.set_blocking(out, False)
    try:
        stream.start()
    except sounddevice.PortAudioError:
        os.write(out, HEADER.pack(0, 0.0, 0, 0, 0))
        raise
    finished.wait()


def list_devices(sounddevice: Any) -> list[dict[str, Any]]:
    """Return the devices that can record, in PortAudio's order."""
    host_apis = sounddevice.query_hostapis()
    default_index = sounddevice.default.device[0]
    return [
        {
            "index": index,
            "name": info["name"],
            "host_api": host_apis[info["hostapi"]]["name"],
            "max_channels": info["max_input_channels"],
            "default_sample_rate_hz": round(info["default_samplerate"]),
            "is_default": index == default_index,
        }
        for index, info in enumerate(sounddevice.query_devices())
        if info["max_input_channels"] > 0
    ]


def say(out: int, **message: Any) -> None:
    """Write a message as one line."""
    with os.fdopen(out, "wb", closefd=False) as stream:
        stream.write(json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main()
