"""When a job is polled, by what is known of how long jobs like it take.

A job's duration has a middle and a spread (``store.durations``). Each poll costs a request, and each moment between a
job's end and the next poll is lost. Polls are made at ``_POINTS`` of the distribution, in standard deviations from the
middle: three polls a job then have a mean delay of 5 % where the spread is 15 %. These points are the minimum of
delay + 0.0195 × polls (as shares of it), found by dynamic programming over a lognormal distribution of that spread. A
smaller spread has fewer polls and less delay.
"""

import math
import time
from collections.abc import Callable

from flux_tasks.store.durations import Duration

_POINTS = (-0.58, 0.07, 0.55, 0.94, 1.28, 1.59, 1.87, 2.13)
_LATE = 0.1  # share of a job's age between two polls, once it takes longer than nearly all others
_UNKNOWN_FIRST, _UNKNOWN_STEP = 0.025, 0.25  # shares of the catalogue's figure, and of the age, where nothing is known
_SHORTEST, _LONGEST = 0.05, 10.0  # seconds between two polls
_LATEST_FIRST = 30.0  # seconds: whatever was learned, a job is polled by then


class Watch:
    """When one job is polled, and how likely it is that it has ended.

    Args:
        expected: asked before each poll: other jobs may have ended meanwhile.
        usual: seconds that are assumed while nothing is known.
        begun: when the submission was answered, by ``time.monotonic``; None for a job of an earlier attempt. That may
            have ended long ago: it is polled at once, and then as one that nothing is known of.

    Attributes:
        is_earlier: whether it is a job of an earlier attempt.
        polled: age at which it was polled last; 0 if never.
        running: age at the last poll that found it running.
    """

    def __init__(
        self,
        expected: Callable[[], Duration | None] = lambda: None,
        *,
        usual: float = 10.0,
        begun: float | None = None,
    ) -> None:
        self._expected, self._usual, self.is_earlier = expected, usual, begun is None
        self._begun = time.monotonic() if begun is None else begun
        self.polled = self.running = 0.0

    @property
    def age(self) -> float:
        """Seconds since the answer to the submission, or since this process looks at the job."""
        return time.monotonic() - self._begun

    def note_poll(self) -> None:
        """Note that the job is polled now."""
        self.polled = max(self.age, 1e-9)

    def note_running(self) -> None:
        """Note that the job was still running when it was polled last."""
        self.running = self.polled

    def next_poll(self, trip: float = 0.0) -> float:
        """Return the seconds until the job is to be polled, if an answer takes ``trip`` seconds."""
        expected = None if self.is_earlier else self._expected()
        age, polled = self.age, self.polled
        if not polled:
            at = self._usual * _UNKNOWN_FIRST if expected is None else _point(expected, _first_point(expected, trip))
            return 0.0 if self.is_earlier else max(0.0, min(at, _LATEST_FIRST) - age)
        if expected is None:
            at = polled * (1 + _UNKNOWN_STEP)
        else:
            later = (_point(expected, point) for point in _POINTS)
            at = next((point for point in later if point > polled * (1 + expected.spread / 8)), polled * (1 + _LATE))
        return max(min(at, polled + _LONGEST) - age, _SHORTEST)

    def chance_ended(self) -> float:
        """Return how likely it is that the job has ended since it was seen running; 0 if that is unknown."""
        expected = self._expected()
        if expected is None:
            return 0.0
        then = expected.share_ended(self.running)
        now = expected.share_ended(self.age)
        return (now - then) / (1 - then) if then < now else 0.0


def _first_point(expected: Duration, trip: float) -> float:
    """Return where the first poll is made: later where the one after it cannot follow soon.

    With ``gap`` standard deviations between two polls, the mean delay is least where the share that has ended is
    ``gap`` times the density; the logarithm is close to that.
    """
    gap = math.log(trip + _SHORTEST) - math.log(expected.seconds) - math.log(expected.spread)
    return max(_POINTS[0], min(gap - math.log(1.25), 2.0))


def _point(expected: Duration, deviations: float) -> float:
    return expected.seconds * math.exp(deviations * min(expected.spread, 1.0))
