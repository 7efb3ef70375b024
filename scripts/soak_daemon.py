"""A real daemon whose ``soak:`` streams play recordings as fast as they are taken, with faults.

Started by `soak`. A stream ``soak:SEED[:SECONDS]`` is one more kind of source: it strings
recordings together at random and injects lost samples, outages, NaN and infinity, silence, clipping
and DC. It counts what it delivers, and the counts are written at the end, to be held against the
daemon's.

    python -m scripts.soak_daemon CONFIG SUMMARY SOURCES [FOLDER ...]
"""

import dataclasses
import functools
import json
import random
import sys
import time
from pathlib import Path

import numpy as np
import soundfile
import soxr

from streamcls.capture import factory
from streamcls.capture.source import EndOfStream, SourceLost, SourceOptions
from streamcls.config import checks, load_config
from streamcls.daemon import run_daemon
from streamcls.logs import configure_logging
from streamcls.types import Block
from streamcls.units import samples_to_ns

RATE_HZ = 16_000
BLOCK_SAMPLES = 3_200
CLIPS_LIMIT = 400
FAULTS = ("lost", "outage", "nan", "infinity", "silence", "clipping", "dc")
FAULT_EVERY_S = 60.0


@dataclasses.dataclass
class Counts:
    """What one source did; samples at `RATE_HZ`."""

    delivered: int = 0
    lost: int = 0
    """Declared lost in front of a block."""
    away: int = 0
    """Passed by its clock while it was away; known once it is back."""
    nonfinite: int = 0
    faults: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(FAULTS, 0))


COUNTS: dict[str, Counts] = {}


class SoakSource:
    """Recordings in a random order with a fault about once a minute of audio; see the module."""

    live = False
    finite = True

    def __init__(self, seed: str, seconds: float, clips: list[np.ndarray]):
        self.sample_rate_hz = RATE_HZ
        self.channels = 1
        self._seed = seed
        self._random = random.Random(seed)
        self._clips = clips
        self._left = round(seconds * RATE_HZ)
        self._counts = COUNTS.setdefault(seed, Counts())
        self._t_ns = 0
        self._tail = np.empty(0, np.float32)
        self._fault_in = 0
        self._away = 0

    def __str__(self) -> str:
        return f"soak:{self._seed}"

    def check(self) -> None:
        """Always there."""

    def open(self) -> None:
        """Begin, or go on after an outage, as much later by our clock as it has lasted."""
        if self._t_ns == 0:
            self._t_ns = time.monotonic_ns()

    def read(self) -> Block:
        """Return the next block."""
        if self._left <= 0:
            raise EndOfStream
        lost, samples = 0, self._take(min(BLOCK_SAMPLES, self._left))
        self._fault_in -= samples.size
        if self._fault_in < 0:
            self._fault_in = round(self._random.expovariate(1 / FAULT_EVERY_S) * RATE_HZ)
            fault = self._random.choice(FAULTS)
            self._counts.faults[fault] += 1
            if fault == "outage":
                away = self._random.randint(1, 30 * RATE_HZ)
                self._away += away
                self._t_ns += samples_to_ns(away, RATE_HZ)
                raise SourceLost(f"soak:{self._seed} was unplugged")
            if fault == "lost":
                lost = self._random.randint(1, RATE_HZ)
                self._t_ns += samples_to_ns(lost, RATE_HZ)
            else:
                samples = _spoil(samples, fault)
                self._counts.nonfinite += int(np.count_nonzero(~np.isfinite(samples)))
        block = Block(samples.reshape(-1, 1), self._t_ns, lost_frames=lost)
        if self._counts.delivered:  # a stream begins with its first sample
            self._counts.away += self._away
            self._counts.lost += lost
        self._counts.delivered += samples.size
        self._away = 0
        self._left -= samples.size
        self._t_ns += samples_to_ns(samples.size, RATE_HZ)
        return block

    def close(self) -> None:
        """Nothing is held."""

    def _take(self, n: int) -> np.ndarray:
        while self._tail.size < n:
            self._tail = np.concatenate([self._tail, self._random.choice(self._clips)])
        taken, self._tail = self._tail[:n], self._tail[n:]
        return taken.copy()


def _spoil(samples: np.ndarray, fault: str) -> np.ndarray:
    match fault:
        case "nan":
            samples[samples.size // 3 : samples.size // 2] = np.nan
        case "infinity":
            samples[::7] = np.inf
        case "silence":
            samples[:] = 0.0
        case "clipping":
            samples = np.clip(samples * 1000, -1.0, 1.0)
        case "dc":
            samples += np.float32(0.8)
    return samples


def load_clips(folders: list[Path]) -> list[np.ndarray]:
    """Return recordings at `RATE_HZ`, evenly from all folders."""
    clips = []
    for folder in folders:
        paths = sorted(p for p in folder.rglob("*") if p.suffix in (".flac", ".ogg", ".wav"))
        for path in paths[:: max(1, len(paths) * len(folders) // CLIPS_LIMIT)]:
            audio, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
            clips.append(soxr.resample(audio[:, 0], rate_hz, RATE_HZ))
    return clips


def main() -> int:
    """Register the source and run the daemon."""
    config_path, summary_path, counts_path, *folders = map(Path, sys.argv[1:])
    clips = load_clips(folders)

    def make(rest: str, options: SourceOptions) -> SoakSource:
        del options
        seed, _, seconds = rest.partition(":")
        return SoakSource(seed, float(seconds or 1e9), clips)

    factory.SCHEMES["soak"] = ("soak:SEED[:SECONDS]", make)
    checks.SCHEMES = (*checks.SCHEMES, "soak")
    reread = functools.partial(load_config, config_path)
    config = reread()
    configure_logging(config.log.level)
    try:
        return run_daemon(config, summary_path, reread)
    finally:
        counts = {seed: dataclasses.asdict(one) for seed, one in COUNTS.items()}
        counts_path.write_text(json.dumps(counts))


if __name__ == "__main__":
    sys.exit(main())
