"""What goes wrong: every kind of fault that a client which polls can meet, each of them rarely, and kinds of rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["DEADLINE", "FAULTS", "TIMEOUT", "TOO_SLOW", "Leg", "denser"]

TIMEOUT, TOO_SLOW, DEADLINE = 1.5, 2.0, 3.0
"""Seconds: what a client waits for an answer, what is longer than that, and what it waits for a job."""

FAULTS: tuple[dict[str, Any], ...] = (
    {"fault": "submit.answer", "status": 429, "retry_after": 0.05, "probability": 0.04},
    {"fault": "submit.answer", "status": 500, "probability": 0.006},
    {"fault": "submit.answer", "status": 503, "charged": True, "probability": 0.006},
    {"fault": "submit.answer", "status": 400, "probability": 0.004},
    {"fault": "submit.answer", "status": 422, "probability": 0.004},
    {"fault": "submit.answer", "status": 402, "probability": 0.003},
    {"fault": "submit.answer", "status": 403, "probability": 0.003},
    {"fault": "submit.answer", "status": 307, "probability": 0.002},
    {"fault": "submit.cut", "probability": 0.006},
    {"fault": "submit.cut", "charged": False, "probability": 0.006},
    {"fault": "submit.cut", "sent": 120, "probability": 0.006},
    {"fault": "submit.slow", "seconds": 0.1, "probability": 0.03},
    {"fault": "submit.slow", "seconds": TOO_SLOW, "probability": 0.004},
    {"fault": "submit.drip", "seconds": 0.2, "probability": 0.02},
    {"fault": "submit.drip", "seconds": TOO_SLOW * 2, "probability": 0.004},
    {"fault": "submit.no_id", "probability": 0.006},
    {"fault": "submit.no_polling_url", "probability": 0.03},
    {"fault": "submit.foreign_polling_url", "probability": 0.03},
    {"fault": "job.moderated", "probability": 0.01},
    {"fault": "job.moderated", "stage": "request", "reasons": ["Violence"], "probability": 0.01},
    {"fault": "job.error", "probability": 0.01},
    {"fault": "job.error", "says": "Failed", "details": {}, "probability": 0.01},
    {"fault": "job.never_ends", "probability": 0.002},
    {"fault": "job.wrong_size", "scale": 1.25, "probability": 0.01},
    {"fault": "job.solid", "probability": 0.02},
    {"fault": "poll.unknown", "times": 3, "probability": 0.03},
    {"fault": "poll.unknown", "times": 0, "probability": 0.01},
    {"fault": "poll.answer", "status": 500, "times": 2, "probability": 0.03},
    {"fault": "poll.answer", "status": 429, "retry_after": 0.05, "times": 2, "probability": 0.03},
    {"fault": "poll.answer", "status": 403, "probability": 0.003},
    {"fault": "poll.code", "status": 503, "times": 0, "probability": 0.03},
    {"fault": "poll.status", "says": "Processing", "times": 2, "probability": 0.03},
    {"fault": "poll.status", "says": "Contemplating", "times": 2, "probability": 0.02},
    {"fault": "poll.no_sample", "times": 2, "probability": 0.03},
    {"fault": "poll.cut", "times": 2, "probability": 0.03},
    {"fault": "poll.cut", "sent": 100, "probability": 0.02},
    {"fault": "poll.slow", "seconds": 0.1, "probability": 0.03},
    {"fault": "poll.slow", "seconds": TOO_SLOW, "probability": 0.004},
    {"fault": "poll.drip", "seconds": 0.2, "probability": 0.02},
    {"fault": "delivery.answer", "status": 500, "probability": 0.03},
    {"fault": "delivery.answer", "status": 503, "times": 0, "probability": 0.003},
    {"fault": "delivery.expired", "probability": 0.03},
    {"fault": "delivery.cut", "probability": 0.03},
    {"fault": "delivery.truncated", "probability": 0.03},
    {"fault": "delivery.truncated", "share": 0, "probability": 0.02},
    {"fault": "delivery.garbage", "probability": 0.03},
    {"fault": "delivery.oversized", "megabytes": 70, "probability": 0.002},
    {"fault": "delivery.redirect", "probability": 0.02},
    {"fault": "delivery.redirect", "to": "same", "probability": 0.02},
    {"fault": "delivery.redirect", "to": "same", "times": 0, "probability": 0.003},
    {"fault": "delivery.slow", "seconds": 0.1, "probability": 0.03},
    {"fault": "delivery.drip", "seconds": 0.2, "probability": 0.03},
)
"""Every kind that a client which polls can meet; each is rare, together two jobs in three meet one."""


@dataclass(frozen=True)
class Leg:
    """What one kind of round is like."""

    name: str
    kills: int = 12
    processes: int = 1
    items: int = 12
    faults: Sequence[Mapping[str, Any]] = FAULTS
    flaky: float = 0.0
    skew: float = 0.0
    """Seconds by which the clock of a process may be ahead or behind."""
    machines: int = 1
    """Machines of one name that the processes believe to run on."""
    stops: float = 0.0
    """The share of blows that stop a process for a while, longer or shorter than its lease."""
    policy: str = "hold"
    latency: tuple[float, float] = (0.05, 0.05)
    max_jobs: int | None = None
    report: bool = False
    life: float = 0.6
    """Seconds within which a kill by the clock falls."""
    patience: float = 300.0
    """Seconds after which a run that was not killed counts as hanging."""


def denser(faults: Sequence[Mapping[str, Any]], times: float) -> list[dict[str, Any]]:
    """The same faults, more often; those that end an item, a run, or much time stay as rare as they are."""
    return [dict(f) if _is_grave(f) else {**f, "probability": min(1.0, f["probability"] * times)} for f in faults]


def _is_grave(fault: Mapping[str, Any]) -> bool:
    name, status = fault["fault"], fault.get("status", 0)
    if name == "submit.answer":
        return bool(status != 429)
    return (
        name.startswith(("job.", "submit.cut", "submit.no_id", "delivery.oversized"))
        or (name == "poll.answer" and status == 403)
        or (fault.get("times") == 0 and name != "poll.code")
        or fault.get("seconds", 0) > 1
    )
