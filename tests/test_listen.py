"""What `streamcls listen` prints, as lines, JSON and table, in a process of its own."""

import io
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import msgspec
import numpy as np
import pytest
from rich.console import Console

from streamcls.client import Subscriber
from streamcls.inbox import Gap, Inbox
from streamcls.listen import format_json, run_listen
from streamcls.livetable import LiveTable
from streamcls.publish.control import ControlServer
from streamcls.publish.messages import Vocabulary
from streamcls.publish.methods import MethodTable
from streamcls.publish.publisher import Publisher
from streamcls.publish.schema import (
    EventMessage,
    HealthMessage,
    HeartbeatMessage,
    PredictionMessage,
    RejectedMessage,
    decode,
)
from streamcls.textline import (
    format_bar,
    format_latency,
    format_level,
    format_message,
    format_prediction,
)
from streamcls.types import Flag, Health, HealthState, Prediction, Rejection
from tests.lossy_relay import LossyRelay

ENVELOPE = {"run": "a", "stream": "porch", "seq": 3, "published_ns": 1_700_000_000_000_000_000}


def prediction(**fields) -> PredictionMessage:
    values = {
        **ENVELOPE,
        "model": "commands",
        "epoch": 0,
        "sample_start": 0,
        "sample_end": 16000,
        "sample_rate_hz": 16000,
        "t_start_ns": 1_699_999_999_000_000_000,
        "t_end_ns": 1_700_000_000_123_000_000,
        "level_dbfs": -30.0,
        "flags": (),
        "scores": {"yes": 0.75, "no": 0.25},
    }
    return PredictionMessage(**{**values, **fields})


def health(state: str = "lost", reason: str = "device unplugged", **fields) -> HealthMessage:
    values = {"dropped_samples": 320, "xruns": 0, "overruns": 0}
    return HealthMessage(**{**ENVELOPE, **values, **fields}, state=state, reason=reason)


def heartbeat() -> HeartbeatMessage:
    beat = {"interval_s": 1.0, "uptime_s": 3725.0, "last_seq": {}, "dropped": {"event/porch/": 2}}
    return HeartbeatMessage(**{**ENVELOPE, "stream": ""}, **beat)


@pytest.fixture
def feed():
    """A publisher that sends twenty predictions a second of each stream."""
    stop = threading.Event()
    with Publisher("tcp://127.0.0.1:*", Vocabulary("commands", ("yes", "no"))) as publisher:

        def work():
            index = 0
            publisher.publish_health(Health("porch", HealthState.LIVE, 0, 0, 0, 0, 0, ""))
            while not stop.wait(0.05):
                for stream in ("porch", "hall"):
                    publisher.publish_prediction(
                        Prediction(
                            stream,
                            0,
                            index,
                            index + 800,
                            16000,
                            time.time_ns(),
                            time.time_ns(),
                            -20.0,
                            (Flag.SILENT,),
                            np.array([0.75, 0.25], np.float32),
                        )
                    )
                index += 800

        thread = threading.Thread(target=work)
        thread.start()
        yield publisher
        stop.set()
        thread.join()


# -- lines --------------------------------------------------------------------------------


def test_bars_fill_in_eighths_and_stay_inside():
    assert [format_bar(fraction, 2) for fraction in (-1, 0, 0.25, 0.5, 1, 7)] == [
        "  ",
        "  ",
        "▌ ",
        "█ ",
        "██",
        "██",
    ]
    assert all(len(format_bar(index / 100, 7)) == 7 for index in range(101))
    assert (format_level(-120.0, 4), format_level(-30.0, 4), format_level(0.0, 4)) == (
        "    ",
        "██  ",
        "████",
    )


def test_a_prediction_line_has_time_level_classes_latency_and_flags():
    message = prediction(flags=("clipped",))
    line = format_prediction(message, message.t_end_ns + 9_400_000)
    assert line[8:12] == ".123"
    for part in ("porch", "▕██████      ▏", "-30.0 dBFS", "yes         75%", "9 ms", "clipped"):
        assert part in line
    assert line.index("yes") < line.index("no ")
    assert "ms" not in format_prediction(message)
    assert "no " not in format_prediction(message, top_k=1)


def test_latencies_stay_readable():
    said = {0: "0 ms", -400_000: "0 ms", 12_345_678: "12 ms", 90_000_000_000: "90 s"}
    assert {ns: format_latency(ns) for ns in said} == said


