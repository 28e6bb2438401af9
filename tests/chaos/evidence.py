"""The evidence: everything that is known of a round from outside, and whom it blames for a job that is not settled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from watched import Post

from flux_tasks.local.faults.kinds import SubmitAnswer, SubmitCut, SubmitDrip, SubmitNoId, SubmitSlow
from flux_tasks.local.service.charges import Entry
from flux_tasks.store.journal import Entry as Unsettled
from flux_tasks.store.owner import readable
from pipelines.recipe import Recipe

__all__ = ["Evidence"]


@dataclass
class Evidence:
    """Everything that is known of a round from outside."""

    recipe: Recipe
    engine: str
    store: str
    spool: Path
    logs: Sequence[Path]
    written: Sequence[Path]
    secret: str
    charges: Sequence[Entry]
    posts: Sequence[Post]
    kills: Mapping[int, float]
    """When each process died, in seconds since 1970."""
    manifests: Mapping[int, tuple[int, list[dict[str, Any]]]]
    """Exit code and rows of each process's last run, which ended by itself."""
    store_failures: Sequence[tuple[int, str, str, str]] = ()
    stops: Sequence[tuple[int, float, float]] = ()
    """Which process was stopped, and from when to when, in seconds since 1970."""
    skews: Mapping[int, float] = field(default_factory=dict)
    """By how many seconds the clock of each process was ahead."""
    pids: Mapping[int, int] = field(default_factory=dict)
    """The process behind each of the ``manifests``."""
    lags: Sequence[tuple[float, float]] = ()
    """From when to when this machine had no time for its programs, in seconds since 1970."""
    timeout: float = 60.0
    writing: float = 1.0
    """Seconds that a process may take to write down what was answered, unless it was seen to have done so earlier."""
    policy: str = "hold"
    is_over: bool = False
    """Whether the faults have ended and a further run has been through: nothing may be left on its way."""

    def is_unknowable(self, entry: Entry) -> bool:
        """Whether the id of this charge may never have reached anybody: a fault, or a kill before it was written."""
        post = next((post for post in self.posts if post.job == entry.id), None)
        if post is None or post.answered is None or self.is_uncertain(post):
            return True
        return self._is_killed_in(post) or self._is_in_a_stop(post)

    def _is_killed_in(self, post: Post) -> bool:
        """Check whether who sent this POST was killed before it could write down the id.

        A busy server may read the POST long after that kill. A job that was ever polled has its id in the journal.
        """
        if post.polled is not None or post.answered is None:
            return False
        if post.pid:
            return self.kills.get(post.pid, math.inf) < post.answered + self.writing
        begun, over = post.sent - self.writing, post.answered + self.writing
        return any(begun < killed < over for killed in self.kills.values())

    def cause_of_hold(self, entry: Unsettled, posts: Sequence[Post]) -> str:
        """Return who is to blame for a job that is held, after these POSTs of it; empty if nobody is."""
        if any(self.is_uncertain(post) for post in posts):
            return "fault"
        if not entry.owner and any(self._is_in_a_stop(post) for post in posts):
            return "stop in the POST"
        pid = _pid_of(entry)
        entry = replace(entry, at=entry.at - self.skews.get(pid, 0.0))
        last = next((post for post in reversed(posts) if post.pid in (0, pid)), None)
        killed = self.kills.get(pid)
        if pid and self._is_stopped_in(last, entry, pid, killed):
            return "stop in the POST"
        if killed is not None and (cause := self._cause_of_kill(entry, last, killed)):
            return cause
        if any(f"/journal/{entry.key}" in path for _, _, _, path in self.store_failures):
            return "store"
        return ""

    def _is_in_a_stop(self, post: Post) -> bool:
        """Check whether who sent this POST was stopped between its intent and the id in the journal."""
        begun, over = post.sent - self.writing, (post.answered or post.arrived) + self.writing
        over = min(over, post.polled or over)
        return any(since < over and begun < until for pid, since, until in self.stops if post.pid in (0, pid))

    def _is_stopped_in(self, last: Post | None, entry: Unsettled, pid: int, killed: float | None) -> bool:
        """Check whether the owner was stopped from the intent on, or before it had the answer: it gives up waiting."""
        begun = entry.at - 0.1 if last is None else last.sent - self.writing
        over = killed or (last.answered or 0.0) + self.writing if last else killed or entry.at + self.writing
        return any(owner == pid and since < over and begun < until for owner, since, until in self.stops)

    def _cause_of_kill(self, entry: Unsettled, last: Post | None, killed: float) -> str:
        """What the kill at ``killed`` came into; empty if there was time enough to write down how it ended."""
        is_earlier = last is not None and last.answered is not None and last.answered < entry.at
        if last is None or is_earlier:  # that POST was another attempt's, which has been settled
            return "kill before the POST" if killed - entry.at < self.writing else ""
        if last.polled is not None:
            return ""
        if last.answered is None or last.answered > killed - 0.005:
            return "kill in the POST"
        if last.status == 429:
            return "kill while waiting after 429"
        return "kill after the answer" if killed - last.answered < self.writing else ""

    def is_uncertain(self, post: Post) -> bool:
        """Whether a client that lives cannot know what became of this submission."""
        rule = post.rule
        if isinstance(rule, (SubmitCut, SubmitNoId)) or (isinstance(rule, SubmitAnswer) and rule.status >= 500):
            return True
        if isinstance(rule, (SubmitSlow, SubmitDrip)) and rule.seconds > 0.5 * self.timeout:
            return True
        # An overloaded machine is slow of itself: what came so late, the client had given up.
        if post.polled is not None:
            return False
        is_late = post.over is not None and post.over - post.sent > 0.5 * self.timeout
        return is_late or self._is_in_a_lag(post.sent, post.over or post.sent + 2 * self.timeout)

    def _is_in_a_lag(self, begun: float, over: float) -> bool:
        """Check whether this machine had no time for its programs for a good part of their time-out."""
        return sum(max(0.0, min(until, over) - max(since, begun)) for since, until in self.lags) > 0.3 * self.timeout

    def is_held_up(self, number: int) -> bool:
        """Check whether a process, or this machine, was stopped for so long that it may have heard no answer."""
        pid = self.pids.get(number, 0)
        is_late = any(until - since > 0.3 * self.timeout for since, until in self.lags)
        return is_late or any(owner == pid for owner, _, _ in self.stops)


def _pid_of(entry: Unsettled) -> int:
    """Return the process that owns an entry, or 0."""
    pid = readable(entry.owner).rpartition(":")[2]
    return int(pid) if pid.isdigit() else 0
