"""Turns for writes to one name: Google's object store refuses more than about one a second (HTTP 429).

gcsfs would wait for one to two seconds after each that is refused, and for twice as long after the next. A few writes
in quick succession are let through, as the service does; what is written on and on has one turn a second.
"""

from __future__ import annotations

import time

from flux_tasks.files.locations import canonical, plain

__all__ = ["wait_for_turn"]

_SECONDS = {"gs": 1.0}  # between two writes to one name
_AT_ONCE = 3  # that do not wait
_MOST = 1_000  # names that are known before those without a write in the last seconds are forgotten

_due: dict[str, float] = {}
"""By location: when its next write would have its turn if none could come early, by ``time.monotonic``."""


def wait_for_turn(location: str) -> None:
    """Wait until ``location`` can be written without being refused for its rate. It sleeps: call it on a thread."""
    seconds = _SECONDS.get(canonical(plain(location))[0])
    if seconds is None:
        return
    now = time.monotonic()
    due = max(now, _due.pop(location, now))
    if len(_due) >= _MOST:
        for other in [name for name, then in [*_due.items()] if then <= now]:
            _due.pop(other, None)
    _due[location] = due + seconds
    if (pause := due - now - (_AT_ONCE - 1) * seconds) > 0:
        time.sleep(pause)
