"""Streams that come and go, and the events they leave behind: through the control socket."""

from itertools import pairwise
from pathlib import Path

import pytest

from streamcls.client import ControlClient, ControlError
from streamcls.publish.methods import METHODS
from streamcls.publish.schema import EventMessage, HealthMessage, PredictionMessage
from tests.end_to_end.conftest import Daemon, Launcher
from tests.end_to_end.test_daemon import write_noise

# An untrained model spreads its probability over 12 classes: this threshold opens events.
EAGER = ("--set", "events.onset_threshold=0.03", "--set", "events.offset_threshold=0.01")


def events_of(daemon: Daemon, stream: str) -> list[EventMessage]:
    return [m for m in daemon.messages if isinstance(m, EventMessage) and m.stream == stream]


def check_pairs(events: list[EventMessage], reason: str) -> None:
    """Every onset has exactly one offset, for the reason given."""
    onsets = [e.id for e in events if e.state == "onset"]
    offsets = [e for e in events if e.state == "offset"]
    assert onsets
    assert sorted(onsets) == sorted(e.id for e in offsets)
    assert {e.reason for e in offsets} <= {reason, "score"}
    assert reason in {e.reason for e in offsets}
    for event in offsets:
        assert event.offset_ns is not None
        assert event.offset_ns >= event.onset_ns


@pytest.fixture
def long_noise(tmp_path: Path) -> str:
    return f"file:{write_noise(tmp_path / 'long.wav', 120.0)}"


def test_events_end_with_their_stream(launcher: Launcher, model, tmp_path) -> None:
    path = write_noise(tmp_path / "noise.wav", 4.0)
    source = ["--source", f"file:{path}", "--fast"]
    with launcher.run("--model", model, *source, *EAGER) as daemon:
        daemon.listen_to_the_end()
        assert daemon.process.wait(10) == 0
    events = events_of(daemon, "mic")
    check_pairs(events, "ended")
    assert [e.seq for e in events] == list(range(len(events)))
    assert "unknown" not in {e.label for e in events}


def test_events_end_with_the_daemon(launcher: Launcher, model, long_noise) -> None:
    with launcher.run("--model", model, "--source", long_noise, *EAGER) as daemon:
        daemon.listen(lambda m: isinstance(m, EventMessage))
        daemon.process.terminate()
        daemon.listen_to_the_exit()
        assert daemon.process.returncode == 0
    check_pairs(events_of(daemon, "mic"), "shutdown")


