"""What a run believes of its surroundings: another clock, another machine of the same name, and short leases.

``wear_clock`` comes before anything that keeps ``time.time``; ``wear`` is for the process that is to be killed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

__all__ = ["LEASE", "wear", "wear_clock"]

LEASE = 4.0
"""Seconds of a lease in a disguised run; an owner looks at its entry again after a twelfth of it, as in the product."""

_skew = [0.0]


def wear_clock() -> None:
    """Let this process and its children have a clock that can be wrong."""
    true_time = time.time
    time.time = lambda: true_time() + _skew[0]


def wear(environment: Mapping[str, str]) -> None:
    """Put on what ``CHAOS_SKEW`` (seconds), ``CHAOS_MACHINE`` (its name) and ``CHAOS_LEASE`` (seconds) say."""
    _skew[0] = float(environment.get("CHAOS_SKEW", "0"))
    if lease := environment.get("CHAOS_LEASE"):
        from flux_tasks.jobs import submission
        from flux_tasks.store import journal

        journal.LEASE = submission.LEASE = float(lease)  # type: ignore[misc]
        submission._LATE = float(lease) / 12
    if machine := environment.get("CHAOS_MACHINE"):
        import socket

        from flux_tasks.store import owner

        socket.gethostname = lambda: "one-name"
        owner._machine = lambda pid: f"boot-{machine}/pid:[{machine}]"  # type: ignore[assignment]
        os.environ["HOSTNAME"] = "one-name"
