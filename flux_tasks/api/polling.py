"""When a job is polled, by what is known of how long jobs like it take.

Let a job's duration have a median and a spread (``store.durations``). Each poll costs a request, and each moment between
a job's end and the next poll is lost. With polls at these points of the distribution, in standard deviations from the
median, three polls a job are enough for a mean delay of 5 % where the spread is 15 %; they are the minimum of delay +
0.0185 × polls (in medians), found by dynamic programming over a lognormal distribution of that spread. A smaller spread
needs fewer polls and has less delay.
"""

import math
import time
from collections.abc import Callable

from flux_tasks.store.durations import Duration

_POINTS = (-0.61, 0.04, 0.52, 0.91, 1.25, 1.55, 1.83, 2.08)
_LATE = 0.1  # share of a job's age between two polls, once it takes longer than nearly all others
_UNKNOWN_FIRST, _UNKNOWN_STEP = 0.05, 0.25  # shares of the catalogue's figure, and of the age, where nothing is known
_SHORTEST, _LONGEST = 0.05, 10.0  # seconds between two polls
_LATEST_FIRST = 30.0  # seconds: whatever was learned, a job is polled by then


class Watch:
    """When one job is polled, and how likely it is that it has ended.

    Args:
        expected: asked before each poll: other jobs may have ended meanwhile.
        usual: seconds that are assumed while nothing is known.
        is_overdue: the job may have ended long ago: poll at once, and then as often as one that nothing is known of.
    """

    def __init__(
        self,
        expected: Callable[[], Duration | None] = lambda: None,
        *,
        usual: float = 10.0,
        is_overdue: bool = False,
    ) -> None:
        self._expected, self._usual, self._is_overdue = expected, usual, is_overdue
        self._begun = time.monotonic()
        self.running = 0.0
        """Seconds after which it was last seen running."""

    @property
    def age(self) -> float:
        """Seconds since the answer to the submission, or since this process looks at the job."""
        return time.monotonic() - self._begun

    def note_running(self, asked: float) -> None:
        """Note that the job was running when it was polled at the age of ``asked`` seconds."""
        self.running = max(self.running, asked)

    def next_poll(self) -> float:
        """Return the seconds until the job is to be polled."""
        expected = None if self._is_overdue else self._expected()
        age, running = self.age, self.running
        if self._is_overdue and not running:
            return 0.0
        if not running:
            at = self._usual * _UNKNOWN_FIRST if expected is None else _point(expected, _POINTS[0])
            return max(0.0, min(at, _LATEST_FIRST) - age)
        if expected is None:
            at = running * (1 + _UNKNOWN_STEP)
        else:
            later = (_point(expected, point) for point in _POINTS)
            at = next((point for point in later if point > running * (1 + expected.spread / 8)), running * (1 + _LATE))
        return max(min(at, running + _LONGEST) - age, _SHORTEST)

    def chance_ended(self, ahead: float = 0.0) -> float:
        """Return how likely it is that the job has ended, or will have ``ahead`` seconds from now; 0 if unknown."""
        expected = self._expected()
        if expected is None:
            return 0.0
        then = expected.share_ended(self.running)
        return (expected.share_ended(self.age + ahead) - then) / (1 - then) if then < 1 else 0.0


def _point(expected: Duration, deviations: float) -> float:
    return expected.seconds * math.exp(deviations * min(expected.spread, 1.0))
