"""The wire: messages per second, latency, memory under stalled subscribers, recovery of losses.

The publisher and a producer share a process, as in the daemon; the subscribers are in others.
First paced (``--rate-hz`` messages a second), then flat out, as fast as the publisher encodes and
sends. Latency counts from handing a prediction over to having it decoded.

    python -m benchmarks.publish --curve
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from benchmarks.listeners import (
    ask,
    count_and_time,
    listen_and_recover,
    load_server_keys,
    make_keys,
    role_command,
    spawn,
)
from benchmarks.machine import describe_machine
from streamcls.bench import resident_bytes
from streamcls.publish.control import ControlServer
from streamcls.publish.journal import JournalLimits
from streamcls.publish.messages import Vocabulary
from streamcls.publish.methods import MethodTable
from streamcls.publish.publisher import SEND_QUEUE_MESSAGES, Publisher
from streamcls.publish.schema import encode
from streamcls.types import FloatArray, Prediction
from streamcls.units import NS_PER_S

LABELS = tuple(f"class {index}" for index in range(35))
SUBSCRIBERS_PER_PROCESS = 25
QUEUE_AHEAD = 256
"""How far the producer runs ahead of the publisher: enough to keep it busy, never a drop."""
SETTLE_S = 30.0
"""For the subscribers to empty their queues and hear a heartbeat, on a busy machine."""

SPEED_HEADER = """\
| transport | CURVE | subscribers | p50 ms | p99 ms | lost | sent/s | received/s, all | lost |
|---|---|---:|---:|---:|---:|---:|---:|---:|"""
STALL_HEADER = """\
| stalled | published | journal | RSS grew | of it journal | heard | recovered | lost | lost though kept |
|---:|---|---:|---:|---:|---:|---:|---:|---:|"""  # noqa: E501


@contextlib.contextmanager
def publisher_at(
    transport: str, folder: str, keys: str | None, **options: Any
) -> Iterator[Publisher]:
    """Serve predictions of 35 classes, the best ten in each message."""
    endpoint = "tcp://127.0.0.1:*" if transport == "tcp" else f"ipc://{folder}/publish"
    vocabulary = Vocabulary("bench", LABELS)
    with Publisher(endpoint, vocabulary, keys=load_server_keys(keys), **options) as publisher:
        yield publisher


class Producer:
    """Hands predictions to a publisher."""

    def __init__(self, publisher: Publisher):
        self._publisher = publisher
        scores = np.random.default_rng(0).dirichlet(np.ones(len(LABELS)))
        self._posterior: FloatArray = np.asarray(scores, np.float32)
        self.count = 0

    def put(self) -> None:
        """Publish one prediction that ends now."""
        now_ns = time.time_ns()
        self._publisher.publish_prediction(
            Prediction(
                stream="bench",
                epoch=0,
                sample_start=self.count * 1280,
                sample_end=self.count * 1280 + 16000,
                sample_rate_hz=16000,
                t_start_ns=now_ns - NS_PER_S,
                t_end_ns=now_ns,
                level_dbfs=-20.0,
                flags=(),
                probabilities=self._posterior,
            )
        )
        self.count += 1

    def pace(self, rate_hz: float, duration_s: float) -> None:
        """Publish evenly."""
        began_s = time.monotonic()
        for index in range(round(rate_hz * duration_s)):
            time.sleep(max(0.0, began_s + index / rate_hz - time.monotonic()))
            self.put()

    def flood(self, duration_s: float) -> tuple[int, float]:
        """Publish as fast as the publisher sends; return how many in how many seconds."""
        began, began_s = self.count, time.monotonic()
        while time.monotonic() < began_s + duration_s:
            self.put_many(QUEUE_AHEAD)
        self.settle(0)
        return self.count - began, time.monotonic() - began_s

    def put_many(self, count: int) -> None:
        """Publish ``count`` messages, without a drop on this side."""
        for _ in range(count):
            self.put()
        self.settle(QUEUE_AHEAD)

    def settle(self, queued: int) -> None:
        """Wait until at most ``queued`` messages wait."""
        while self._publisher.stats()["queued"] > queued:
            time.sleep(0.0005)


def measure_speed(
    transport: str, subscribers: int, keys: str | None, rate_hz: float, duration_s: float
) -> str:
    """Return a row: latency at a pace, then messages per second flat out.

    Raises:
        RuntimeError: A subscriber does not know of a message that it missed, or got one twice.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        publisher_at(transport, folder, keys) as publisher,
        contextlib.ExitStack() as stack,
    ):
        starts = range(0, subscribers, SUBSCRIBERS_PER_PROCESS)
        counts = [min(SUBSCRIBERS_PER_PROCESS, subscribers - start) for start in starts]
        parameters: dict[str, Any] = {"endpoint": publisher.endpoint, "keys": keys}
        processes = [
            stack.enter_context(spawn("count_and_time", subscribers=count, **parameters))
            for count in counts
        ]
        producer = Producer(publisher)
        producer.pace(rate_hz, duration_s)
        latencies_ms, paced_missed = collect(processes, producer.count * subscribers)
        sent, elapsed_s = producer.flood(duration_s)
        received, missed = collect(processes, sent * subscribers)
    p50_ms, p99_ms = np.percentile(latencies_ms, [50, 99])
    return (
        f"| {transport} | {'yes' if keys else 'no'} | {subscribers} | {p50_ms:.2f} | "
        f"{p99_ms:.2f} | {paced_missed} | {sent / elapsed_s:,.0f} | "
        f"{len(received) / elapsed_s:,.0f} | {missed / (sent * subscribers):.0%} |"
    )


