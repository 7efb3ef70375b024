"""Augmentation on the device: a batch of clip numbers becomes windows as a live stream has them.

Runs inside the compiled training step, before the daemon's own log-mel; nothing of it exists at
inference. Every random effect is drawn from the key it is given, so the same key gives the same
batch. Order: place and stretch a clip in the window, filter and reverberate it, add noise at a
random SNR, mix two examples, set the level; then, on log-mel frames, warp and mask.
"""

from train.augment.mel import augment_mel
from train.augment.palette import Palette, make_palette
from train.augment.settings import Augment
from train.augment.windows import make_windows

__all__ = ["Augment", "Palette", "augment_mel", "make_palette", "make_windows"]
