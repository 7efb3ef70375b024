"""What a training shows of itself: a bar on a terminal, ``log.jsonl``, TensorBoard.

A number of a step is looked at when the device has gone on to the steps after it, so that looking
never makes the device wait. Only the leading process writes (`train.parallel.leads`).
"""

import json
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import optax
from tqdm import tqdm

from streamcls.atomic import write_whole
from train.parallel import leads
from train.recipes import Recipe
from train.step import Measures

LOG_FILE = "log.jsonl"
BOARD_FOLDER = "tensorboard"

_N_AHEAD = 2
"""Steps that the device is given before the first of them is waited for."""


@dataclass(frozen=True)
class Epoch:
    """A finished epoch."""

    number: int
    """From 1."""
    loss: float
    """Mean of its steps."""
    validation_accuracy: float | None
    """None without clips to validate on."""
    clips_per_s: float
    seconds: float


class Progress:
    """Shows one training, from whichever step it starts.

    Args:
        recipe: What is trained.
        schedule: Learning rate of a step.
        run: Folder of the log.
        first_step: Where it starts; what an earlier, killed process logged beyond is dropped.
        report: Receives one line per epoch.
        tensorboard: Write events to ``run/tensorboard`` too.
    """

    def __init__(
        self,
        recipe: Recipe,
        schedule: optax.Schedule,
        run: Path,
        first_step: int,
        report: Callable[[str], None],
        tensorboard: bool,
    ):
        self._recipe = recipe
        self._schedule = schedule
        self._report = report
        self._pending: deque[tuple[int, Measures]] = deque()
        self._log = run / LOG_FILE
        self._board = None
        if leads():
            _keep_epochs(self._log, first_step // recipe.steps_per_epoch)
            if tensorboard:
                from tensorboardX import SummaryWriter

                self._board = SummaryWriter(str(run / BOARD_FOLDER), purge_step=first_step)
        self._bar = tqdm(
            total=recipe.n_steps * recipe.batch_size,
            initial=first_step * recipe.batch_size,
            unit=" clips",
            unit_scale=True,
            dynamic_ncols=True,
            disable=not (leads() and sys.stderr.isatty()),
        )
        self._begin_epoch(first_step)

    def _begin_epoch(self, first_step: int) -> None:
        self._began_s = time.perf_counter()
        self._began_step = first_step
        epoch = min(first_step // self._recipe.steps_per_epoch + 1, self._recipe.epochs)
        self._bar.set_description(f"epoch {epoch}/{self._recipe.epochs}", refresh=False)

    def add_step(self, step: int, measures: Measures) -> None:
        """Take note of a step that was started; shows one started earlier, once it is done."""
        self._pending.append((step, measures))
        if len(self._pending) > _N_AHEAD:
            self._show_oldest()

    def _show_oldest(self) -> None:
        step, measures = self._pending.popleft()
        # Waits for this step: what bounds the work that is queued on the device.
        loss = float(measures.loss)
        self._bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        self._bar.update(self._recipe.batch_size)
        if self._board is not None:
            self._board.add_scalar("train/loss", loss, step)
            norm = float(measures.gradient_norm)
            self._board.add_scalar("train/gradient_norm", norm, step)
            self._board.add_scalar("train/learning_rate", np.asarray(self._schedule(step)), step)

    def finish_steps(self, next_step: int) -> tuple[float, float]:
        """Wait for all steps; return (clips per second, seconds) since the epoch began here."""
        while self._pending:
            self._show_oldest()
        seconds = time.perf_counter() - self._began_s
        return (next_step - self._began_step) * self._recipe.batch_size / seconds, seconds

    def add_epoch(self, epoch: Epoch) -> None:
        """Log and report a finished epoch."""
        accuracy = epoch.validation_accuracy
        step = epoch.number * self._recipe.steps_per_epoch
        if leads():
            line = {
                "epoch": epoch.number,
                "loss": round(epoch.loss, 4),
                "validation_accuracy": None if accuracy is None else round(accuracy, 4),
                "clips_per_s": round(epoch.clips_per_s),
                "seconds": round(epoch.seconds, 1),
            }
            with self._log.open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
        if self._board is not None:
            self._board.add_scalar("train/clips_per_s", epoch.clips_per_s, step)
            if accuracy is not None:
                self._board.add_scalar("validation/accuracy", accuracy, step)
            self._board.flush()
        validated = "" if accuracy is None else f"  validation {accuracy:6.2%}"
        with self._bar.external_write_mode():
            self._report(
                f"epoch {epoch.number:3d}/{self._recipe.epochs}  loss {epoch.loss:.3f}{validated}  "
                f"{epoch.clips_per_s:.0f} clips/s"
            )
        self._begin_epoch(step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()
        if self._board is not None:
            self._board.close()


def _keep_epochs(log: Path, n: int) -> None:
    """Drop lines of a log after epoch ``n``, and one that was cut short."""
    lines = log.read_bytes().splitlines(keepends=True) if log.exists() else []
    write_whole(log, b"".join(lines[:n]))
