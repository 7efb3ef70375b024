"""Run a real daemon on hours of real audio with random faults, then balance its books.

    make soak HOURS=24 STREAMS=8 SEED=1

The audio is played as fast as the daemon takes it (`soak_daemon`: a source that also loses samples,
goes away, sends NaN, infinity, silence, clipping and DC). Meanwhile streams come and go over the
control socket, models and settings are reloaded, good ones and damaged ones, subscribers stall and
vanish, and garbage arrives on the sockets. HOURS counts audio of all streams together. The seed
makes the faults repeatable, but not their timing.

At the end every line of the ledger must balance; the exit status is 1 when one does not.
"""

import argparse
import contextlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import zmq
from flax import nnx

from streamcls.bench import resident_bytes
from streamcls.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from streamcls.client import ControlClient, ControlError, Gap, PredictionMessage, Subscriber
from streamcls.publish.schema import EventMessage, HealthMessage, HeartbeatMessage

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
DATA_SETS = ("esc10", "speech_commands", "fsdd")
RATE_HZ = 16_000
BLOCK_SAMPLES = 3_200
HOPS_MS = (80, 160)
ADDED_LIMIT = 6
ACTION_PAUSE_S = 1.0
GROWTH_LIMIT_MIB = 32.0
PATIENCE_S = 180.0


@dataclass
class Heard:
    """What the subscribers got, by stream."""

    received: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    last: dict[str, PredictionMessage] = field(default_factory=dict)
    holes: int = 0
    """Predictions that follow each other in `seq` and not in audio."""
    reloads_crossed: int = 0
    """Times that two predictions that follow each other came from different models."""
    onsets: set[str] = field(default_factory=set)
    offsets: Counter[str] = field(default_factory=Counter)
    event_gaps: int = 0
    states: Counter[str] = field(default_factory=Counter)
    heartbeat: HeartbeatMessage | None = None

    def take(self, message: Any) -> None:
        """Count one message or gap (in a listener's thread; each kind has one listener)."""
        match message:
            case Gap(type="prediction"):
                self.missed[message.stream] += message.missing
                self.last.pop(message.stream, None)
            case Gap():
                self.event_gaps += message.missing
            case PredictionMessage():
                self._follow(message)
            case EventMessage(state="onset"):
                self.onsets.add(message.id)
            case EventMessage(state="offset"):
                self.offsets[message.id] += 1
            case HealthMessage():
                self.states[message.state] += 1
            case HeartbeatMessage():
                self.heartbeat = message

    def _follow(self, message: PredictionMessage) -> None:
        self.received[message.stream] += 1
        before = self.last.get(message.stream)
        self.last[message.stream] = message
        if before is None or before.epoch != message.epoch or "padded" in message.flags:
            return
        step_ms = (message.sample_end - before.sample_end) * 1000 / RATE_HZ
        self.holes += step_ms not in HOPS_MS
        self.reloads_crossed += before.model != message.model


