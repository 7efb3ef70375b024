"""The log against a real journal socket, and what a flapping stream leaves in it."""

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamcls.logs import JournalHandler, RateLimiter, writes_to_journal


class Journal:
    """A socket that takes entries as journald does."""

    def __init__(self, path: Path):
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(5)

    def take(self) -> dict[str, str]:
        """Return the next entry, parsed by the rules of the protocol."""
        data, fields = self._socket.recv(1 << 20), {}
        while data:
            line, _, rest = data.partition(b"\n")
            name, equals, value = line.partition(b"=")
            if not equals:
                length = int.from_bytes(rest[:8], "little")
                value, rest = rest[8 : 8 + length], rest[9 + length :]
            fields[name.decode()] = value.decode()
            data = rest
        return fields

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "socket")
    yield journal
    journal.close()


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.Logger("streamcls.test")
    yield logger
    for handler in logger.handlers:
        handler.close()


def test_entries_have_priority_place_and_stream(journal: Journal, logger: logging.Logger):
    logger.addHandler(JournalHandler(str(journal.path)))
    for level, priority in (("debug", "7"), ("info", "6"), ("warning", "4"), ("error", "3")):
        getattr(logger, level)("stream %s is %s", "a", "lost", extra={"stream": "a"})
        entry = journal.take()
        assert entry["MESSAGE"] == "stream a is lost"
        assert entry["PRIORITY"] == priority
        assert (entry["SYSLOG_IDENTIFIER"], entry["STREAMCLS_STREAM"]) == ("streamcls", "a")
        assert (entry["CODE_FILE"], entry["STREAMCLS_LOGGER"]) == (__file__, "streamcls.test")
        assert "STREAMCLS_STATE" not in entry


def test_several_lines_and_odd_characters_stay_one_entry(journal: Journal, logger: logging.Logger):
    logger.addHandler(JournalHandler(str(journal.path)))
    try:
        raise ValueError("a\nPRIORITY=0\nb=\udcff")
    except ValueError:
        logger.exception("it broke")
    entry = journal.take()
    assert entry["PRIORITY"] == "3"
    assert entry["MESSAGE"].startswith("it broke\nTraceback")
    assert entry["MESSAGE"].endswith("ValueError: a\nPRIORITY=0\nb=?")
    logger.error("x" * 1_000_000)
    assert set(journal.take()["MESSAGE"]) == {"x"}


def test_entries_the_journal_did_not_take_are_counted(tmp_path: Path, logger: logging.Logger):
    path = tmp_path / "socket"
    logger.addHandler(JournalHandler(str(path)))
    logger.error("nobody there")
    logger.error("nobody there")
    journal = Journal(path)
    logger.error("back")
    logger.error("again")
    said = [journal.take()["MESSAGE"] for _ in range(2)]
    journal.close()
    assert said == ["back (the journal did not take 2 entries before this one)", "again"]


class Kept(logging.Handler):
    """Keeps what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def test_a_flapping_stream_is_held_back_and_its_last_state_is_told(logger: logging.Logger):
    kept = Kept()
    limiter = RateLimiter(kept, burst=3, period_s=60)
    logger.addHandler(limiter)
    for turn in range(50):
        logger.debug("turn %d", turn)  # whoever asks for these gets all
    told = [f"turn {turn}" for turn in range(50)]
    for turn in range(100):
        logger.warning("stream %s: %d", "a", turn, extra={"stream": "a"})
    logger.warning("stream %s: %d", "b", 0, extra={"stream": "b"})
    logger.warning("of another kind")
    first = [*told, "stream a: 0", "stream a: 1", "stream a: 2", "stream b: 0", "of another kind"]
    assert kept.said == first
    limiter.close()
    assert kept.said == [*first, "stream a: 99 (and 96 like it before, left out)"]


def test_the_last_state_is_told_when_the_period_ends_though_all_is_quiet(logger: logging.Logger):
    kept = Kept()
    told = kept.said
    logger.addHandler(RateLimiter(kept, burst=1, period_s=0.05))
    logger.info("state %d", 1)
    logger.info("state %d", 2)
    while len(told) < 2:
        os.sched_yield()
    assert told == ["state 1", "state 2"]
    logger.info("state %d", 3)
    assert told == ["state 1", "state 2", "state 3"]


def test_the_journal_is_used_only_where_standard_error_goes_there(tmp_path: Path):
    program = (
        "import os; from streamcls.logs import writes_to_journal\n"
        "print(writes_to_journal(os.environ))"
    )
    with (tmp_path / "file").open("w") as file:
        status = os.fstat(file.fileno())
        here = f"{status.st_dev}:{status.st_ino}"
        for stream, said in ((here, "True"), ("1:2", "False"), ("", "False")):
            result = subprocess.run(
                [sys.executable, "-c", program],
                env=os.environ | {"JOURNAL_STREAM": stream},
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                check=True,
            )
            assert result.stdout.strip() == said
    assert not writes_to_journal({})
