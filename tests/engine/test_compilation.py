"""Options of the compiler: another version of XLA may know only some, and not all suit all."""

import logging
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from streamcls.engine import compilation, compiler_options
from streamcls.engine.compilation import exhausts_compiler

COMPILE = """
import resource, sys
from pathlib import Path
from tests.models.checkpoints import save_seasoned
from streamcls.checkpoint import load_checkpoint
from streamcls.engine import build_executor, select_device
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
select_device("cpu", threads=1)
checkpoint = load_checkpoint(save_seasoned(Path(sys.argv[1]), "bc_resnet_1"))
build_executor(checkpoint, hop_samples=1280, max_streams=1).warm_up()
print("compiled")
"""


def test_an_option_that_is_gone_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    known = compiler_options()
    monkeypatch.setitem(compilation._CPU_OPTIONS, "xla_cpu_of_another_year", "1")
    compiler_options.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert compiler_options() == known
    compiler_options.cache_clear()
    assert "xla_cpu_of_another_year" in caplog.text


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs", "exhausts"),
    [(20, 16, 20, True), (11, 17, 28, True), (20, 16, 32, False), (8, 48, 16, False)],
)
def test_products_that_exhaust_the_compiler_are_found_wherever_they_are(
    rows: int, inputs: int, outputs: int, exhausts: bool
) -> None:
    @jax.jit
    def scan(x, weights):
        return jax.lax.scan(lambda total, one: (total, one @ weights), 0.0, x)[1]

    x, weights = jnp.zeros((3, rows, inputs)), jnp.zeros((inputs, outputs))
    assert exhausts_compiler(scan.trace(x, weights).jaxpr.jaxpr) == exhausts
    swapped = jax.jit(lambda x, weights: jnp.einsum("bri,io->bor", x, weights))
    assert exhausts_compiler(swapped.trace(x[:1], weights).jaxpr.jaxpr) == exhausts


def test_a_network_with_such_a_product_is_compiled(tmp_path) -> None:
    """In a process of its own: without care LLVM takes all memory that it can have."""
    command = [sys.executable, "-c", COMPILE, str(tmp_path / "model.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout == "compiled\n", done.stderr[-2000:]
