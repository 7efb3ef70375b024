"""Labelled clips: a folder in any known layout -> manifest rows -> decoded once -> one array.

First stage of training: ``layouts`` says what a folder holds, ``decode`` and ``cache`` turn its
files into one memory map, ``clips`` joins data sets into the array that training draws from, and
``check`` tells what is wrong with a data set before anything is trained on it.
"""

from train.data.clips import (
    Clips,
    Relabel,
    Source,
    Spelling,
    Task,
    centre_in_windows,
    join_clips,
    keep_label,
    lay_end_to_end,
    load_clips,
    spread_windows,
    window_starts,
)
from train.data.decode import decode_clip, find_active_span
from train.data.manifest import ManifestRow, read_manifest, write_manifest

__all__ = [
    "Clips",
    "ManifestRow",
    "Relabel",
    "Source",
    "Spelling",
    "Task",
    "centre_in_windows",
    "decode_clip",
    "find_active_span",
    "join_clips",
    "keep_label",
    "lay_end_to_end",
    "load_clips",
    "read_manifest",
    "spread_windows",
    "window_starts",
    "write_manifest",
]
