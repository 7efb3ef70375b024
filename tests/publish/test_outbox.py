"""Numbering, and what gives way when too much waits."""

import pytest

from streamcls.errors import PublishError
from streamcls.publish import outbox as outbox_module
from streamcls.publish.outbox import Outbox
from streamcls.types import EventState


@pytest.fixture
def put(vocabulary, make_prediction, make_event, health):
    records = {
        "prediction": make_prediction(),
        "event": make_event(EventState.ONSET),
        "health": health,
    }

    def put_all(outbox: Outbox, *types: str) -> list[bool]:
        return [outbox.put(one, (records[one],), vocabulary) for one in types]

    return put_all


def drain(outbox: Outbox) -> list[tuple[str, int]]:
    items = []
    while (item := outbox.take()) is not None:
        items.append((item.sequence.split("/")[0], item.seq))
    return items


def test_in_order_and_the_first_one_wakes(put):
    outbox = Outbox(10)
    assert put(outbox, "prediction", "event", "prediction") == [True, False, False]
    assert len(outbox) == 3
    assert drain(outbox) == [("prediction", 0), ("event", 0), ("prediction", 1)]
    assert outbox.passed_seq() == {"prediction/porch/": 1, "event/porch/": 0}
    assert outbox.dropped() == {}


def test_predictions_give_way_to_what_is_said_once(put):
    outbox = Outbox(3)
    put(outbox, "event", "prediction", "health", "prediction", "event", "event")
    assert drain(outbox) == [("health", 0), ("event", 1), ("event", 2)]
    assert outbox.dropped() == {"prediction/porch/": 2, "event/porch/": 1}
    # A heartbeat may name what was dropped: it will never come.
    assert outbox.passed_seq()["prediction/porch/"] == 1


def test_a_stream_has_passed_when_nothing_of_it_waits(put):
    outbox = Outbox(2)
    assert outbox.has_passed("porch")  # which has put nothing yet
    put(outbox, "prediction", "event", "event")  # the prediction gave way
    outbox.take()
    assert not outbox.has_passed("porch")
    assert outbox.has_passed("hall")
    outbox.take()
    assert outbox.has_passed("porch")


def test_what_waits_or_comes_at_the_end_is_counted(put):
    outbox = Outbox(3)
    put(outbox, "event", "prediction")
    outbox.close()
    assert put(outbox, "event") == [False]
    assert drain(outbox) == []
    assert outbox.dropped() == {"event/porch/": 2, "prediction/porch/": 1}


def test_the_number_of_sequences_is_bounded(put, monkeypatch):
    monkeypatch.setattr(outbox_module, "SEQUENCES_LIMIT", 2)
    outbox = Outbox(10)
    put(outbox, "event", "prediction")
    with pytest.raises(PublishError, match=r"health/porch/.*at most 2.*restart"):
        put(outbox, "health")
    put(outbox, "event")
    assert drain(outbox) == [("event", 0), ("prediction", 0), ("event", 1)]
