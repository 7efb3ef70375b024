"""Addresses of audio on the network: which there are, and how to show them without secrets."""

import re

NETWORK_SCHEMES = ("http", "https", "rtsp", "rtsps", "rtmp", "rtmps", "srt", "udp", "rtp")

_BROKEN = re.compile(
    r"""^(\w+://)[^/?#@]*:(?:
        (?!\d{1,5}[/?#])[^/?#@]*[/?#].*@  # no port
        | \d+[?#].*@                      # a port is followed by a path, as a rule
        | \d+/[^?#]*@[^@?#]*[/:.]         # could be a port, but a host seems to follow the @
    )""",
    re.DOTALL | re.VERBOSE,
)
"""A password with a sign in it that has to be written ``%2F``, ``%3F`` or ``%23``."""
_SECRETS = re.compile(r"^(\w+://)(?:[^/?#]*@)?([^?#]*)(\?.*)?(?:#.*)?$", re.DOTALL)


def hide_credentials(source: str) -> str:
    """Return a source as it may be logged: an address without user, password and query.

    Example:
        >>> hide_credentials("rtsp://me:secret@camera/live?token=1")
        'rtsp://camera/live?...'
        >>> hide_credentials("file:a?b.wav")
        'file:a?b.wav'
        >>> hide_credentials("rtsp://me:sec/ret@camera/live")
        'rtsp://...'
    """
    if broken := _BROKEN.match(source):
        return f"{broken[1]}..."
    match = _SECRETS.match(source)
    if match is None:
        return source
    return f"{match[1]}{match[2]}{'?...' if match[3] else ''}"
