"""Attack the sockets of a real publisher, control and ingest, and see whether anybody notices.

    python scripts/fuzz.py --requests 1000000

Malformed control requests, subscriptions and audio packets over ZeroMQ (on the open sockets, and
as a client with all rights on the encrypted ones), and plain garbage over TCP on every port. All
the while valid clients listen, control and send, on both sets. The target (`fuzz_target.py`) is a
process of its own; its memory is watched from outside.

Exit status 1 when it died, its memory grew, or a valid client was harmed. The seed makes the
attack repeatable, but for the network's timing.
"""

import argparse
import contextlib
import json
import os
import random
import socket as posix_socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import zmq

from streamcls.bench import resident_bytes
from streamcls.capture.packets import AudioPacket, Beat, End, encode_message
from streamcls.client import (
    ClientKeys,
    ControlClient,
    ControlTimeoutError,
    Gap,
    PredictionMessage,
    Subscriber,
)
from streamcls.errors import StreamclsError
from streamcls.publish.auth import secure_client
from streamcls.publish.key_files import Right
from streamcls.publish.keys import create_client, create_server

GROWTH_LIMIT_MIB = 32.0
WARM_UP_SHARE = 0.2
SILENCE_LIMIT_S = 5.0
BURST = 200
"""Attacks on one connection before another one is made."""

Attack = Callable[[random.Random], list[bytes]]

VALID_REQUESTS = (
    b'{"jsonrpc": "2.0", "method": "status", "id": 1}',
    b'{"jsonrpc": "2.0", "method": "snapshot", "params": {}, "id": "a"}',
    b'{"jsonrpc": "2.0", "method": "replay", "params": {"stream": "porch", "type": "prediction",'
    b' "from_seq": 0, "to_seq": 9}, "id": 3.5}',
    b'[{"jsonrpc": "2.0", "method": "status"}, {"jsonrpc": "2.0", "method": "methods", "id": 2}]',
)
VALID_PACKETS = (
    AudioPacket(
        stream="porch", session="0123456789abcdef", seq=7, codec="flac", sample_rate_hz=16000,
        sample_start=640, samples=640, t_start_ns=1_700_000_000_000_000_000,
    ),
    Beat(stream="porch", session="0123456789abcdef", sent_ns=1, host="h", state="live"),
    End(stream="porch", session="0123456789abcdef", next_seq=3, reason="over"),
)  # fmt: skip
ODD_VALUES: tuple[Any, ...] = (
    None, True, -1, 2**63, 2**100, 1e308, "", "\x00", "porch", "a" * 4000, [], {}, [[]], {"": {}},
)  # fmt: skip
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"%s" + bytes(32)


def mutate(data: bytes, dice: random.Random) -> bytes:
    """Return ``data`` with a few bytes changed, removed, repeated or moved."""
    buffer = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        start = dice.randrange(len(buffer) + 1)
        end = min(len(buffer), start + dice.randint(0, 8))
        match dice.randrange(4):
            case 0:
                buffer[start:end] = dice.randbytes(end - start)
            case 1:
                del buffer[start:end]
            case 2:
                buffer[start:start] = buffer[start:end] * dice.randint(1, 5)
            case _:
                buffer[start:start] = dice.randbytes(dice.randint(1, 8))
    return bytes(buffer)


def malformed_request(dice: random.Random) -> list[bytes]:
    """Return the frames of a control request as no client would send it."""
    valid = dice.choice(VALID_REQUESTS)
    kind = dice.randrange(1000)
    if kind < 500:
        return [mutate(valid, dice)]
    if kind < 650:
        request = msgspec.json.decode(VALID_REQUESTS[2])
        where = dice.choice((request, request["params"]))
        where[dice.choice((*where, "extra", ""))] = dice.choice(ODD_VALUES[:4] + ODD_VALUES[5:])
        return [json.dumps(request).encode()]
    if kind < 800:
        return [dice.randbytes(dice.randint(0, 300))]
    if kind < 900:
        opening = dice.choice((b"[", b'{"a":', b"[{}, "))
        return [opening * dice.randint(1, 5000)]
    if kind < 930:
        return [b"[" + b",".join([valid] * dice.randint(1, 200)) + b"]"]
    if kind < 998:
        return [dice.randbytes(dice.randint(0, 5)) for _ in range(dice.randint(2, 20))]
    return [dice.randbytes(70_000)]  # beyond the limit: libzmq hangs up


