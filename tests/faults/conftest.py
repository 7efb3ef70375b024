"""The launcher of the end-to-end tests, and audio that lasts."""

from pathlib import Path

import pytest

from tests.end_to_end.conftest import cache, launcher, model
from tests.end_to_end.test_daemon import write_noise

__all__ = ["cache", "launcher", "model"]


@pytest.fixture(scope="session")
def long_noise(tmp_path_factory) -> Path:
    return write_noise(tmp_path_factory.mktemp("noise") / "long.wav", 300.0)
