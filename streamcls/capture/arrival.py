"""When audio was taken that carries no time of its own, judged by when it arrives.

Used by sources that read from a network and from sound devices, on their own thread.
"""

from collections import deque

from streamcls.units import NS_PER_S, samples_to_ns

WINDOW_S = 10.0


class ArrivalClock:
    """Times of a stream's frames from the arrival of the blocks they came in.

    A block cannot arrive before its last frame was taken, but any time later. So the earliest
    arrival of the last seconds, relative to the frame count, is the best guess at the truth:
    jitter and stalls that are caught up do not move it, a lasting pause does.

    Args:
        sample_rate_hz: Rate of the frames.
        window_s: So many of the last seconds.
    """

    def __init__(self, sample_rate_hz: int, window_s: float = WINDOW_S) -> None:
        self.sample_rate_hz = sample_rate_hz
        self.window_ns = round(window_s * NS_PER_S)
        # (arrival, guess at the time of frame 0), guesses ascending: the first one is the least.
        self._guesses: deque[tuple[int, int]] = deque()

    def observe(self, frame_end: int, arrived_ns: int) -> None:
        """Note that everything before frame `frame_end` has arrived."""
        guess_ns = arrived_ns - samples_to_ns(frame_end, self.sample_rate_hz)
        while self._guesses and self._guesses[-1][1] >= guess_ns:
            self._guesses.pop()
        self._guesses.append((arrived_ns, guess_ns))
        while arrived_ns - self._guesses[0][0] > self.window_ns:
            self._guesses.popleft()

    def time_ns(self, frame: int) -> int:
        """Return the time of a frame; something must have been observed."""
        return self._guesses[0][1] + samples_to_ns(frame, self.sample_rate_hz)
