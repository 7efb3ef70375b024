"""Subscribers in processes of their own, as `benchmarks.publish` needs them."""

import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zmq

from streamcls.client import ClientKeys, Gap, PredictionMessage, Subscriber
from streamcls.client.connection import connect
from streamcls.client.subscriber import RECEIVE_BUFFER_BYTES, RECEIVE_QUEUE_MESSAGES
from streamcls.inbox import Inbox
from streamcls.publish.key_files import Right
from streamcls.publish.keys import ServerKeys, create_client, create_server


def make_keys(folder: Path) -> str:
    """Make keys of a daemon and a client; return the folder."""
    create_server(folder)
    create_client(folder, "bench", list(Right))
    return str(folder)


def load_server_keys(keys: str | None) -> ServerKeys | None:
    """Return the daemon's keys in a folder; None for plain sockets."""
    return ServerKeys.load(keys) if keys else None


def load_client_keys(keys: str | None) -> ClientKeys | None:
    """Return the client's keys in a folder; None for plain sockets."""
    return ClientKeys.load(f"{keys}/bench.key", f"{keys}/server.pub") if keys else None


def role_command(role: str, **parameters: Any) -> list[str]:
    """Return the command line that runs a function as another process."""
    return [sys.executable, "-m", "benchmarks.publish", "--role", role, json.dumps(parameters)]


@contextlib.contextmanager
def spawn(role: str, **parameters: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a role as another process, and wait until it hears the publisher."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(role_command(role, **parameters), **pipes) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError(f"the process {role} did not start")
            yield process
        finally:
            process.kill()


def ask(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Return what a `count_and_time` process has heard since the last time."""
    assert process.stdin is not None
    assert process.stdout is not None
    print(file=process.stdin, flush=True)
    return json.loads(process.stdout.readline())


def count_and_time(endpoint: str, subscribers: int, keys: str | None) -> None:
    """Role of many subscribers: for each line of input print what came since the last one."""
    context = zmq.Context()
    poller = zmq.Poller()
    poller.register(sys.stdin.fileno(), zmq.POLLIN)
    inboxes: dict[Any, Inbox] = {}
    for _ in range(subscribers):
        socket = context.socket(zmq.SUB)
        socket.rcvhwm = RECEIVE_QUEUE_MESSAGES
        socket.rcvbuf = RECEIVE_BUFFER_BYTES
        connect(socket, endpoint, load_client_keys(keys))
        inbox = Inbox(types=["prediction"])
        for topic in inbox.topics():
            socket.subscribe(topic)
        poller.register(socket, zmq.POLLIN)
        inboxes[socket] = inbox
    unheard = set(inboxes)
    latencies_ns: list[int] = []
    missed_before = 0
    while True:
        for socket, _ in poller.poll():
            if socket not in inboxes:
                if not sys.stdin.readline():
                    return
                missed = sum(inbox.missed for inbox in inboxes.values()) - missed_before
                print(json.dumps({"latencies_ns": latencies_ns, "missed": missed}), flush=True)
                latencies_ns, missed_before = [], missed_before + missed
                continue
            for item in inboxes[socket].accept(socket.recv_multipart()[-1]):
                if isinstance(item, PredictionMessage):
                    latencies_ns.append(time.time_ns() - item.t_end_ns)
            if socket in unheard:
                unheard.discard(socket)
                if not unheard:
                    print("ready", flush=True)


def listen_and_recover(
    endpoint: str, control: str, total: int, kept: int, keys: str | None
) -> None:
    """Role of a subscriber that gets stopped: print what became of each of ``total`` numbers."""
    count = Counter[str]()
    with Subscriber(
        endpoint,
        types=["prediction", "heartbeat"],
        timeout_s=60,
        recover=True,
        control_endpoint=control,
        keys=load_client_keys(keys),
    ) as subscriber:
        next(subscriber)  # a heartbeat
        print("ready", flush=True)
        seq = -1
        while seq < total - 1:
            item = next(subscriber)
            if isinstance(item, Gap):
                first, last = item.first_missing_seq, item.last_missing_seq
                count[item.reason] += item.missing
                count["lost though kept"] += max(0, last + 1 - max(first, total - kept))
            elif isinstance(item, PredictionMessage):
                first = last = item.seq
                count["recovered" if item.recovered else "live"] += 1
            else:
                continue
            count["steps"] += 1
            count["steps in order"] += first == seq + 1
            seq = last
    print(json.dumps(count), flush=True)
