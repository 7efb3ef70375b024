"""One compiled executor for all tests of the engine; each test starts its streams fresh."""

from pathlib import Path

import pytest

from streamcls.checkpoint import Checkpoint, load_checkpoint
from streamcls.engine import Executor, build_executor, choose_hop_samples
from tests.models.checkpoints import save_seasoned


@pytest.fixture(scope="session")
def seasoned_path(tmp_path_factory) -> Path:
    return save_seasoned(tmp_path_factory.mktemp("checkpoint") / "seasoned.safetensors")


@pytest.fixture(scope="session")
def checkpoint(seasoned_path: Path) -> Checkpoint:
    return load_checkpoint(seasoned_path)


@pytest.fixture(scope="session")
def executor(seasoned_path: Path) -> Executor:
    own = load_checkpoint(seasoned_path)  # the executor folds its model
    executor = build_executor(own, choose_hop_samples(own, 80), max_streams=5)
    executor.warm_up()
    return executor
