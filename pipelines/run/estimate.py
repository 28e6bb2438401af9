"""What all items are expected to cost, by what those of a sample have cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

from flux_tasks.errors import listed
from flux_tasks.units import price
from pipelines.data.manifest import ItemOutcome, ManifestRow, StepOutcome, paid_steps

__all__ = ["Estimate"]

_MADE = (StepOutcome.DONE, StepOutcome.COLLECTED, StepOutcome.CACHED)


@dataclass
class Estimate:
    """The price of all items, from the settled costs of a sample.

    An item has cost what its jobs did, in whichever run they were paid; a job that answers several items counts once.

    Attributes:
        total: items that the sample stands for.
        looked_at: items that were looked at to choose it.
        steps: ids of the steps that are paid for, and of which the sample has had no job.
        costs: credits of each item.
        held: items that are not settled, and count for nothing.
        known: items besides the sample that an earlier run has settled, which cost nothing more.
        unpriced: jobs whose cost the service has not said.
    """

    total: int
    looked_at: int
    steps: Sequence[str]
    costs: list[float] = field(default_factory=list)
    held: int = 0
    known: int = 0
    unpriced: int = 0
    _jobs: set[str] = field(default_factory=set)

    def add(self, row: ManifestRow) -> None:
        """Add an item of the sample."""
        if row["outcome"] == ItemOutcome.HELD:
            self.held += 1
            return
        cost = 0.0
        for step in (step for outcome in _MADE for step in paid_steps(row, outcome)):
            self.steps = [name for name in self.steps if name != step["id"]]
            job = step.get("job_id") or f"{row['index']} {step['id']} {len(self._jobs)}"
            if job not in self._jobs:
                self._jobs.add(job)
                cost += step.get("cost") or 0.0
                self.unpriced += step.get("cost") is None
        self.costs.append(cost)

    @property
    def credits(self) -> float:
        """Credits that all items are expected to cost."""
        return mean(self.costs) * self.total if self.costs else 0.0

    @property
    def left(self) -> float:
        """Credits that the items besides the sample are expected to cost, without those that are settled."""
        others = self.total - len(self.costs) - self.held
        new = max(0, others - self.known) / others if others > 0 else 0.0
        return max(0.0, self.credits - sum(self.costs)) * new

    @property
    def error(self) -> float | None:
        """Two standard errors of ``credits``, by the spread in the sample; None if that is not known."""
        size = len(self.costs)
        if size == self.total:
            return 0.0
        return (
            2 * stdev(self.costs) / math.sqrt(size) * math.sqrt(1 - size / self.total) * self.total
            if size > 1
            else None
        )

    @property
    def range(self) -> tuple[float, float] | None:
        """Credits between which the price lies probably."""
        error = self.error
        return None if error is None else (max(sum(self.costs), self.credits - error), self.credits + error)

    def to_dict(self) -> dict[str, Any]:
        """Return it as data for JSON."""
        low, high = self.range or (None, None)
        of = {"items": len(self.costs) + self.held, "of": self.total, "looked_at": self.looked_at, "held": self.held}
        price = {"credits": self.credits, "low": low, "high": high, "left": self.left, "unpriced": self.unpriced}
        return {**of, **price}

    def lines(self) -> Iterator[str]:
        """Yield what a person should know, as sentences."""
        size = len(self.costs) + self.held
        yield f"sample: {size:,} of {self.total:,} items, chosen by size and sharpness among {self.looked_at:,}"
        if not self.costs:
            yield "price of all items: unknown, because no item of the sample is settled"
        elif not self._jobs:
            yield "price of all items: nothing, as far as the sample tells: none of its items needed a job"
        else:
            yield f"price of all {self.total:,} items: about {price(self.credits)}{self._spread()}"
            if size < self.total:
                yield f"the other {self.total - size:,}: {self._left(self.total - size)}"
        held = "1 item that is held" if self.held == 1 else f"{self.held:,} items that are held"
        unpriced = f"{self.unpriced:,} {'job' if self.unpriced == 1 else 'jobs'} of unknown cost"
        idle = f"jobs of {listed(self.steps)}, which no item of the sample needed"
        missing = [
            what for what, is_there in ((held, self.held), (unpriced, self.unpriced), (idle, self.steps)) if is_there
        ]
        if missing:
            yield f"not in that price: {'; '.join(missing)}"

    def _left(self, others: int) -> str:
        if self.known >= others:
            return "nothing more, because earlier runs have settled them"
        new = f" for the {others - self.known:,} that no earlier run has settled" if self.known else ""
        return f"about {price(self.left)}{new}, less what the store has of them already"

    def _spread(self) -> str:
        if self.error is None:
            return ", from one item only"
        if not self.error:
            return ""
        low, high = self.range or (0.0, 0.0)
        return f", probably {low:,.0f} to {high:,.0f} credits (mean of {len(self.costs):,} items, ± 2 standard errors)"
