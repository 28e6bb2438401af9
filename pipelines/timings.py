"""How long jobs take: what a plan's duration is worked out from, learnt by each run and kept in the store."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from flux_tasks import job
from flux_tasks.store import Store

__all__ = ["USUAL", "Timings"]

USUAL = 10.0
"""Seconds that a job is taken to last as long as the store knows no better."""

_WEIGHT = 0.3  # of this run against what was known


class Timings:
    """Mean seconds of a job, by tool."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: dict[str, list[float]] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        """Take note of the jobs of one item."""
        for step in row["steps"]:
            seconds = job.seconds_of(step.get("job_id", "")) if step["outcome"] == "done" else None
            if seconds is not None:
                sums = self._seen.setdefault(step["tool"], [0.0, 0.0])
                sums[0] += seconds
                sums[1] += 1

    def close(self) -> None:
        """Write down what was learnt; a store that cannot be written now will learn it another time."""
        for tool, (seconds, jobs) in self._seen.items():
            mean = seconds / jobs
            before = self.of(tool)
            known = mean if before is None else (1 - _WEIGHT) * before + _WEIGHT * mean
            with suppress(OSError):
                self._store.put_record("timings", tool, {"seconds": round(known, 3)})

    def of(self, tool: str) -> float | None:
        """Mean seconds of a job of ``tool``, or None if no run on this store has made one."""
        try:
            seconds = (self._store.record("timings", tool) or {}).get("seconds")
        except (OSError, ValueError):
            return None
        return float(seconds) if isinstance(seconds, (int, float)) and 0 <= seconds < 1e6 else None
