"""What every audio source is to the capture thread: open, read blocks, close.

First stage of the flow. A source is owned by one feeder thread, which makes all the calls; what
happens on a driver's own thread stays inside the source's module.
"""

import select
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from streamcls.errors import SourceError
from streamcls.types import Block

READ_WAIT_S = 0.1
"""`Source.read` returns after at most about this long, so that a stream can be stopped."""

Pace = Literal["realtime", "fast"]
SampleFormat = Literal["s16le", "s24le", "s32le", "f32le"]


class EndOfStream(Exception):  # noqa: N818 - not an error, like StopIteration
    """A finite source was read to its end."""


class SourceLost(SourceError):  # noqa: N818 - names a state, as HealthState.LOST
    """The source does not work now but may come back (unplugged, server down): worth a retry.

    Any other `SourceError` is final.
    """


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How to read a source; None leaves the choice to the source.

    Attributes:
        pace: Files only: ``realtime`` like a microphone, or ``fast``.
        sample_rate_hz: Native rate; declared for a pipe, requested from a device.
        channels: Native channels; declared for a pipe, requested from a device.
        sample_format: Encoding of one sample; declared for a pipe, requested from a device.
    """

    pace: Pace = "realtime"
    sample_rate_hz: int | None = None
    channels: int | None = None
    sample_format: SampleFormat | None = None


class Source(Protocol):
    """One audio input, read in blocks of native rate and channels.

    Attributes:
        sample_rate_hz: Native rate, valid from the first block on.
        channels: Native channels, valid from the first block on; 0 until known.
        live: Audio is produced in real time and lost if nobody takes it.
        finite: There is an end to be expected.
    """

    sample_rate_hz: int
    channels: int
    live: bool
    finite: bool

    def check(self) -> None:
        """Look whether `open` would work now, without keeping anything open.

        Raises:
            SourceError: What is wrong, the limit and the remedy.
        """
        ...

    def open(self) -> None:
        """Begin to capture; what takes time may go on in `read`.

        Raises:
            SourceLost: It does not work now but may later.
            SourceError: It never will.
        """
        ...

    def read(self) -> Block | None:
        """Return the next block, or None when nothing came within about `READ_WAIT_S`.

        Raises:
            EndOfStream: Everything was read.
            SourceLost: The source broke away; close it and open it again.
            SourceError: The source broke for good.
        """
        ...

    def close(self) -> None:
        """Stop capturing; harmless when not open."""
        ...


@runtime_checkable
class PacedSource(Source, Protocol):
    """A source whose `read` never waits: it returns None until `wait_s` has passed."""

    def wait_s(self) -> float:
        """Return the seconds until there is something to read."""
        ...


def wait_to_read(fd: int) -> bool:
    """Wait up to `READ_WAIT_S` until a descriptor has something, be it its end; tell if it has.

    With poll: `select.select` refuses descriptors from 1024 on, and every file that is played and
    every subscriber takes one.
    """
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(READ_WAIT_S * 1000))
