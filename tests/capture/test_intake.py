"""What the intake makes of loud, quiet, silent and broken audio."""

import threading

import numpy as np
import pytest

from streamcls.capture.intake import LARGEST_SAMPLE, SILENCE_PEAK, Intake
from streamcls.ring import Ring
from streamcls.types import Block

RATE_HZ = 16_000


@pytest.mark.parametrize("n", [1, 2, 640, 641, 4000])
@pytest.mark.parametrize(
    ("sample", "is_silent", "is_bad"),
    [
        (0.0, True, False),
        (SILENCE_PEAK, True, False),
        (-SILENCE_PEAK * 1.001, False, False),
        (1.0, False, False),
        (-2.0, False, False),
        (-LARGEST_SAMPLE, False, False),
        (LARGEST_SAMPLE * 1.001, False, True),
        (3e38, False, True),
        (-np.inf, False, True),
        (np.nan, False, True),
    ],
)
@pytest.mark.parametrize("rest", [0.0, 0.9 * SILENCE_PEAK, 0.5])
def test_a_single_sample_decides(
    n: int, sample: float, is_silent: bool, is_bad: bool, rest: float
) -> None:
    ring = Ring(RATE_HZ, RATE_HZ)
    intake = Intake(ring, 0, threading.Event())
    intake.begin(RATE_HZ, can_wait=False)
    audio = np.full((n, 1), rest, np.float32)
    audio[n // 2] = sample
    intake.take(Block(audio, 0))
    is_silent &= rest <= SILENCE_PEAK or n == 1
    assert intake.silence_s == (n / RATE_HZ if is_silent else 0.0)
    assert intake.nonfinite_samples == is_bad
    out = np.empty(n, np.float32)
    hop = ring.read_hop(out)
    assert hop is not None
    assert hop.nonfinite == is_bad
    np.testing.assert_array_equal(out, np.where(is_bad & (audio != rest), 0.0, audio)[:, 0])


@pytest.mark.parametrize("n", [1, 2, 640, 641, 4000])
def test_all_of_it_just_silent_or_just_possible(n: int) -> None:
    intake = Intake(Ring(RATE_HZ, RATE_HZ), 0, threading.Event())
    intake.begin(RATE_HZ, can_wait=False)
    intake.take(Block(np.full((n, 1), SILENCE_PEAK, np.float32), 0))
    assert intake.silence_s == n / RATE_HZ
    intake.take(Block(np.full((n, 1), LARGEST_SAMPLE, np.float32), n * 62_500))
    assert intake.silence_s == 0.0
    assert intake.nonfinite_samples == 0
