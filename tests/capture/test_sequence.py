"""Any order in which packets may come, within what is held, comes out ascending."""

from hypothesis import given
from hypothesis import strategies as st

from streamcls.capture.sequence import HOLD_PACKETS, HOLD_S, Resequencer


def drain(sequence: Resequencer[int], now_s: float) -> list[int]:
    items = []
    while (item := sequence.pop(now_s)) is not None:
        items.append(item)
    return items


@given(st.data())
def test_packets_overtaken_by_few_others_come_out_in_order(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 60))
    late = data.draw(st.lists(st.integers(0, HOLD_PACKETS - 2), min_size=n, max_size=n))
    order = [0, *sorted(range(1, n), key=lambda seq: (seq + late[seq], seq))]
    repeats = data.draw(st.lists(st.sampled_from(order), max_size=10))
    sequence: Resequencer[int] = Resequencer()
    out = []
    for seq in order:
        for item in (seq, *[r for r in repeats if r == seq]):
            sequence.push(item, item, 0.0)
            out += drain(sequence, 0.0)
    assert out == list(range(n))
    assert (sequence.missing, sequence.repeated) == (0, len(repeats))


@given(st.sets(st.integers(1, 80)), st.integers(0, 1 << 61))
def test_what_never_comes_is_given_up_and_counted(lost: set[int], first: int) -> None:
    sent = [seq for seq in range(100) if seq not in lost]
    sequence: Resequencer[int] = Resequencer()
    out = []
    for seq in sent:
        sequence.push(first + seq, seq, 0.0)
        out += drain(sequence, 0.0)
    out += drain(sequence, HOLD_S)
    assert out == sent
    assert sequence.missing == len(lost)


def test_a_hole_waits_for_its_packet_only_so_long() -> None:
    sequence: Resequencer[int] = Resequencer()
    for seq, now_s in ((0, 0.0), (2, 0.01)):
        sequence.push(seq, seq, now_s)
    assert drain(sequence, 0.01) == [0]
    assert drain(sequence, 0.01 + HOLD_S * 0.9) == []
    assert drain(sequence, 0.011 + HOLD_S) == [2]
    sequence.push(1, 1, 1.0)  # too late
    assert drain(sequence, 2.0) == []
    assert (sequence.missing, sequence.repeated) == (1, 1)