def malformed_packet(dice: random.Random) -> list[bytes]:
    """Return the frames of an audio message as no sender would send it."""
    message = dice.choice(VALID_PACKETS)
    kind = dice.randrange(1000)
    if kind < 100:
        return [dice.randbytes(dice.randint(0, 100)) for _ in range(dice.randint(1, 6))]
    if kind < 400:
        fields = msgspec.msgpack.decode(encode_message(message))
        fields[dice.choice(list(fields))] = dice.choice((*ODD_VALUES[:4], *ODD_VALUES[5:]))
        header = msgspec.msgpack.encode(fields)
    elif kind < 600:
        header = encode_message(message)  # as it should be, but of another session
    else:
        header = mutate(encode_message(message), dice)
    payload = b"fLaC" + dice.randbytes(dice.randint(0, 2000))
    if kind >= 998:
        payload = dice.randbytes(50_000)  # beyond the limit
    return [header, payload] if dice.random() < 0.7 else [header]


def odd_subscription(dice: random.Random) -> list[bytes]:
    """Return what a subscriber sends: topics nobody publishes, and what is no subscription."""
    topic = dice.choice((b"prediction/", b"event/porch/", b"", b"health/", dice.randbytes(4)))
    kind = dice.randrange(1000)
    if kind < 700:
        return [dice.choice((b"\x01", b"\x00")) + mutate(topic, dice)]
    if kind < 900:
        return [dice.randbytes(dice.randint(0, 200))]
    if kind < 998:
        return [dice.randbytes(dice.randint(0, 5)) for _ in range(dice.randint(2, 10))]
    return [b"\x01" + dice.randbytes(2000)]  # beyond the limit


def garbage(dice: random.Random) -> bytes:
    """Return bytes for a plain TCP connection; some of them begin like ZeroMQ."""
    mechanism = dice.choice((b"NULL", b"CURVE", b"PLAIN", b"?")).ljust(20, b"\0")
    begin = dice.choice((b"", b"GET / HTTP/1.1\r\n\r\n", GREETING % mechanism, b"\xff\0\0\0\0\0\0"))
    return begin + dice.randbytes(dice.randint(0, 400))


class ZmqAttacker:
    """Sends attacks to one endpoint, on a new connection every `BURST`."""

    def __init__(self, kind: int, attack: Attack, endpoint: str, keys: ClientKeys | None):
        self._kind, self._attack, self._endpoint, self._keys = kind, attack, endpoint, keys
        self._context = zmq.Context()
        self.replies = 0

    def strike(self, dice: random.Random) -> int:
        """Send one burst; return how many went out."""
        socket = self._context.socket(self._kind)
        socket.linger, socket.sndtimeo = 200, 2000
        # XSUB would hold back what it takes for a repeated subscription; and never wait.
        socket.sndhwm = 2 * BURST
        if self._keys is not None:
            secure_client(socket, self._keys)
        socket.connect(self._endpoint)
        sent = 0
        try:
            for sent in range(BURST):  # noqa: B007
                socket.send_multipart(self._attack(dice))
                self._take_replies(socket, 0)
            self._take_replies(socket, 20)  # let the last of them arrive
        except zmq.Again:
            pass
        finally:
            socket.close()
        return sent + 1

    def _take_replies(self, socket: zmq.Socket[bytes], wait_ms: int) -> None:
        while socket.poll(wait_ms):
            socket.recv_multipart()
            self.replies += self._kind == zmq.DEALER

    def close(self) -> None:
        """Give up what could not be sent."""
        self._context.destroy(linger=0)


class TcpAttacker:
    """Sends garbage to one port, each time on a new connection."""

    def __init__(self, endpoint: str):
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        self._address = (host, int(port))
        self._waiting: list[posix_socket.socket] = []

    def strike(self, dice: random.Random) -> int:
        """Make some connections; leave a few of them open, as a scanner would."""
        made = 0
        for _ in range(20):
            with contextlib.suppress(OSError):
                connection = posix_socket.create_connection(self._address, timeout=2)
                made += 1
                self._waiting.append(connection)
                connection.sendall(garbage(dice))
        while len(self._waiting) > dice.randint(0, 40):
            self._waiting.pop(0).close()
        return made

    def close(self) -> None:
        """Close all connections."""
        for connection in self._waiting:
            connection.close()


