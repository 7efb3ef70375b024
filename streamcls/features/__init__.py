"""Audio to log-mel frames, in jnp: the same code trains and streams."""

from streamcls.features.cepstrum import mfcc
from streamcls.features.front_end import (
    FrontEnd,
    front_end_from_dict,
    initial_history,
    log_mel,
    stream_log_mel,
)
from streamcls.features.mel import mel_filter_bank

__all__ = [
    "FrontEnd",
    "front_end_from_dict",
    "initial_history",
    "log_mel",
    "mel_filter_bank",
    "mfcc",
    "stream_log_mel",
]