def test_audio_that_runs_ahead_of_the_clock_is_not_told_a_negative_age():
    message = prediction()
    assert format_prediction(message, message.t_end_ns - 18_000_000_000).endswith("  ahead")


def test_the_other_messages_as_lines():
    event = EventMessage(
        **ENVELOPE,
        id="e",
        state="offset",
        label="dog",
        onset_ns=0,
        offset_ns=5_500_000_000,
        peak_score=0.9,
        mean_score=0.7,
    )
    assert format_message(health()).endswith("lost: device unplugged (320 samples lost so far)")
    assert format_message(event).endswith("porch        dog offset, peak 90%")
    assert format_message(event)[8:12] == ".500"
    assert format_message(Gap("porch", "event", 4, 6, "a")).endswith(
        "missed 3 event messages, seq 4 to 6"
    )
    assert format_message(Gap("porch", "event", 4, 4, "a")).endswith(
        "missed 1 event message, seq 4"
    )
    assert format_message(Gap("porch", "event", 4, 4, "a", "expired")).endswith("4 (expired)")
    assert format_message(heartbeat()).endswith("up 3725 s")
    lost = msgspec.structs.replace(event, reason="lost", recovered=True)
    assert format_message(lost).endswith("dog offset, peak 90% (lost)  recovered")
    rejected = RejectedMessage(
        **ENVELOPE,
        label="dog",
        reason="too_short",
        detail="lasted 80 ms, min_duration_ms is 160",
        onset_ns=0,
        offset_ns=5_500_000_000,
        peak_score=0.9,
        threshold=0.6,
    )
    assert format_message(rejected).endswith(
        "not reported: dog, too_short (lasted 80 ms, min_duration_ms is 160)"
    )
    assert format_message(rejected)[8:12] == ".500"


@pytest.mark.parametrize(
    "message",
    [
        prediction(scores={"\x1b[2Jyes": 1.0}, flags=("\x07",)),
        prediction(stream="\x1b]0;title\x07"),
        health(reason="\r\x1b[1Anothing happened"),
    ],
)
def test_names_cannot_command_the_terminal(message):
    line = format_message(message)
    assert line.isprintable()
    assert "�" in line


@pytest.mark.parametrize(
    ("message", "field", "worst"),
    [
        (prediction(), "level_dbfs", [math.nan, math.inf, -math.inf, 1e308]),
        (prediction(), "t_end_ns", [1 << 63, (1 << 63) - 1, -1 << 63]),
        (health(), "published_ns", [1 << 63, (1 << 63) - 1, -1 << 63]),
        (heartbeat(), "uptime_s", [math.nan, math.inf, 1e308, 1e10]),
    ],
    ids=["level", "time", "published", "uptime"],
)
def test_numbers_that_are_none_cannot_end_it(message, field, worst):
    """A message is damaged, or it can be shown."""
    inbox = Inbox(types=["prediction", "health", "heartbeat"])
    with LiveTable(Console(file=io.StringIO())) as table, Subscriber("ipc:///nobody") as nobody:
        nobody._heard_at_s = time.monotonic()
        encoders = (msgspec.json.encode, msgspec.msgpack.encode)
        for seq, (value, encoder) in enumerate(itertools.product(worst, encoders)):
            fields = msgspec.to_builtins(message) | {field: value, "seq": seq}
            for one in inbox.accept(encoder(fields)):
                format_message(one, time.time_ns())
                table.show(one, time.time_ns())
                table.refresh(nobody)
    assert inbox.invalid > 0
    assert inbox.received > 0


def test_json_lines_decode_to_what_was_sent():
    assert decode(format_json(prediction()).encode()) == prediction()
    assert json.loads(format_json(Gap("porch", "event", 4, 6, "a"))) == {
        "type": "gap",
        "run": "a",
        "stream": "porch",
        "of": "event",
        "first_missing_seq": 4,
        "last_missing_seq": 6,
        "reason": "",
    }
    assert json.loads(format_json(msgspec.structs.replace(prediction(), recovered=True)))[
        "recovered"
    ]
    assert "recovered" not in json.loads(format_json(prediction()))


# -- the table ----------------------------------------------------------------------------


