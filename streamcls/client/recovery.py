"""Filling gaps from the daemon's journal: what to ask for, and what the answers amount to.

Without sockets; `Subscriber` and `AsyncSubscriber` do the asking. Each gap is filled before
anything later is delivered, page by page, so order is kept and memory bounded.
"""

import logging
import math
import time
from dataclasses import replace
from typing import Any

import msgspec

from streamcls.client.control import ControlError
from streamcls.inbox import Gap, Inbox
from streamcls.publish.schema import Message, ReplayPage

REPLAY_TIMEOUT_S = 2.0
BACK_OFF_S = 5.0
"""After a daemon that could not be asked; gaps found meanwhile are not worth the wait."""

log = logging.getLogger(__name__)


class Recovery:
    """Decides what becomes of the gaps of one subscriber.

    Args:
        inbox: Whose `recovered` to count up.
    """

    def __init__(self, inbox: Inbox):
        self._inbox = inbox
        self._next_try_s = -math.inf

    def request(self, gap: Gap) -> dict[str, Any] | None:
        """Return the parameters of the ``replay`` to call; None when it is of no use now."""
        if time.monotonic() < self._next_try_s:
            return None
        return {
            "stream": gap.stream,
            "type": gap.type,
            "from_seq": gap.first_missing_seq,
            "to_seq": gap.last_missing_seq,
            "run": gap.run,
        }

    def fill(self, gap: Gap, result: Any) -> list[Message | Gap]:
        """Return what takes the place of ``gap``: messages, what is lost, what to ask for next."""
        try:
            page = msgspec.convert(result, ReplayPage)
        except msgspec.ValidationError as error:
            return self.give_up(gap, error)
        items = fill_gap(gap, page)
        self._inbox.recovered += sum(not isinstance(item, Gap) for item in items)
        return items

    def give_up(self, gap: Gap, error: Exception | None) -> list[Message | Gap]:
        """Return the gap with the reason why it stays one; None: still waiting for a next try."""
        if isinstance(error, ControlError) and _other_run(gap, error):
            return [replace(gap, reason="run_over")]
        if error is not None:
            log.warning("nothing is recovered for %.0f s: %s", BACK_OFF_S, error)
            self._next_try_s = time.monotonic() + BACK_OFF_S
        reason = "refused" if isinstance(error, ControlError) else "unreachable"
        return [replace(gap, reason=reason)]


def fill_gap(gap: Gap, page: ReplayPage) -> list[Message | Gap]:
    """Return what takes the place of ``gap`` when ``page`` is the answer to it.

    The messages in order, each marked as recovered; a gap with a reason where one is lost; last,
    where the page does not reach the end, a gap without a reason: to be asked for next.
    """
    if page.run != gap.run:
        return [replace(gap, reason="run_over")]
    items: list[Message | Gap] = []
    seq = gap.first_missing_seq
    end = gap.last_missing_seq + 1
    reached = end if page.next_seq is None else min(page.next_seq, end)
    for message in page.messages:
        if seq <= message.seq < reached:
            items += _lost(gap, seq, message.seq, page)
            items.append(msgspec.structs.replace(message, recovered=True))
            seq = message.seq + 1
    items += _lost(gap, seq, reached, page)
    if reached < end:
        if reached <= gap.first_missing_seq:  # would ask the same for ever
            return [replace(gap, reason="refused")]
        items.append(replace(gap, first_missing_seq=reached))
    return items


def _lost(gap: Gap, first: int, end: int, page: ReplayPage) -> list[Message | Gap]:
    """Return the gaps for ``first`` to before ``end``, of which the page has nothing."""
    if first >= end:
        return []
    lost = replace(gap, first_missing_seq=first, last_missing_seq=end - 1)
    kept_from = end if page.first_seq is None else min(max(page.first_seq, first), end)
    expired = replace(lost, last_missing_seq=kept_from - 1, reason="expired")
    unsent = replace(lost, first_missing_seq=kept_from, reason="unsent")
    return [one for one in (expired, unsent) if one.missing > 0]


def _other_run(gap: Gap, error: ControlError) -> bool:
    return isinstance(error.data, dict) and error.data.get("run", gap.run) != gap.run
