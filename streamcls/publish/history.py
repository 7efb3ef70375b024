"""What the control socket can ask of the past: ``snapshot`` and ``replay``, read from the journal.

Runs in the control thread; the publisher thread goes on recording meanwhile.
"""

from typing import Any

import msgspec

from streamcls.publish.journal import Journal
from streamcls.publish.methods import ReplayParams
from streamcls.publish.rpc import RpcError
from streamcls.publish.schema import (
    DataMessage,
    Encoding,
    HeartbeatMessage,
    decode,
    sequence_topic,
)


def take_snapshot(journal: Journal) -> list[DataMessage]:
    """Return the last message of each sequence and of each open event, sorted by topic."""
    entries = {*journal.last_values(), *journal.open_events()}
    ordered = sorted(entries, key=lambda entry: (entry.topic, entry.seq))
    return [_decode(entry.payload) for entry in ordered]


def replay(journal: Journal, params: ReplayParams, run: str, encoding: Encoding) -> dict[str, Any]:
    """Return the fields of a `ReplayPage`; messages that were sent as JSON are not decoded.

    Args:
        journal: Of what was sent.
        params: What is wanted.
        run: Id of this daemon start.
        encoding: Of the journal's payloads.

    Raises:
        RpcError: Nothing of that sequence is known, or it is of another run.
    """
    if params.run not in (None, run):
        text = f"run {params.run!r} is over: its messages went with that daemon; this is {run!r}"
        raise RpcError(text, data={"run": run})
    topic = sequence_topic(params.type, params.stream)
    page = journal.page(topic, params.from_seq, params.to_seq)
    if page.last_seq is None:
        text = f"nothing was sent of {topic!r}: a heartbeat's last_seq names what there is"
        raise RpcError(text, data={"run": run})
    read = msgspec.Raw if encoding == "json" else _decode
    return {
        "run": run,
        "first_seq": page.first_seq,
        "last_seq": page.last_seq,
        "next_seq": page.next_seq,
        "messages": [read(payload) for payload in page.payloads],
    }


def _decode(payload: bytes) -> DataMessage:
    message = decode(payload)
    assert not isinstance(message, HeartbeatMessage)  # the journal keeps none
    return message
