"""Capture: every way audio gets in, and the thread that carries it to the ring."""

from streamcls.capture.factory import parse_source
from streamcls.capture.feeder import Feeder
from streamcls.capture.file import FileSource
from streamcls.capture.pacer import Pacer
from streamcls.capture.portaudio import InputDevice, list_devices
from streamcls.capture.remote import RemoteSource
from streamcls.capture.resample import Channel, check_channel
from streamcls.capture.source import EndOfStream, Source, SourceLost, SourceOptions
from streamcls.capture.url import hide_credentials

__all__ = [
    "Channel",
    "EndOfStream",
    "Feeder",
    "FileSource",
    "InputDevice",
    "Pacer",
    "RemoteSource",
    "Source",
    "SourceLost",
    "SourceOptions",
    "check_channel",
    "hide_credentials",
    "list_devices",
    "parse_source",
]
