"""The JavaScript subscriber, written from the specification alone, against the real daemon.

Between them stands a forwarder that loses chosen messages, as a full queue would.
"""

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import zmq

from tests.end_to_end.conftest import TIMEOUT_S, Launcher
from tests.end_to_end.test_examples import (
    EXAMPLES,
    daemon_arguments,
    lines_until,
    listening,
)

Lose = Callable[[str, int], bool]
"""Type and number of a message of stream ``mic`` -> it never arrives."""


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory) -> Path:
    """Install the pinned packages into a copy of the example."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("needs Node.js with npm")
    folder = tmp_path_factory.mktemp("node") / "node"
    shutil.copytree(EXAMPLES / "node", folder, ignore=shutil.ignore_patterns("node_modules"))
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip("npm ci did not finish within 120 s; no network?")
    if done.returncode != 0:
        pytest.skip(f"npm ci cannot run here: {done.stderr.strip()[-300:]}")
    return folder


@contextmanager
def forwarder(upstream: str, endpoint: str, lose: Lose) -> Iterator[list[tuple[str, int]]]:
    """Pass messages and subscriptions on; yields what was lost, as it grows."""
    lost: list[tuple[str, int]] = []
    context = zmq.Context()
    sub, pub = context.socket(zmq.XSUB), context.socket(zmq.XPUB)
    stop_reader, stop_writer = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    stop_reader.bind("inproc://stop")
    stop_writer.connect("inproc://stop")
    pub.bind(endpoint)
    sub.connect(upstream)

    def forward() -> None:
        poller = zmq.Poller()
        for socket in (sub, pub, stop_reader):
            poller.register(socket, zmq.POLLIN)
        while stop_reader not in (ready := dict(poller.poll())):
            if pub in ready:
                sub.send(pub.recv())
            if sub in ready:
                frames = sub.recv_multipart()
                message = json.loads(frames[1])
                if message["stream"] and lose(message["type"], message["seq"]):
                    lost.append((message["type"], message["seq"]))
                else:
                    pub.send_multipart(frames)

    thread = threading.Thread(target=forward)
    thread.start()
    try:
        yield lost
    finally:
        stop_writer.send(b"")
        thread.join(30)
        context.destroy(linger=0)


def sequence_of(lines: list[str], kind: str) -> list[int]:
    return [int(found[1]) for line in lines if (found := re.match(rf"{kind} mic (\d+): ", line))]


def test_what_is_lost_is_fetched_again_in_order(launcher: Launcher, model, node_folder) -> None:
    """Single numbers, long runs, and one that only the heartbeat tells of."""
    endpoint, control = f"ipc://{launcher.folder}/pub", f"ipc://{launcher.folder}/ctl"
    lossy = f"ipc://{launcher.folder}/lossy"

    def lose(kind: str, seq: int) -> bool:
        if kind == "prediction":
            return seq % 7 == 3 or 20 <= seq < 30
        if kind == "event":
            return seq % 3 == 1
        return seq == 1  # live: no other state follows until the end

    command = ["node", str(node_folder / "subscribe.mjs"), "--endpoint", lossy]
    with (
        forwarder(endpoint, lossy, lose) as lost,
        listening(*command, "--control", control) as node,
        launcher.run(*daemon_arguments(model)) as daemon,
    ):
        lines = lines_until(node, r"^prediction mic 45: ")
        assert sequence_of(lines, "health") == [0, 1]
        daemon.process.kill()
        lines += lines_until(node, "no heartbeat for 3 s: the daemon is gone")
    n = len(sequence_of(lines, "prediction"))
    assert sequence_of(lines, "prediction") == list(range(n))
    events = sequence_of(lines, "event")
    assert events == list(range(len(events)))
    assert len(events) > 3
    recovered = [line for line in lines if line.endswith(" (recovered)")]
    told = {(line.split()[0], int(line.split()[2].rstrip(":"))) for line in recovered}
    # What was lost last had no time to show.
    assert told == {one for one in lost if one[1] < len(sequence_of(lines, one[0]))}
    assert not [line for line in lines if line.startswith("missed")]
    assert len([line for line in lines if line.startswith("daemon start ")]) == 1


def test_without_replay_every_loss_is_named(launcher: Launcher, model, node_folder) -> None:
    endpoint, lossy = f"ipc://{launcher.folder}/pub", f"ipc://{launcher.folder}/lossy"

    def lose(kind: str, seq: int) -> bool:
        return kind == "prediction" and (seq == 4 or 10 <= seq < 15)

    command = ["node", str(node_folder / "subscribe.mjs"), "--endpoint", lossy, "--no-replay"]
    with (
        forwarder(endpoint, lossy, lose) as lost,
        listening(*command, "--stream", "mic", "--type", "prediction") as node,
        launcher.run(*daemon_arguments(model)) as daemon,
    ):
        lines = lines_until(node, r"^prediction mic 25: ")
        daemon.process.kill()
    # The last value may come twice: it is told again to whoever has just subscribed.
    assert list(dict.fromkeys(lost)) == [("prediction", seq) for seq in (4, 10, 11, 12, 13, 14)]
    missed = [line for line in lines if line.startswith("missed")]
    # A heartbeat may find the second hole while it grows.
    named = [re.match(r"missed prediction mic (\d+)-(\d+): nobody was asked$", m) for m in missed]
    numbers = [n for found in named if found for n in range(int(found[1]), int(found[2]) + 1)]
    assert numbers == [seq for _, seq in lost]
    assert all(named)
    heard = sequence_of(lines, "prediction")
    assert heard == [seq for seq in range(26) if ("prediction", seq) not in lost]


def test_a_restarted_daemon_is_followed(launcher: Launcher, model, node_folder) -> None:
    endpoint, control = f"ipc://{launcher.folder}/pub", f"ipc://{launcher.folder}/ctl"
    command = ["node", str(node_folder / "subscribe.mjs"), "--endpoint", endpoint]
    with listening(*command, "--control", control, "--type", "prediction") as node:
        lines: list[str] = []
        for _ in range(2):
            with launcher.run(*daemon_arguments(model)) as daemon:
                lines += lines_until(node, r"^prediction mic 3: ")
                daemon.process.kill()
                daemon.process.wait(TIMEOUT_S)
    starts = [line for line in lines if line.startswith("daemon start ")]
    assert len(set(starts)) == len(starts) == 2
    firsts = sequence_of(lines, "prediction")
    assert firsts[:4] == firsts[-4:] == [0, 1, 2, 3]
    assert not [line for line in lines if line.startswith("missed")]


def test_the_packages_are_pinned_and_come_from_the_public_registry() -> None:
    manifest = json.loads((EXAMPLES / "node" / "package.json").read_text())
    lock = json.loads((EXAMPLES / "node" / "package-lock.json").read_text())
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", v) for v in manifest["dependencies"].values())
    assert lock["packages"][""]["dependencies"] == manifest["dependencies"]
    packages = {name: one for name, one in lock["packages"].items() if name}
    assert "node_modules/zeromq" in packages
    for package in packages.values():
        assert package["integrity"].startswith("sha512-")
        host = urlsplit(package.get("resolved", "")).hostname
        assert host in (None, "registry.npmjs.org")
