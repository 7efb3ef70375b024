"""The life of one track's detections: what begins, lasts, pauses, ends, and what is held back.

A track is handed one straight line of score after another. It cuts each where it crosses a
threshold, so that every *piece* lies in one zone, and walks from piece to piece:

    above onset         a detection begins or goes on
    onset .. offset     a detection goes on, also after a pause
    below offset        a detection pauses; a pause of ``min_gap`` ends it

A detection becomes an event when it has lasted ``min_duration`` and is confirmed. All times are
*sound times* (see `detector`): nanoseconds of the stream's own sample count. Owned by the detector.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from streamcls.postprocess.detection import Detection, Line, Mean, TimeAbove
from streamcls.postprocess.ledger import CloseReason, Ledger, RejectionReason
from streamcls.postprocess.rules import TrackRules
from streamcls.types import Event, EventState, Rejection
from streamcls.units import NS_PER_S

Record = Event | Rejection
_NEVER_NS = -(1 << 62)


class Track:
    """Follows one class or group.

    Attributes:
        onset_threshold: In force now; `raise_thresholds` moves it.
        offset_threshold: Moves along.
        near_threshold: From here to the onset threshold a score is a near miss.
    """

    def __init__(self, rules: TrackRules, ledger: Ledger):
        self.rules = rules
        self._ledger = ledger
        self.onset_threshold = rules.onset_threshold
        self.offset_threshold = rules.offset_threshold
        self.near_threshold = rules.near_threshold
        self._detection: Detection | None = None
        self._near: Detection | None = None
        self._above = TimeAbove(rules.confirm_window_ns)
        self._quiet_until_ns = _NEVER_NS
        self._near_due_ns = _NEVER_NS
        self._unseen_from_ns: int | None = None

    @property
    def detecting(self) -> bool:
        """A detection is going on (published or not)."""
        return self._detection is not None

    @property
    def busy(self) -> bool:
        """The next line matters however low its score is."""
        return self._detection is not None or self._near is not None

    def raise_thresholds(self, lift: float) -> None:
        """Move all thresholds to ``lift`` above those of the rules."""
        self.onset_threshold = self.rules.onset_threshold + lift
        self.offset_threshold = self.rules.offset_threshold + lift
        self.near_threshold = self.rules.near_threshold + lift

    def begin(self, line: Line, heard_from_ns: int, out: list[Record]) -> None:
        """Take the first score of an epoch, a line of no length.

        A sound that is there already has begun unseen: its onset is the start of the audio.
        """
        self._above.clear()
        self._unseen_from_ns = min(line.end_ns, max(heard_from_ns, self._quiet_until_ns))
        self.advance(line, out)
        self._unseen_from_ns = None

    def advance(self, line: Line, out: list[Record]) -> None:
        """Follow the score along ``line``; append what is to be said to ``out``."""
        for start_ns, end_ns in self._zones(line):
            # Looked up anew for each piece: an event that ended in this line has moved it.
            if start_ns < self._quiet_until_ns < end_ns:
                self._walk(line, start_ns, self._quiet_until_ns, out)
                start_ns = self._quiet_until_ns
            self._walk(line, start_ns, end_ns, out)
        detection = self._detection
        if (
            detection is not None
            and detection.event_id
            and detection.fell_ns is None
            and 0 < self.rules.update_interval_ns <= line.end_ns - detection.reported_ns
        ):
            detection.reported_ns = line.end_ns
            out.append(self._event(detection, EventState.UPDATE))

    def close(self, end_ns: int, utc_shift_ns: int, reason: CloseReason, out: list[Record]) -> None:
        """End whatever is going on; a sound that has not paused lasts until ``end_ns``."""
        if self._near is not None:
            self._end_near(end_ns, utc_shift_ns, out)
        if self._detection is not None:
            self._finish(self._detection, end_ns, utc_shift_ns, reason, out)

    def _zones(self, line: Line) -> Iterator[tuple[int, int]]:
        """Yield the stretches of ``line`` between the thresholds it crosses."""
        crossings = [
            crossing_ns
            for threshold in (self.offset_threshold, self.near_threshold, self.onset_threshold)
            if (crossing_ns := line.crossing_ns(threshold)) is not None
        ]
        if not crossings:
            return iter([(line.start_ns, line.end_ns)])
        return pairwise(sorted({line.start_ns, *crossings, line.end_ns}))

    def _walk(self, line: Line, start_ns: int, end_ns: int, out: list[Record]) -> None:
        """Follow one piece, which lies in one zone."""
        first, last = line.at(start_ns), line.at(end_ns)
        middle = (first + last) / 2
        rules = self.rules
        detection = self._detection
        if detection is None:
            if middle < self.onset_threshold:
                self._watch_near(middle, max(first, last), start_ns, line, out)
                return
            detection = self._detection = self._start(start_ns, first)
        if middle < self.offset_threshold:
            self._pause(detection, middle, start_ns, end_ns, line.utc_shift_ns, out)
            return
        if detection.fell_ns is not None:
            detection.fell_ns = None
            detection.mean.join(detection.pause_mean)
        if rules.confirm_ns and middle >= self.onset_threshold:
            detection.confirmed |= self._above.add(start_ns, end_ns) >= rules.confirm_ns
        if detection.counts_from_ns < self._quiet_until_ns <= start_ns:
            # What sounds on when the cooldown ends counts from there, as if it began there.
            detection.counts_from_ns = detection.onset_ns = start_ns
            detection.peak, detection.mean = first, Mean()
        detection.peak = max(detection.peak, first, last)
        detection.mean.add(middle, end_ns - start_ns)
        self._qualify(detection, end_ns, line.utc_shift_ns, out)

    def _pause(
        self,
        detection: Detection,
        score: float,
        start_ns: int,
        end_ns: int,
        utc_shift_ns: int,
        out: list[Record],
    ) -> None:
        """Follow a piece below the offset threshold; long enough, it ends the detection."""
        if detection.fell_ns is None:
            detection.fell_ns = start_ns
            detection.pause_mean = Mean()
        detection.pause_mean.add(score, end_ns - start_ns)
        if end_ns - detection.fell_ns >= self.rules.min_gap_ns:
            self._finish(detection, end_ns, utc_shift_ns, CloseReason.SCORE, out)

    def _start(self, start_ns: int, score: float) -> Detection:
        self._near = None
        onset_ns = start_ns if self._unseen_from_ns is None else self._unseen_from_ns
        confirmed = self.rules.confirm_ns == 0
        return Detection(start_ns, start_ns, onset_ns, confirmed=confirmed, peak=score)

    def _qualify(
        self, detection: Detection, now_ns: int, utc_shift_ns: int, out: list[Record]
    ) -> None:
        """Make the detection an event if all conditions are met now."""
        if (
            detection.qualified
            or not detection.confirmed
            or detection.counts_from_ns < self._quiet_until_ns
            or now_ns - detection.counts_from_ns < self.rules.min_duration_ns
        ):
            return
        detection.qualified = True
        if self.rules.denied:
            return
        detection.event_id = self._ledger.open()
        detection.onset_utc_ns = detection.onset_ns + utc_shift_ns
        detection.reported_ns = now_ns
        out.append(self._event(detection, EventState.ONSET))

    def _finish(
        self,
        detection: Detection,
        end_ns: int,
        utc_shift_ns: int,
        reason: CloseReason,
        out: list[Record],
    ) -> None:
        """End the detection, at the time it fell or else at ``end_ns``."""
        self._detection = None
        if detection.fell_ns is not None:
            end_ns = detection.fell_ns
        if not detection.event_id:
            why, detail = self._explain(detection, end_ns)
            self._reject(detection, end_ns, utc_shift_ns, why, detail, out)
            return
        self._ledger.close()
        self._quiet_until_ns = end_ns + self.rules.cooldown_ns
        event = self._event(detection, EventState.OFFSET)
        # The source's clock may have been corrected backwards since the onset.
        offset_utc_ns = max(detection.onset_utc_ns, end_ns + utc_shift_ns)
        out.append(replace(event, offset_ns=offset_utc_ns, reason=reason.value))

    def _explain(self, detection: Detection, end_ns: int) -> tuple[RejectionReason, str]:
        """Say why the detection was not made an event."""
        rules = self.rules
        if detection.qualified:
            return RejectionReason.DENIED, f"{rules.label!r} is denied or not among the allowed"
        duration_ns = end_ns - detection.began_ns
        if duration_ns < rules.min_duration_ns:
            return RejectionReason.TOO_SHORT, (
                f"lasted {duration_ns / 1e6:.0f} ms, "
                f"min_duration_ms is {rules.min_duration_ns / 1e6:g}"
            )
        if not detection.confirmed:
            return RejectionReason.NOT_CONFIRMED, (
                f"not above the onset threshold for {rules.confirm_ns / 1e6:g} ms "
                f"in {rules.confirm_window_ns / 1e6:g} ms"
            )
        if detection.began_ns < self._quiet_until_ns:
            left_s = (self._quiet_until_ns - detection.began_ns) / NS_PER_S
            return RejectionReason.COOLDOWN, (
                f"began with {left_s:.2f} s of cooldown_s = {rules.cooldown_ns / 1e9:g} to go"
            )
        # Cut short by a loss before its time came: all that is known is that it was too short.
        return RejectionReason.TOO_SHORT, "the audio broke off before it could be confirmed"

    def _watch_near(
        self, middle: float, peak: float, start_ns: int, line: Line, out: list[Record]
    ) -> None:
        """Follow a score that comes near the onset threshold."""
        if middle < self.near_threshold:
            if self._near is not None:
                self._end_near(start_ns, line.utc_shift_ns, out)
        elif self._near is None:
            self._near = Detection(start_ns, start_ns, start_ns, confirmed=False, peak=peak)
        else:
            self._near.peak = max(self._near.peak, peak)

    def _end_near(self, end_ns: int, utc_shift_ns: int, out: list[Record]) -> None:
        near, self._near = self._near, None
        assert near is not None
        if end_ns < self._near_due_ns:
            self._ledger.reject(RejectionReason.BELOW_THRESHOLD, reported=False)
            return
        self._near_due_ns = end_ns + self.rules.near_miss_interval_ns
        detail = f"reached {near.peak:.3f}, the onset threshold is {self.onset_threshold:.3f}"
        reason = RejectionReason.BELOW_THRESHOLD
        self._reject(near, end_ns, utc_shift_ns, reason, detail, out)

    def _reject(
        self,
        detection: Detection,
        end_ns: int,
        utc_shift_ns: int,
        reason: RejectionReason,
        detail: str,
        out: list[Record],
    ) -> None:
        self._ledger.reject(reason)
        out.append(
            Rejection(
                stream=self._ledger.stream,
                label=self.rules.label,
                reason=reason.value,
                detail=detail,
                onset_ns=detection.began_ns + utc_shift_ns,
                offset_ns=end_ns + utc_shift_ns,
                peak_score=detection.peak,
                threshold=self.onset_threshold,
            )
        )

    def _event(self, detection: Detection, state: EventState) -> Event:
        # Rounding in a long sum must not leave the range the wire allows.
        mean = min(detection.peak, detection.mean.value(otherwise=detection.peak))
        return Event(
            stream=self._ledger.stream,
            id=detection.event_id,
            state=state,
            label=self.rules.label,
            onset_ns=detection.onset_utc_ns,
            offset_ns=None,
            peak_score=detection.peak,
            mean_score=mean,
        )