class Witness:
    """Valid clients of one set of sockets; notes whatever harms them."""

    def __init__(self, name: str, endpoints: dict[str, str], keys: ClientKeys | None):
        self.harm: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        self.slowest_s = 0.0
        self._name, self._endpoints, self._keys = name, endpoints, keys
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=one, name=f"{name} {one.__name__}", daemon=True)
            for one in (self._listen, self._control, self._send)
        ]

    def __enter__(self) -> "Witness":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _listen(self) -> None:
        with Subscriber(self._endpoints["publish"], keys=self._keys) as subscriber:
            while not self._stopping.is_set():
                try:
                    message = subscriber.receive(SILENCE_LIMIT_S)
                except TimeoutError:
                    self.harm["silence"] += 1
                    continue
                if isinstance(message, Gap):
                    self.harm["missed messages"] += message.missing
                elif isinstance(message, PredictionMessage):
                    self.seen["predictions"] += 1

    def _control(self) -> None:
        with ControlClient(self._endpoints["control"], keys=self._keys) as client:
            while not self._stopping.wait(0.2):
                began_s = time.monotonic()
                try:
                    client.call("status", timeout_s=SILENCE_LIMIT_S)
                    self.seen["answers"] += 1
                except (ControlTimeoutError, StreamclsError) as error:
                    self.harm[f"control: {error}"] += 1
                self.slowest_s = max(self.slowest_s, time.monotonic() - began_s)

    def _send(self) -> None:
        session, samples, seq = os.urandom(8).hex(), 640, 0
        with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
            socket.linger = 0
            if self._keys is not None:
                secure_client(socket, self._keys)
            socket.connect(self._endpoints["ingest"])
            while not self._stopping.wait(samples / 16_000):
                now_ns = time.time_ns()
                common: dict[str, Any] = {"stream": "porch", "session": session}
                if seq % 25 == 0:
                    socket.send(encode_message(Beat(**common, sent_ns=now_ns, state="live")))
                packet = AudioPacket(
                    **common, seq=seq, codec="s16", sample_rate_hz=16_000,
                    sample_start=seq * samples, samples=samples, t_start_ns=now_ns,
                )  # fmt: skip
                socket.send_multipart([encode_message(packet), bytes(2 * samples)])
                while socket.poll(0):
                    socket.recv()
                seq += 1
            self.seen["packets sent"] = seq


