"""The journal's bounds and pages, without sockets."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcls.publish.journal import (
    PAGE_LIMIT_BYTES,
    PAGE_LIMIT_MESSAGES,
    Journal,
    JournalLimits,
)
from streamcls.publish.schema import (
    DataMessage,
    EventMessage,
    HealthMessage,
    decode,
    encode,
    message_topic,
)


def health(seq: int, stream: str = "porch", reason: str = "") -> HealthMessage:
    return HealthMessage(
        run="a",
        stream=stream,
        seq=seq,
        published_ns=0,
        state="live",
        dropped_samples=0,
        xruns=0,
        overruns=0,
        reason=reason,
    )


def event(seq: int, state, label: str = "dog", stream: str = "porch") -> EventMessage:
    return EventMessage(
        run="a",
        stream=stream,
        seq=seq,
        published_ns=0,
        id=label,
        state=state,
        label=label,
        onset_ns=0,
        peak_score=0.5,
        mean_score=0.5,
    )


def record(journal: Journal, *messages: DataMessage) -> None:
    for message in messages:
        journal.record(message, message_topic(message).encode(), encode(message))


def read_all(journal: Journal, topic: str, from_seq: int = 0, to_seq: int | None = None):
    """Read page after page and return the numbers."""
    seqs: list[int] = []
    while True:
        page = journal.page(topic, from_seq, to_seq)
        assert len(page.payloads) <= PAGE_LIMIT_MESSAGES
        seqs += [decode(payload).seq for payload in page.payloads]
        if page.next_seq is None:
            return seqs
        assert page.next_seq > from_seq
        from_seq = page.next_seq


def test_pages_hold_what_was_asked_for():
    journal = Journal(JournalLimits())
    record(journal, *[health(seq) for seq in range(1300) if seq % 100 != 50])
    everything = [seq for seq in range(1300) if seq % 100 != 50]
    assert read_all(journal, "health/porch/") == everything
    assert read_all(journal, "health/porch/", 7, 9) == [7, 8, 9]
    assert read_all(journal, "health/porch/", 49, 51) == [49, 51]
    assert read_all(journal, "health/porch/", 50, 50) == []
    assert read_all(journal, "health/porch/", 9999) == []
    assert read_all(journal, "health/porch/", 9, 3) == []
    page = journal.page("health/porch/", 0)
    assert (page.first_seq, page.last_seq, page.next_seq) == (0, 1299, everything[500])
    assert journal.page("health/hall/", 0) == (None, None, None, [])


def test_a_page_is_bounded_in_bytes_but_never_empty():
    journal = Journal(JournalLimits())
    big = "x" * (PAGE_LIMIT_BYTES // 3)
    record(journal, *[health(seq, reason=big) for seq in range(5)])
    record(journal, health(5, reason=big * 4), health(6))
    assert [len(journal.page("health/porch/", seq).payloads) for seq in (0, 5)] == [2, 1]
    assert read_all(journal, "health/porch/") == list(range(7))


def test_each_sequence_keeps_its_newest():
    journal = Journal(JournalLimits(messages=3))
    record(journal, *[health(seq) for seq in range(10)], health(0, "hall"))
    assert read_all(journal, "health/porch/") == [7, 8, 9]
    assert journal.page("health/porch/", 0).first_seq == 7
    assert read_all(journal, "health/hall/") == [0]


def test_bytes_are_bounded_at_the_cost_of_the_largest():
    journal = Journal(JournalLimits(messages=10_000, total_bytes=100_000))
    record(journal, *[event(seq, "update") for seq in range(20)])
    for seq in range(2000):
        record(journal, health(seq))
        assert journal.size_bytes <= 100_000
    assert read_all(journal, "event/porch/") == list(range(20))
    assert read_all(journal, "health/porch/")[-1] == 1999
    assert journal.size_bytes > 80_000


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2000)), max_size=60),
    st.integers(0, 8),
    st.integers(0, 6000),
)
def test_whatever_comes_the_bounds_hold_and_the_last_values_stay(writes, messages, total_bytes):
    journal = Journal(JournalLimits(messages=messages, total_bytes=total_bytes))
    last = {}
    for seq, (stream, size) in enumerate(writes):
        message = health(seq, f"s{stream}", "x" * size)
        record(journal, message)
        last[message.stream] = message
    entries = journal.last_values()
    assert [decode(entry.payload) for entry in entries] == [last[name] for name in sorted(last)]
    kept_bytes = sum(entry.size_bytes for entry in entries)
    assert journal.size_bytes <= max(total_bytes, kept_bytes)
    for name in last:
        assert len(read_all(journal, f"health/{name}/")) <= max(1, messages)


def test_old_messages_expire_also_without_new_ones():
    journal = Journal(JournalLimits(age_s=0))
    record(journal, health(0), health(1), health(0, "hall"))
    journal.expire()
    assert read_all(journal, "health/porch/") == [1]
    assert read_all(journal, "health/hall/") == [0]
    journal = Journal(JournalLimits(age_s=3600))
    record(journal, health(0), health(1))
    journal.expire()
    assert read_all(journal, "health/porch/") == [0, 1]


def test_events_are_open_until_their_offset():
    journal = Journal(JournalLimits(messages=1))
    record(journal, event(0, "onset"), event(1, "onset", "cat"), event(2, "update"))
    assert [decode(entry.payload).seq for entry in journal.open_events()] == [1, 2]
    record(journal, event(3, "offset", "cat"))
    assert [decode(entry.payload).seq for entry in journal.open_events()] == [2]
    record(journal, event(4, "offset"))
    assert journal.open_events() == []


def test_a_forgotten_stream_leaves_nothing():
    journal = Journal(JournalLimits())
    record(journal, health(0, "hall"))
    size_bytes = journal.size_bytes
    record(journal, health(0), event(0, "onset"))
    journal.forget("porch")
    assert journal.size_bytes == size_bytes
    assert journal.open_events() == []
    assert [decode(entry.payload).stream for entry in journal.last_values()] == ["hall"]


@pytest.mark.parametrize("limits", [JournalLimits(), JournalLimits(messages=50)])
def test_reading_while_writing(limits):
    journal = Journal(limits)
    record(journal, health(0))
    writer = threading.Thread(
        target=lambda: record(journal, *[health(seq) for seq in range(1, 3000)])
    )
    writer.start()
    while writer.is_alive():
        page = journal.page("health/porch/", 0)
        seqs = [decode(payload).seq for payload in page.payloads]
        assert seqs[0] == page.first_seq
        assert seqs == list(range(seqs[0], seqs[-1] + 1))
    writer.join()
    assert journal.page("health/porch/", 0).last_seq == 2999
