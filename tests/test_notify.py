"""sd_notify against a real datagram socket, as the service manager would hold it."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamcls.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A bound socket and the NOTIFY_SOCKET that names it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@streamcls-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.settimeout(5)
        bound.bind("\0" + name[1:] if name.startswith("@") else name)
        yield bound, name


def test_life_cycle_arrives_as_datagrams(manager: tuple[socket.socket, str]):
    bound, name = manager
    with Notifier({"NOTIFY_SOCKET": name}) as notifier:
        before_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        sent = [
            notifier.extend_start(600, "compiling"),
            notifier.ready("2 streams"),
            notifier.watchdog(),
            notifier.status("11.9 windows/s"),
            notifier.reloading(),
            notifier.stopping(),
        ]
    received = [bound.recv(4096).decode() for _ in sent]
    assert sent == [True] * 6
    reloading = received.pop(4)
    assert received == [
        "EXTEND_TIMEOUT_USEC=600000000\nSTATUS=compiling",
        "READY=1\nSTATUS=2 streams",
        "WATCHDOG=1",
        "STATUS=11.9 windows/s",
        "STOPPING=1",
    ]
    assert reloading.startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert int(reloading.rpartition("=")[2]) >= before_us


def test_status_cannot_smuggle_another_assignment(manager: tuple[socket.socket, str]):
    bound, name = manager
    with Notifier({"NOTIFY_SOCKET": name}) as notifier:
        notifier.status("lost:\nMAINPID=1\r\n" + "x" * 10_000)
    message = bound.recv(65536).decode()
    assert "\n" not in message
    assert len(message) < 1000


def test_without_a_manager_nothing_happens():
    notifier = Notifier({})
    assert not notifier.enabled
    assert not notifier.ready()
    assert notifier.watchdog_interval_s is None


def test_a_manager_that_is_gone_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}) as notifier:
        assert not notifier.ready()
        assert not notifier.watchdog()
    assert len(caplog.records) == 1
    assert str(tmp_path / "gone") in caplog.text


def test_a_full_manager_does_not_block_for_ever(tmp_path: Path):
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(name)
        with Notifier({"NOTIFY_SOCKET": name}) as notifier:
            outcomes = []
            while not outcomes or outcomes[-1]:
                outcomes.append(notifier.watchdog())
                assert len(outcomes) < 100_000
    assert outcomes[0]


def test_closed_notifier_is_silent(manager: tuple[socket.socket, str]):
    notifier = Notifier({"NOTIFY_SOCKET": manager[1]})
    notifier.close()
    assert not notifier.watchdog()


@pytest.mark.parametrize("address", ["vsock:2:1234", "relative/path"])
def test_unsupported_addresses_disable(address: str, caplog: pytest.LogCaptureFixture):
    assert not Notifier({"NOTIFY_SOCKET": address}).enabled
    assert address in caplog.text


@pytest.mark.parametrize(
    ("environ", "interval_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_PID": str(os.getpid())}, None),
    ],
)
def test_watchdog_interval_is_half_the_limit(environ: dict[str, str], interval_s: float | None):
    assert Notifier(environ).watchdog_interval_s == interval_s