@contextlib.contextmanager
def start_target(folder: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, dict[str, str]]]]:
    """Yield the target's process and its endpoints."""
    command = [sys.executable, str(Path(__file__).with_name("fuzz_target.py")), str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


def resident_mib(pid: int) -> float:
    """Return the memory of a process; 0 when it is gone."""
    with contextlib.suppress(OSError):
        return resident_bytes(pid) / 2**20
    return 0.0


def make_attackers(
    endpoints: dict[str, dict[str, str]], keys: ClientKeys
) -> dict[str, list[ZmqAttacker | TcpAttacker]]:
    """Return the attackers by what they do; each group gets its share of the requests."""
    groups: dict[str, list[ZmqAttacker | TcpAttacker]] = {
        "control requests": [],
        "audio packets": [],
        "subscriptions": [],
        "tcp garbage": [],
    }
    for name, urls in endpoints.items():
        own = keys if name == "keys" else None
        for group, kind, attack, url in (
            ("control requests", zmq.DEALER, malformed_request, urls["control"]),
            ("audio packets", zmq.DEALER, malformed_packet, urls["ingest"]),
            ("subscriptions", zmq.XSUB, odd_subscription, urls["publish"]),
        ):
            groups[group].append(ZmqAttacker(kind, attack, url, own))
        groups["tcp garbage"] += [TcpAttacker(url) for url in urls.values()]
    return groups


SHARES = {"control requests": 0.5, "audio packets": 0.25, "subscriptions": 0.2, "tcp garbage": 0.05}


def attack(
    groups: dict[str, list[ZmqAttacker | TcpAttacker]],
    requests: int,
    dice: random.Random,
    pid: int,
) -> tuple[Counter[str], list[float]]:
    """Send all requests; return how many of each kind, and the target's memory over time."""
    done: Counter[str] = Counter()
    memory_mib: list[float] = []
    say_at_s = time.monotonic()
    while done.total() < requests:
        # Who is furthest behind its share strikes next.
        group = min(SHARES, key=lambda name: done[name] / SHARES[name])
        done[group] += dice.choice(groups[group]).strike(dice)
        memory_mib.append(resident_mib(pid))
        if memory_mib[-1] == 0.0:
            break
        if time.monotonic() >= say_at_s:
            print(f"{done.total():>9} of {requests}, target {memory_mib[-1]:.1f} MiB", flush=True)
            say_at_s = time.monotonic() + 10
    return done, memory_mib


def main() -> int:
    """Attack, and print what came of it."""
    parser = argparse.ArgumentParser(description="Fuzz the daemon's sockets.")
    parser.add_argument("--requests", type=int, default=20_000, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    dice = random.Random(arguments.seed)
    began_s = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "keys"
        create_server(folder)
        loaded = {}
        for name in ("attacker", "witness"):
            private, _ = create_client(folder, name, list(Right))
            loaded[name] = ClientKeys.load(private, folder / "server.pub")
        process, endpoints = stack.enter_context(start_target(folder))
        with contextlib.ExitStack() as inner:
            witnesses = [
                inner.enter_context(
                    Witness(name, urls, loaded["witness"] if name == "keys" else None)
                )
                for name, urls in endpoints.items()
            ]
            time.sleep(1.0)  # the valid sender takes the stream before others may
            groups = make_attackers(endpoints, loaded["attacker"])
            done, memory_mib = attack(groups, arguments.requests, dice, process.pid)
            for attacker in (one for group in groups.values() for one in group):
                attacker.close()
            replies = sum(getattr(one, "replies", 0) for group in groups.values() for one in group)
            time.sleep(2.0)
        memory_mib.append(resident_mib(process.pid))
        alive = process.poll() is None
        output = process.communicate("", timeout=30)[0] if alive else ""
    counters = json.loads(output) if output else {}
    print(f"\n{replies} attacks were answered, with an error or a refusal")
    return report(done, memory_mib, witnesses, counters, time.monotonic() - began_s)


def report(
    done: Counter[str],
    memory_mib: list[float],
    witnesses: list[Witness],
    counters: dict[str, Any],
    elapsed_s: float,
) -> int:
    """Print the result; return the exit status."""
    warm_mib = max(memory_mib[: max(1, round(len(memory_mib) * WARM_UP_SHARE))])
    peak_mib = max(memory_mib)
    failures = [f"{text} ({count})" for one in witnesses for text, count in one.harm.items()]
    if not counters:
        failures.append("the target died")
    if peak_mib - warm_mib > GROWTH_LIMIT_MIB:
        failures.append(f"memory grew by {peak_mib - warm_mib:.1f} MiB after the warm-up")
    print(f"{done.total()} attacks in {elapsed_s:.0f} s")
    for kind, count in done.items():
        print(f"  {kind:<17} {count:>8}")
    print(
        f"memory: {memory_mib[0]:.1f} MiB at first, {warm_mib:.1f} MiB after a fifth, "
        f"{peak_mib:.1f} MiB at most, {memory_mib[-1]:.1f} MiB at the end"
    )
    for witness, (name, stats) in zip(witnesses, counters.items(), strict=False):
        sender = stats["ingest"]["senders"]["porch"]
        lost = {key: sender[key] for key in ("missing_packets", "damaged_packets")}
        if any(lost.values()) or stats["publisher"]["dropped"]:
            failures.append(f"{name}: lost {lost}, dropped {stats['publisher']['dropped']}")
        print(
            f"{name}: {witness.seen['predictions']} predictions heard, "
            f"{sender['packets']} of {witness.seen['packets sent']} audio packets received, "
            f"{witness.seen['answers']} answers, slowest {1000 * witness.slowest_s:.0f} ms; "
            f"{stats['ingest']['malformed']} audio messages refused"
        )
        if not (witness.seen["predictions"] and witness.seen["answers"] and sender["packets"]):
            failures.append(f"{name}: a valid client was never served")
        for socket, connections in stats["connections"].items():
            if connections:
                print(f"  {socket}: {json.dumps(connections)}")
    print("\n".join(f"FAILED: {failure}" for failure in failures) or "nobody was harmed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
