"""Many devices, many processes, parts of batches, half precision, and what survives a kill."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

from tests.train.conftest import write_tree
from tests.train.test_loop import leaves, nothing, run_folder
from train.cli import main
from train.data import Clips
from train.errors import RunError
from train.loop import fit
from train.parallel import make_mesh
from train.recipes import Recipe
from train.state import start_state, take_apart
from train.step import Batch, differentiate, make_loss

EPOCHS, STEPS_PER_EPOCH = 2, 10
SETTINGS = (
    f"epochs={EPOCHS}",
    f"steps_per_epoch={STEPS_PER_EPOCH}",
    "batch_size=16",
    "model.width=0.5",
    "augment.reverb_max_s=0.1",
    # At the rate of the recipes rounding grows past what can be told from a mistake.
    "learning_rate=0.001",
)


class Runs:
    """Real ``python -m train fit`` processes on one tiny data set."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.data = write_tree(folder / "chirps", ("rise", "fall"), speakers=2, takes=3)
        self._cache = folder / "xla"
        self._whole: Path | None = None

    def start(self, name: str, *flags: str, devices: int = 1) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "train", "fit", "--data", str(self.data)]
        command += ["--work", str(self.folder / "work"), "--out", str(self.folder / name)]
        for setting in SETTINGS:
            command += ["--set", setting]
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(self._cache),
            # Most of such a short training is compiling.
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} "
            "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
        }
        return subprocess.Popen(
            [*command, *flags],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def whole(self) -> Path:
        """The run of one process with one device, from the first step to the last."""
        if self._whole is None:
            finish(self.start("whole"))
            self._whole = self.folder / "whole"
        return self._whole


def finish(*processes: subprocess.Popen[str]) -> list[str]:
    """Wait for processes that have to succeed; return what each said."""
    try:
        said = [process.communicate(timeout=200) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, error) in zip(processes, said, strict=True):
        assert process.returncode == 0, error
    return [out for out, _ in said]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


def weights(run: Path) -> dict[str, np.ndarray]:
    return load_file(run / "model.safetensors")


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


def test_killed_and_resumed_is_bit_for_bit_the_same(runs: Runs) -> None:
    expected = weights(runs.whole)
    process = runs.start("killed", "--save-every", "1")
    snapshots = runs.folder / "killed" / "snapshots"
    # The second epoch is under way: its log line, best weights and averages have to survive too.
    wanted = STEPS_PER_EPOCH + 3
    deadline = time.monotonic() + 200
    while not any(int(p.name) >= wanted for p in snapshots.glob("*") if p.name.isdigit()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (runs.folder / "killed" / "model.safetensors").exists()
    [said] = finish(runs.start("killed"))
    assert f"resuming after epoch 1/{EPOCHS}, step " in said
    resumed = weights(runs.folder / "killed")
    assert resumed.keys() == expected.keys()
    for name, array in resumed.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    assert losses(runs.folder / "killed") == losses(runs.whole)


def assert_near(run: Path, whole: Path) -> None:
    """Only the order of sums differs: float32 rounding, grown by twenty steps of AdamW.

    The losses are compared, not the weights: the shift of the first norm, say, is taken away again
    by the next, so its gradient is nothing but rounding, which AdamW makes as large as any other.
    """
    assert len(losses(whole)) == EPOCHS
    np.testing.assert_allclose(losses(run), losses(whole), atol=2e-3)


def test_two_devices_train_as_one(runs: Runs) -> None:
    finish(runs.start("devices", devices=2))
    assert_near(runs.folder / "devices", runs.whole)


def test_two_processes_train_as_one(runs: Runs) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
    flags = ("--coordinator", coordinator, "--processes", "2", "--save-every", "4", "--process")
    leader, other = finish(*(runs.start("both", *flags, str(i)) for i in range(2)))
    assert f"epoch   {EPOCHS}/{EPOCHS}" in leader
    assert "epoch" not in other
    assert_near(runs.folder / "both", runs.whole)


def test_wrong_processes_are_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    fit_digits = ["fit", "digits", "--coordinator", "127.0.0.1:1"]
    assert main(fit_digits) == 2
    assert "needs --processes N and --process I" in capsys.readouterr().err
    assert main([*fit_digits, "--processes", "2", "--process", "2"]) == 2
    assert "--process 2: must be 0 to 1" in capsys.readouterr().err


def test_batch_that_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "devices", lambda: [object()] * 3)
    with pytest.raises(RunError, match="16 examples at a time .* by 3 devices"):
        make_mesh(16)


def test_damaged_snapshot_gives_way_to_the_one_before(
    recipe: Recipe, clips: Clips, tmp_path: Path
) -> None:
    lines: list[str] = []
    run = run_folder(tmp_path, "run")
    _, *expected = fit(recipe, clips, nothing(clips), run, lines.append)
    newest = run / "snapshots" / str(recipe.n_steps)
    manifest = newest / "state" / "manifest.ocdbt"
    manifest.write_bytes(manifest.read_bytes()[:20])
    lines.clear()
    _, *again = fit(recipe, clips, nothing(clips), run, lines.append)
    assert f"the snapshot of step {recipe.n_steps} is damaged" in lines[0]
    assert lines[1] == "resuming after epoch 1/2"
    for ours, theirs in zip(leaves(again), leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert len(losses(run)) == 2
    for manifest in (run / "snapshots").glob("*/state/manifest.ocdbt"):
        manifest.unlink()
    with pytest.raises(RunError, match="no snapshot can be read"):
        fit(recipe, clips, nothing(clips), run, lines.append)


def random_batch(recipe: Recipe, frames: int, n: int, copies: int) -> Batch:
    """Return ``n`` random examples, each ``copies`` times side by side."""
    keys = jax.random.split(jax.random.key(1), 3)
    n_classes = len(recipe.labels)
    batch = Batch(
        jax.random.normal(keys[0], (n, frames, recipe.front_end.n_mels)),
        jax.nn.one_hot(jax.random.randint(keys[1], (n,), 0, n_classes), n_classes),
        jax.nn.one_hot(jax.random.randint(keys[2], (n,), 0, 3), 3),
    )
    return Batch(*(jnp.repeat(part, copies, axis=0) for part in batch))


def test_a_batch_in_parts_has_the_gradients_of_the_whole(recipe: Recipe) -> None:
    plain = replace(recipe, word_weight=0.0)
    network, params, stats = take_apart(plain)
    state = start_state(plain, network, params, stats, 3)
    # Every part holds a copy of each example, so that batch norms see the same in part and whole.
    batch = random_batch(plain, 81, n=8, copies=4)
    loss_of = make_loss(plain, network)
    given = (state.params, state.stats, batch, jax.random.key(0))
    loss, _, gradients = jax.jit(partial(differentiate, loss_of, 1))(*given)
    in_parts = jax.jit(partial(differentiate, loss_of, 4))(*given)
    assert in_parts[0] == pytest.approx(float(loss), rel=1e-5)
    for ours, theirs in zip(leaves(in_parts[2]), leaves(gradients), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_bfloat16_keeps_weights_in_float32(recipe: Recipe) -> None:
    network, params, stats = take_apart(recipe)
    state = start_state(recipe, network, params, stats, 3)
    batch = random_batch(recipe, 81, n=32, copies=1)
    given = (state.params, state.stats, batch, jax.random.key(0))
    full_loss = make_loss(recipe, network)
    half_loss = make_loss(replace(recipe, precision="bfloat16"), network)
    full, half = (
        jax.jit(partial(differentiate, loss_of, 1))(*given) for loss_of in (full_loss, half_loss)
    )
    assert {leaf.dtype for leaf in leaves(half)} == {np.dtype(np.float32)}
    assert half[0] != full[0]
    assert half[0] == pytest.approx(float(full[0]), rel=0.02)
    jaxpr = str(jax.make_jaxpr(half_loss)(*given))
    products = [line for line in jaxpr.splitlines() if "dot_general" in line]
    # All but the one of the word head.
    assert sum("bf16" in line for line in products) == len(products) - 1 > 5


def read_events(folder: Path) -> Iterator[Event]:
    """Read TensorBoard's records: length, its checksum, an event, its checksum."""
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def test_tensorboard_has_every_step(recipe: Recipe, clips: Clips, tmp_path: Path) -> None:
    run = run_folder(tmp_path, "run")
    parts = replace(recipe, accumulate_steps=2, precision="bfloat16")
    fit(parts, clips, clips, run, lambda _: None, tensorboard=True)
    found: dict[str, dict[int, float]] = {}
    for event in read_events(run / "tensorboard"):
        for value in event.summary.value:
            found.setdefault(value.tag, {})[event.step] = value.simple_value
    steps = range(1, recipe.n_steps + 1)
    for tag in ("train/loss", "train/learning_rate", "train/gradient_norm"):
        assert sorted(found[tag]) == list(steps)
    assert sorted(found["validation/accuracy"]) == [3, 6]
    assert sorted(found["train/clips_per_s"]) == [3, 6]
    first_epoch = [found["train/loss"][step] for step in (1, 2, 3)]
    assert losses(run)[0] == pytest.approx(np.mean(first_epoch), abs=1e-3)
