"""PortAudio, the library under every sound device: loading, listing, opening, closing.

It is one per process and not thread-safe, so one lock guards it. Lessons built in: the list of
devices is frozen when PortAudio initialises, and renewing it ends every open stream, so that is
done only while none is open; closing a dead device can hang for ever, so it is done on a thread
of its own with a deadline, and the clean-up at exit is left out when something hangs.

`sounddevice` is imported only here and only on use: everything else works without PortAudio.
"""

import atexit
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from streamcls.capture.source import SourceLost
from streamcls.errors import SourceError

CLOSE_TIMEOUT_S = 2.0

INSTALL_HINT = (
    "the PortAudio library is not installed, so no sound device can be used; install it with "
    "`apt-get install libportaudio2` (Debian, Ubuntu), `dnf install portaudio` (Fedora) or "
    "`brew install portaudio` (macOS); file: and pipe: sources work without it"
)

_lock = threading.Lock()
_open_streams = 0
"""Guarded by the lock; counts streams whose close has not come back, too."""


@dataclass(frozen=True, slots=True)
class InputDevice:
    """A device that can record, as `streamcls devices` lists it."""

    index: int
    name: str
    host_api: str
    max_channels: int
    default_sample_rate_hz: int
    is_default: bool


def load_portaudio() -> ModuleType:
    """Import sounddevice, which loads and initialises PortAudio.

    Raises:
        SourceError: The library is missing, with the command that installs it.
    """
    try:
        import sounddevice
    except OSError as error:
        raise SourceError(INSTALL_HINT) from error
    # Its own clean-up at exit hangs for ever in a dead device; ours looks first.
    atexit.unregister(sounddevice._exit_handler)
    atexit.unregister(_terminate)
    atexit.register(_terminate)
    return sounddevice


def list_devices() -> list[InputDevice]:
    """Return the devices that can record, in PortAudio's order.

    Raises:
        SourceError: PortAudio is not installed or does not start.
    """
    sounddevice = load_portaudio()
    with _lock:
        return _query_devices(sounddevice)


def _query_devices(sounddevice: ModuleType) -> list[InputDevice]:
    try:
        infos = sounddevice.query_devices()
        host_apis = sounddevice.query_hostapis()
    except sounddevice.PortAudioError as error:
        raise SourceLost(f"PortAudio cannot list the sound devices: {error}") from error
    default_index = sounddevice.default.device[0]
    return [
        InputDevice(
            index=index,
            name=info["name"],
            host_api=host_apis[info["hostapi"]]["name"],
            max_channels=info["max_input_channels"],
            default_sample_rate_hz=round(info["default_samplerate"]),
            is_default=index == default_index,
        )
        for index, info in enumerate(infos)
        if info["max_input_channels"] > 0
    ]


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


def open_stream(name: str, rescan: bool, make: Callable[[ModuleType, InputDevice], Any]) -> Any:
    """Find a device, open a stream on it and start it.

    Args:
        name: See `find_device`.
        rescan: Look again what devices there are, if that disturbs nobody.
        make: Opens the stream; called with the sounddevice module and the device.

    Returns:
        What `make` returned, to be given to `close_stream`.

    Raises:
        SourceLost: There is no such device now, or it cannot be opened.
        SourceError: PortAudio is not installed.
    """
    global _open_streams
    sounddevice = load_portaudio()
    stream = None
    try:
        with _lock:
            if rescan and not _open_streams:
                sounddevice._terminate()
                sounddevice._initialize()
            device = find_device(name, _query_devices(sounddevice))
            stream = make(sounddevice, device)
            _open_streams += 1
        stream.start()
    except sounddevice.PortAudioError as error:
        if stream is not None:
            close_stream(stream)
        raise SourceLost(
            f"sound device {name!r} cannot be opened ({error}); is it unplugged, in use or limited "
            "to another sample_rate_hz or number of channels?"
        ) from error
    return stream


def close_stream(stream: Any) -> None:
    """Stop and close a stream; gives up waiting after `CLOSE_TIMEOUT_S`."""
    closer = threading.Thread(
        target=_close_stream, args=(stream,), name="close sound device", daemon=True
    )
    closer.start()
    closer.join(CLOSE_TIMEOUT_S)


def _close_stream(stream: Any) -> None:
    global _open_streams
    # abort, not stop: stop waits for a block that a stalled device never delivers.
    stream.abort(ignore_errors=True)
    stream.close(ignore_errors=True)
    with _lock:
        _open_streams -= 1


def _terminate() -> None:
    import sounddevice

    if not _open_streams and _lock.acquire(blocking=False):
        sounddevice._exit_handler()