def draw(table: LiveTable, subscriber: Subscriber, width: int) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width).print(table.render(subscriber))
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", [74, 80, 100])
def test_the_table_fits_the_terminal_and_shows_every_stream(width, feed):
    now_ns = time.time_ns()
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width)
    with Subscriber(feed.endpoint) as subscriber, LiveTable(console) as table:
        assert "waiting for the daemon" in draw(table, subscriber, width)[0]
        subscriber.receive(10)
        table.show(prediction(t_end_ns=now_ns), now_ns + 12_000_000)
        table.show(prediction(stream="hall", scores={"a very long label": 0.5}), now_ns)
        table.show(health(stream="yard"), now_ns)
        table.show(Gap("porch", "prediction", 4, 6, "a"), now_ns)
        table.show(heartbeat(), now_ns)
        lines = draw(table, subscriber, width)
        table.refresh(subscriber)
    assert max(map(len, lines)) <= width
    rows = {line.split()[1]: line for line in lines if line.endswith((" 0", " 3"))}
    for part in ("yes", "75%", "12 ms"):
        assert part in rows["porch"]
    assert rows["porch"].endswith(" 3")
    assert ("-30.0" in rows["porch"]) == (width >= 80)
    assert ("no " in rows["porch"]) == (width >= 100)
    assert "a very long…" in rows["hall"]
    text = "\n".join(lines)
    assert "up 1:02:05  the daemon dropped 2 messages" in lines[0]
    for part in ("lost: device unplugged", "missed 3 prediction messages, seq 4 to 6"):
        assert part in text
    assert "75%" in screen.getvalue()


# -- the process --------------------------------------------------------------------------


def spawn(*arguments, **options) -> Any:
    code = (
        f"import sys; from streamcls.listen import run_listen; sys.exit(run_listen(*{arguments}))"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], **{**pipes, **options})


def test_json_lines_of_one_stream_until_the_reader_goes_away(feed):
    with spawn(feed.endpoint, ["porch"], True) as process:
        messages = [decode(process.stdout.readline().encode()) for _ in range(6)]
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(10) == 0
    assert {message.stream for message in messages} == {"porch"}
    seqs = [message.seq for message in messages if isinstance(message, PredictionMessage)]
    assert len(seqs) >= 5
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))


def test_ctrl_c_ends_it_without_a_word(feed):
    with spawn(feed.endpoint) as process:
        line = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (0, "")
    assert "Traceback" not in out
    assert "porch" in line or "hall" in line


def test_bars_in_an_ascii_terminal_are_no_traceback(feed):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    with spawn(feed.endpoint, [], False, None, 1.0, env=environment) as process:
        out, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (0, "")
    assert "yes" in out


def test_a_duration_ends_it(feed, capsys):
    file = io.StringIO()
    assert run_listen(feed.endpoint, ["hall"], console=Console(file=file), duration_s=0.5) == 0
    lines = file.getvalue().splitlines()
    assert len(lines) > 1
    assert all("hall" in line and "silent" in line for line in lines)
    assert capsys.readouterr().err == ""


def test_losses_are_fetched_and_rejections_shown_when_asked_for(feed):
    rejection = Rejection("porch", "no", "cooldown", "began too soon", 0, 1, 0.7, 0.6)
    feed.publish_rejection(rejection)
    relay = LossyRelay(
        feed.endpoint,
        lambda message: isinstance(message, PredictionMessage) and message.seq % 2 == 1,
    )
    with ControlServer("tcp://127.0.0.1:*", MethodTable(feed.methods())) as control, relay:
        file = io.StringIO()
        again = threading.Timer(0.7, feed.publish_rejection, [rejection])
        again.start()
        code = run_listen(
            relay.endpoint,
            ["porch"],
            as_json=True,
            console=Console(file=file),
            duration_s=1.5,
            control_endpoint=control.endpoint,
            with_rejected=True,
        )
        again.join()
    assert code == 0
    lines = [json.loads(line) for line in file.getvalue().splitlines()]
    assert not [line for line in lines if line["type"] == "gap"]
    assert [line["seq"] for line in lines if line["type"] == "rejected"][-1] == 1
    predictions = [line for line in lines if line["type"] == "prediction"]
    first = predictions[0]["seq"]
    assert [line["seq"] for line in predictions] == list(range(first, first + len(predictions)))
    assert len(predictions) > 4
    assert all(bool(line.get("recovered")) == line["seq"] % 2 for line in predictions)


def test_nobody_there_is_exit_code_1(tmp_path, capsys):
    endpoint = f"ipc://{tmp_path}/nobody.sock"
    assert run_listen(endpoint, console=Console(file=io.StringIO()), duration_s=0.1) == 1
    assert f"nothing heard from {endpoint}: is the daemon running" in capsys.readouterr().err
