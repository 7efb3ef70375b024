"""Streams of audio to predictions: compiled steps, slots and the thread that drives them."""

from streamcls.engine.compilation import (
    check_address_space,
    compiler_options,
    enable_compilation_cache,
)
from streamcls.engine.device import select_device
from streamcls.engine.engine import Engine
from streamcls.engine.executor import Executor, StepResult
from streamcls.engine.factory import build_executor, choose_hop_samples

__all__ = [
    "Engine",
    "Executor",
    "StepResult",
    "build_executor",
    "check_address_space",
    "choose_hop_samples",
    "compiler_options",
    "enable_compilation_cache",
    "select_device",
]