class Soak:
    """One run."""

    def __init__(self, hours: float, n_streams: int, seed: int, folder: Path):
        self.hours = hours
        self.n_streams = n_streams
        self.folder = folder
        self.random = random.Random(seed)
        self.heard = Heard()
        self.actions: Counter[str] = Counter()
        self.removed: dict[str, dict[str, Any]] = {}
        self.samples: list[tuple[float, float]] = []  # hours of audio, MiB resident
        self.problems: list[str] = []
        self._names = 0
        self._hop_ms = HOPS_MS[0]
        self._hostile: list[zmq.Socket[bytes]] = []
        self._context = zmq.Context()
        self.endpoint, self.control = f"ipc://{folder}/pub", f"ipc://{folder}/ctl"
        self.models = self._make_models()
        self.damaged = self._make_damaged()

    def _make_models(self) -> list[Path]:
        """Return the shipped model and one that differs from it in its weights."""
        checkpoint = load_checkpoint(find_checkpoint("commands"))
        own, other = self.folder / "a.safetensors", self.folder / "b.safetensors"
        own.write_bytes(checkpoint.path.read_bytes())
        model = checkpoint.model
        state = nnx.state(model, nnx.Param)
        nnx.update(model, nnx.map_state(lambda _, p: p.replace(np.asarray(p[...]) * 0.97), state))
        save_checkpoint(other, model, msgspec.structs.replace(checkpoint.header, name="other"))
        return [own, other]

    def _make_damaged(self) -> list[str]:
        whole = self.models[0].read_bytes()
        wrong = {
            "empty": b"",
            "truncated": whole[: len(whole) // 2],
            "garbage": self.random.randbytes(50_000),
            "header": whole[:8] + b"x" * 200 + whole[208:],
        }
        for name, content in wrong.items():
            (self.folder / f"{name}.safetensors").write_bytes(content)
        return [str(self.folder / f"{name}.safetensors") for name in wrong] + ["nonesuch"]

    def run(self) -> bool:
        """Run to the end; tell whether everything balances."""
        self._write_config()
        files = [self.folder / name for name in ("c.toml", "summary.json", "counts.json")]
        command = [sys.executable, "-m", "scripts.soak_daemon", *map(str, files)]
        command += [str(folder) for folder in data_folders()]
        log = (self.folder / "log").open("w")
        # The listeners are there first, and the daemon waits for them.
        with (
            Subscriber(self.endpoint, types=("prediction", "heartbeat")) as many,
            Subscriber(self.endpoint, types=("event", "health", "heartbeat")) as few,
            subprocess.Popen(command, cwd=ROOT, stderr=log) as process,
            ControlClient(self.control) as control,
        ):
            over = threading.Event()
            threads = [
                threading.Thread(target=self._listen, args=(one, process, over), daemon=True)
                for one in (many, few)
            ]
            for thread in threads:
                thread.start()
            began_s = time.monotonic()
            try:
                self._wait_until_it_runs(control, process)
                idle = measure(process.pid)
                self._torment(control, process)
                self._calm_down(control)
                calm = measure(process.pid)
            finally:
                process.send_signal(signal.SIGTERM)
                self.status = process.wait(60)
                for thread in threads:
                    thread.join(30)
            self.took_s = time.monotonic() - began_s
        self.lines = self._balance(idle, calm)
        return all(balances for *_, balances in self.lines) and not self.problems

    def _write_config(self) -> None:
        self._hop_ms = self.random.choice(HOPS_MS)
        threshold = self.random.choice((0.3, 0.5, 0.7))
        lines = [
            f'model = "{self.models[0]}"',
            f"inference.hop_ms = {self._hop_ms}",
            f"inference.max_streams = {self.n_streams + ADDED_LIMIT}",
            f'publish.endpoint = "{self.endpoint}"',
            f'publish.control = "{self.control}"',
            "publish.wait_for_subscriber_s = 60",
            f"events.onset_threshold = {threshold}",
            f"events.offset_threshold = {threshold / 2}",
            'log.level = "warning"',
        ]
        lines += [f'streams.base{i}.source = "soak:base{i}"' for i in range(self.n_streams)]
        (self.folder / "c.toml").write_text("\n".join(lines))

    def _listen(self, subscriber: Subscriber, process: Any, over: threading.Event) -> None:
        while True:
            try:
                self.heard.take(subscriber.receive(1.0))
            except TimeoutError:
                if process.poll() is not None:
                    return

    def _wait_until_it_runs(self, control: ControlClient, process: Any) -> None:
        give_up_s = time.monotonic() + PATIENCE_S
        while self.heard.states["live"] < self.n_streams:
            assert process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < give_up_s, "the daemon does not start"
            time.sleep(0.2)

    # -- what happens meanwhile ---------------------------------------------------------

    def _torment(self, control: ControlClient, process: Any) -> None:
        actions = [
            (self._add, 6),
            (self._remove, 5),
            (self._reload_model, 4),
            (self._reload_damaged, 2),
            (self._reload_configuration, 3),
            (self._set_thresholds, 3),
            (self._send_garbage, 4),
            (self._stall_subscriber, 2),
            (self._drop_subscribers, 2),
        ]
        functions, weights = zip(*actions, strict=True)
        self._process = process
        told_s = time.monotonic()
        while (hours := self._count_hours(control)) < self.hours:
            assert process.poll() is None, (self.folder / "log").read_text()
            self.samples.append((hours, resident_bytes(process.pid) / 2**20))
            action = self.random.choices(functions, weights)[0]
            self.actions[action.__name__.strip("_").replace("_", " ")] += 1
            action(control)
            time.sleep(ACTION_PAUSE_S)
            if time.monotonic() - told_s > 30:
                told_s = time.monotonic()
                print(f"{hours:.2f} h of audio, {self.samples[-1][1]:.0f} MiB", flush=True)

    def _count_hours(self, control: ControlClient) -> float:
        streams = control.call("streams.list", timeout_s=PATIENCE_S)
        present = sum(one["health"]["captured_samples"] for one in streams)
        gone = sum(one["captured_samples"] for one in self.removed.values())
        return (present + gone) / RATE_HZ / 3600

    def _added(self, control: ControlClient) -> list[str]:
        streams = control.call("streams.list", timeout_s=PATIENCE_S)
        return [one["stream"] for one in streams if one["stream"].startswith("added")]

    def _add(self, control: ControlClient) -> None:
        if len(self._added(control)) < ADDED_LIMIT:
            self._names += 1
            name = f"added{self._names}"
            seconds = self.random.choice((0.3, 20, 600, 1e9))
            params = {"stream": name, "source": f"soak:{name}:{seconds:g}"}
            control.call("streams.add", params, timeout_s=PATIENCE_S)

    def _remove(self, control: ControlClient) -> None:
        if added := self._added(control):
            name = self.random.choice(added)
            left = control.call("streams.remove", {"stream": name}, timeout_s=PATIENCE_S)
            self.removed[name] = left

    def _reload_model(self, control: ControlClient) -> None:
        model = str(self.random.choice(self.models))
        control.call("model.reload", {"model": model}, timeout_s=PATIENCE_S)

    def _reload_damaged(self, control: ControlClient) -> None:
        model = self.random.choice(self.damaged)
        with contextlib.suppress(ControlError):
            control.call("model.reload", {"model": model}, timeout_s=PATIENCE_S)
            self.problems.append(f"{model} was accepted as a model")

    def _reload_configuration(self, control: ControlClient) -> None:
        def done() -> int:
            return control.call("status", timeout_s=PATIENCE_S)["reload"]["done"]

        before = done()
        self._write_config()
        self._process.send_signal(signal.SIGHUP)
        give_up_s = time.monotonic() + PATIENCE_S
        while done() == before and time.monotonic() < give_up_s:
            time.sleep(0.2)
        if done() == before:
            self.problems.append("SIGHUP was without effect")

    def _set_thresholds(self, control: ControlClient) -> None:
        onset = self.random.uniform(0.2, 0.9)
        params = {"onset_threshold": onset, "offset_threshold": onset * 0.6}
        control.call("thresholds.set", params, timeout_s=PATIENCE_S)

    def _send_garbage(self, control: ControlClient) -> None:
        del control
        kinds = (zmq.DEALER, self.control), (zmq.SUB, self.endpoint), (zmq.PUSH, self.endpoint)
        kind, endpoint = self.random.choice(kinds)
        with self._context.socket(kind) as socket:
            socket.linger = 100
            socket.connect(endpoint)
            for _ in range(100):
                noise = self.random.randbytes(self.random.randint(0, 900))
                if kind == zmq.SUB:
                    socket.setsockopt(zmq.SUBSCRIBE, noise)
                else:
                    with contextlib.suppress(zmq.Again):
                        socket.send_multipart([noise, noise], zmq.NOBLOCK)

    def _stall_subscriber(self, control: ControlClient) -> None:
        """Subscribe to everything and never read."""
        del control
        if len(self._hostile) < 5:
            socket = self._context.socket(zmq.SUB)
            socket.rcvhwm = 1
            socket.linger = 0
            socket.subscribe("")
            socket.connect(self.endpoint)
            self._hostile.append(socket)

    def _drop_subscribers(self, control: ControlClient) -> None:
        del control
        while self._hostile:
            self._hostile.pop().close()

    def _calm_down(self, control: ControlClient) -> None:
        """Leave only what was there at the beginning."""
        self._drop_subscribers(control)
        while self._added(control):
            self._remove(control)
        time.sleep(5)

    # -- the books ----------------------------------------------------------------------

    def _balance(
        self, idle: dict[str, int], calm: dict[str, int]
    ) -> list[tuple[str, Any, Any, bool]]:
        """Return the lines of the ledger: what, one side, the other, whether they are equal."""
        summary = json.loads((self.folder / "summary.json").read_text())
        counts = json.loads((self.folder / "counts.json").read_text())
        streams = {**self.removed, **summary["streams"]}

        def total(key: str) -> int:
            return sum(one[key] for one in streams.values())

        def source(key: str) -> int:
            return sum(one[key] for one in counts.values())

        # What a source had handed over when its stream was stopped, and was not stored.
        in_hand = source("delivered") - total("captured_samples")
        self.in_hand = in_hand
        self.source_faults = Counter[str]()
        for one in counts.values():
            self.source_faults.update(one["faults"])
        for name, one in streams.items():
            there = counts[name]
            wanted = there["delivered"] + there["lost"] + there["away"]
            got = sum(one[f"{key}_samples"] for key in ("heard", "dropped", "waiting"))
            if not 0 <= wanted - got <= BLOCK_SAMPLES:
                self.problems.append(f"{name}: {wanted} samples in, {got} accounted for: {one}")
        self.audio_h = total("captured_samples") / RATE_HZ / 3600
        said = total("heard_samples") + total("dropped_samples") + total("waiting_samples")
        known = self.heard.heartbeat.last_seq if self.heard.heartbeat else {}
        sent = sum(seq + 1 for key, seq in known.items() if key.startswith("prediction/"))
        told = self.heard.received.total() + self.heard.missed.total()
        opened, closed = summary["events"]["opened"], summary["events"]["closed"]
        offsets = self.heard.offsets
        skipped = source("lost") + source("away")
        self.totals = {
            "samples delivered": source("delivered"),
            "declared lost by the sources": source("lost"),
            "passed while a source was away": source("away"),
            "classified": total("heard_samples"),
            "reported lost": total("dropped_samples"),
            "still in the ring when a stream was stopped": total("waiting_samples"),
            "in a source's hand when it was stopped": in_hand,
            "predictions received": self.heard.received.total(),
            "predictions missed (gaps in seq)": self.heard.missed.total(),
        }
        growth_mib, self.slope_mib_h = self._fit_memory()
        return [
            (
                "samples in = classified + reported lost + stopped with their stream",
                source("delivered") + skipped,
                said + in_hand,
                source("delivered") + skipped == said + in_hand
                and 0 <= in_hand <= len(streams) * BLOCK_SAMPLES,
            ),
            (
                "samples not finite = reported not finite",
                source("nonfinite"),
                total("nonfinite_samples"),
                source("nonfinite") == total("nonfinite_samples"),
            ),
            ("predictions sent = received + missed", sent, told, sent == told),
            (
                "predictions in sequence with a hole in the audio",
                self.heard.holes,
                0,
                self.heard.holes == 0,
            ),
            ("events opened = closed (daemon)", opened, closed, opened == closed),
            (
                "events opened = closed (subscriber)",
                len(self.heard.onsets),
                len(offsets),
                self.heard.onsets == set(offsets)
                and offsets.total() == len(offsets)
                and self.heard.event_gaps == 0,
            ),
            (
                "file descriptors, before and after",
                idle["fds"],
                calm["fds"],
                abs(calm["fds"] - idle["fds"]) <= 4,
            ),
            (
                "threads, before and after",
                idle["threads"],
                calm["threads"],
                abs(calm["threads"] - idle["threads"]) <= 2,
            ),
            (
                f"memory growth in MiB (limit {GROWTH_LIMIT_MIB:g})",
                f"{growth_mib:.1f}",
                f"{self.slope_mib_h:.2f} MiB/h of audio",
                growth_mib < GROWTH_LIMIT_MIB,
            ),
            ("exit status", self.status, 0, self.status == 0),
        ]

    def _fit_memory(self) -> tuple[float, float]:
        """Return growth over the second half of the run and the slope per hour of audio there."""
        half = self.samples[len(self.samples) // 2 :]
        hours, mib = np.array(half).T
        slope = float(np.polyfit(hours, mib, 1)[0]) if len(half) > 2 else 0.0
        return slope * float(hours[-1] - hours[0]), slope

    def report(self, command: str) -> str:
        """Return the ledger as Markdown."""
        speed = self.audio_h * 3600 / self.took_s
        rows = [
            f"| {what} | {one} | {other} | {'yes' if good else '**no**'} |"
            for what, one, other, good in self.lines
        ]
        actions = ", ".join(f"{n} x {name}" for name, n in sorted(self.actions.items()))
        faults = ", ".join(f"{n} x {name}" for name, n in sorted(self.source_faults.items()))
        totals = [f"| {name} | {value:,} |" for name, value in self.totals.items()]
        return "\n".join(
            [
                "# Soak",
                "",
                f"`{command}` on {os.cpu_count()} busy cores ({platform.machine()}):",
                f"{self.audio_h:.2f} hours of audio over {self.n_streams} permanent and "
                f"{self._names} passing streams in {self.took_s / 60:.1f} minutes, "
                f"{speed:.0f} times real time.",
                "",
                f"Faults in the audio: {faults}.",
                "",
                f"What happened meanwhile: {actions}. Predictions that followed each other across "
                f"a change of model: {self.heard.reloads_crossed}.",
                "",
                "| Ledger | | | balances |",
                "|---|---|---|---|",
                *rows,
                "",
                "| Totals | |",
                "|---|---|",
                *totals,
                *[f"\nPROBLEM: {problem}" for problem in self.problems],
                "",
            ]
        )


def data_folders() -> list[Path]:
    """Return the labelled recordings where they are at hand, else the bundled one."""
    found = [DATA / name for name in DATA_SETS if (DATA / name).is_dir()]
    return found or [ROOT / "streamcls" / "recordings"]


def measure(pid: int) -> dict[str, int]:
    """Return how many file descriptors and threads a process has."""
    return {
        "fds": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "threads": len(list(Path(f"/proc/{pid}/task").iterdir())),
    }


def main() -> int:
    """Run, print the report, write it where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=24.0, help="of audio, all streams together")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=Path, help="write the ledger here, too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        soak = Soak(arguments.hours, arguments.streams, arguments.seed, Path(folder))
        balances = soak.run()
        command = (
            f"make soak HOURS={arguments.hours:g} STREAMS={arguments.streams} SEED={arguments.seed}"
        )
        text = soak.report(command)
        print(text)
        if arguments.report:
            arguments.report.write_text(text)
        if not balances:
            print((Path(folder) / "log").read_text()[-4000:], file=sys.stderr)
    return 0 if balances else 1


if __name__ == "__main__":
    sys.exit(main())
