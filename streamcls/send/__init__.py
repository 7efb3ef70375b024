"""The sender: captures on one machine and ships the audio to the daemon on another.

A process of its own beside the daemon's flow. Imports neither JAX nor anything that does.
"""

from streamcls.send.program import run_send
from streamcls.send.sender import Sender, SendOptions

__all__ = ["SendOptions", "Sender", "run_send"]
