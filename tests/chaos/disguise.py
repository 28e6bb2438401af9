"""What a run believes of its surroundings: another clock, another machine of the same name, and short leases.

``wear_clock`` comes before anything that keeps ``time.time``; ``wear`` is for the process that is to be killed. There,
each request tells the server by ``SENDER`` which process sent it, and when by the true clock: a busy server reads it
later, perhaps after that process has died.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

__all__ = ["LEASE", "SENDER", "wear", "wear_clock"]

SENDER = "x-chaos-sender"

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
    _sign_requests()
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


def _sign_requests() -> None:
    from flux_tasks.api.connection import Connection

    plain = Connection.__init__

    async def sign(request: Any) -> None:
        request.headers[SENDER] = f"{os.getpid()} {time.time() - _skew[0]}"

    def signing(self: Connection, *arguments: Any, **options: Any) -> None:
        plain(self, *arguments, **options)
        self._api.event_hooks = {"request": [sign]}

    Connection.__init__ = signing  # type: ignore[method-assign]