def collect(processes: list[subprocess.Popen[str]], expected: int) -> tuple[list[float], int]:
    """Return latencies in ms and the number missed, when they add up to ``expected``.

    Raises:
        RuntimeError: They do not: a loss that nobody noticed, or a message that came twice.
    """
    latencies_ms: list[float] = []
    missed = 0
    give_up_at_s = time.monotonic() + SETTLE_S
    while len(latencies_ms) + missed < expected and time.monotonic() < give_up_at_s:
        time.sleep(0.5)
        for process in processes:
            heard = ask(process)
            latencies_ms += [latency_ns / 1e6 for latency_ns in heard["latencies_ns"]]
            missed += heard["missed"]
    if len(latencies_ms) + missed != expected:
        raise RuntimeError(f"of {expected}, {len(latencies_ms)} were heard and {missed} missed")
    return latencies_ms, missed


def measure_stall(stalled: int, messages: int, kept: int, keys: str | None) -> None:
    """Print a row: growth of memory while some subscribers are stopped, and what they missed.

    In a process of its own, so that memory freed by earlier measurements hides nothing.

    Raises:
        RuntimeError: A number was neither heard nor recovered nor reported, or came twice.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        publisher_at("tcp", folder, keys, journal=JournalLimits(messages=kept)) as publisher,
        ControlServer(
            "tcp://127.0.0.1:*", MethodTable(publisher.methods()), keys=load_server_keys(keys)
        ) as control,
        contextlib.ExitStack() as stack,
    ):
        addresses = {"endpoint": publisher.endpoint, "control": control.endpoint}
        parameters = {**addresses, "total": messages, "kept": kept, "keys": keys}
        processes = [
            stack.enter_context(spawn("listen_and_recover", **parameters)) for _ in range(stalled)
        ]
        for process in processes:
            os.kill(process.pid, signal.SIGSTOP)
        producer = Producer(publisher)
        before_bytes = resident_bytes(os.getpid())
        while producer.count < messages:
            producer.put_many(min(QUEUE_AHEAD, messages - producer.count))
        producer.settle(0)
        grown_mb = (resident_bytes(os.getpid()) - before_bytes) / 1e6
        journal_mb = publisher.stats()["journal_bytes"] / 1e6
        message_bytes = len(encode(publisher.snapshot()[-1]))
        for process in processes:
            os.kill(process.pid, signal.SIGCONT)
        counts = Counter[str]()
        for process in processes:
            assert process.stdout is not None
            counts.update(json.loads(process.stdout.readline()))
    accounted = counts["live"] + counts["recovered"] + counts["expired"]
    if (accounted, counts["steps in order"]) != (messages * stalled, counts["steps"]):
        raise RuntimeError(f"numbers were lost without a word, or came twice: {dict(counts)}")
    print(
        f"| {stalled} | {messages:,} of {message_bytes} bytes | {kept:,} | {grown_mb:.1f} MB | "
        f"{journal_mb:.1f} MB | {counts['live']:,} | {counts['recovered']:,} | "
        f"{counts['expired']:,} | {counts['lost though kept']} |"
    )


ROLES = {role.__name__: role for role in (count_and_time, listen_and_recover, measure_stall)}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--curve", action="store_true", help="measure encrypted sockets as well")
    parser.add_argument("--subscribers", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--rate-hz", type=float, default=200.0, help="paced messages a second")
    parser.add_argument("--duration-s", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--stalled", type=int, nargs="+", default=[0, 1, 10])
    parser.add_argument("--stall-messages", type=int, default=20_000)
    parser.add_argument("--role", nargs=2, help=argparse.SUPPRESS)  # of a process we start
    options = parser.parse_args()
    if options.role:
        role, parameters = options.role
        ROLES[role](**json.loads(parameters))
        return
    with tempfile.TemporaryDirectory() as folder:
        print_tables(options, make_keys(Path(folder) / "keys") if options.curve else None)


def print_tables(options: argparse.Namespace, encrypted: str | None) -> None:
    """Measure and print.

    Args:
        options: Of the command line.
        encrypted: Folder of keys for the encrypted measurements; None leaves them out.
    """
    machine = describe_machine("pyzmq", "msgspec")
    load = os.getloadavg()[0]
    print(f"{machine}; libzmq {zmq.zmq_version()}. Load average before: {load:.1f}.\n")
    print(
        f"Latency at {options.rate_hz:g} messages a second, then {options.duration_s:g} s flat "
        f"out. {len(LABELS)} classes, the best ten in each message, JSON.\n"
    )
    print(SPEED_HEADER, flush=True)
    for keys in (None, encrypted) if encrypted else (None,):
        for transport in ("ipc", "tcp"):
            for n in options.subscribers:
                row = measure_speed(transport, n, keys, options.rate_hz, options.duration_s)
                print(row, flush=True)
    print(
        "\nSubscribers stopped (SIGSTOP) while messages are published flat out, then continued; "
        f"tcp{', CURVE' if encrypted else ''}; at most {SEND_QUEUE_MESSAGES} messages queued for "
        "each; journal: messages kept of each sequence.\n"
    )
    print(STALL_HEADER, flush=True)
    for stalled in options.stalled:
        for kept in (1, JournalLimits().messages):
            parameters = {"stalled": stalled, "messages": options.stall_messages, "kept": kept}
            subprocess.run(role_command("measure_stall", **parameters, keys=encrypted), check=True)


if __name__ == "__main__":
    main()