def test_streams_join_and_leave(launcher: Launcher, model, long_noise) -> None:
    slots = ("--set", "inference.max_streams=2")
    with (
        launcher.run("--model", model, "--source", long_noise, *EAGER, *slots) as daemon,
        ControlClient(daemon.control) as control,
    ):
        daemon.listen(lambda m: isinstance(m, PredictionMessage))
        added = control.call("streams.add", {"stream": "second", "source": long_noise})
        assert (added["stream"], added["source"]) == ("second", long_noise)
        daemon.listen(lambda m: isinstance(m, EventMessage) and m.stream == "second")
        assert [s["stream"] for s in control.call("streams.list")] == ["mic", "second"]

        with pytest.raises(ControlError, match=r"all 2 streams .* raise inference\.max_streams"):
            control.call("streams.add", {"stream": "third", "source": long_noise})
        with pytest.raises(ControlError, match="'second' exists already; remove it first"):
            control.call("streams.add", {"stream": "second", "source": long_noise})
        with pytest.raises(ControlError, match=r"/no/such\.wav"):
            control.call("streams.add", {"stream": "third", "source": "file:/no/such.wav"})
        slow = {"stream": "third", "source": long_noise, "options": {"pace": "slow"}}
        with pytest.raises(ControlError, match=r'third\.pace = "slow" \(request\): must be'):
            control.call("streams.add", slow)
        table = {"events": {"class": {"class_99": {"onset_threshold": 0.5}}}}
        strange = {"stream": "third", "source": long_noise, "options": table}
        with pytest.raises(ControlError, match=r"streams\.third\.events\.class\.class_99: "):
            control.call("streams.add", strange)
        with pytest.raises(ControlError, match="no stream 'third'; there are: mic, second"):
            control.call("streams.remove", {"stream": "third"})

        removed = control.call("streams.remove", {"stream": "second"})
        assert (removed["state"], removed["reason"]) == ("ended", "removed by request")
        daemon.listen(
            lambda m: isinstance(m, HealthMessage) and m.stream == "second" and m.state == "ended"
        )
        n_heard = len(daemon.predictions("second"))
        check_pairs(events_of(daemon, "second"), "removed")

        # Its slot is free again, also for a name that a configuration has to quote.
        fast = {"stream": "second.one", "source": long_noise, "options": {"pace": "fast"}}
        assert control.call("streams.add", fast)["stream"] == "second.one"
        daemon.listen(lambda m: isinstance(m, PredictionMessage) and m.stream == "second.one")
        control.call("streams.remove", {"stream": "second.one"})

        # Its numbers go on, and the other stream has not noticed.
        control.call("streams.add", {"stream": "second", "source": long_noise})
        daemon.listen(lambda m: isinstance(m, PredictionMessage) and m.stream == "second")
        assert daemon.predictions("second")[-1].seq == n_heard
        mine = daemon.predictions("mic")
        assert [p.seq for p in mine] == list(range(len(mine)))
        steps = {b.sample_end - a.sample_end for a, b in pairwise(mine)}
        assert steps == {1_280}
        assert {p.epoch for p in mine} == {0}


def test_thresholds_change_while_it_runs(launcher: Launcher, model, long_noise) -> None:
    with (
        launcher.run("--model", model, "--source", long_noise, *EAGER) as daemon,
        ControlClient(daemon.control) as control,
    ):
        daemon.listen(lambda m: isinstance(m, EventMessage) and m.state == "onset")
        changed = control.call("thresholds.set", {"onset_threshold": 0.99, "offset_threshold": 0.5})
        assert changed["mic"]["class_0"] == [0.99, 0.5]
        daemon.listen(
            lambda m: isinstance(m, EventMessage) and m.state == "offset" and m.reason == "reload"
        )
        one = {"stream": "mic", "label": "class_3", "onset_threshold": 0.949 * 2 / 3}
        assert control.call("thresholds.set", one)["mic"]["class_3"] == [0.632667, 0.5]
        with pytest.raises(ControlError, match="class_99"):
            control.call("thresholds.set", {"label": "class_99", "onset_threshold": 0.7})
        with pytest.raises(ControlError, match="give onset_threshold, offset_threshold or both"):
            control.call("thresholds.set", {"label": "class_3"})
        with pytest.raises(ControlError, match=r"0\.01"):  # as in the configuration
            control.call("thresholds.set", {"onset_threshold": 0.005})


def test_replay_and_snapshot_through_the_daemon(launcher: Launcher, model, long_noise) -> None:
    with (
        launcher.run("--model", model, "--source", long_noise, *EAGER) as daemon,
        ControlClient(daemon.control) as control,
    ):
        daemon.listen(lambda m: isinstance(m, PredictionMessage) and m.seq >= 10)
        wanted = {"stream": "mic", "type": "prediction", "from_seq": 3, "to_seq": 10}
        page = control.call("replay", wanted)
        assert [m["seq"] for m in page["messages"]] == list(range(3, 11))
        heard = {p.seq: p.scores for p in daemon.predictions("mic")}
        assert 10 in heard
        for message in page["messages"]:
            assert message["scores"] == heard.get(message["seq"], message["scores"])
        kinds = {m["type"] for m in control.call("snapshot")}
        assert {"prediction", "health", "event"} <= kinds
        names = {m["name"] for m in control.call("methods")}
        assert names == set(METHODS)  # all that docs/protocol.md promises
