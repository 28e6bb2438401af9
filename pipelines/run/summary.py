"""The sums of a run, by outcome and by tool."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from flux_tasks.errors import DeliveryFailed, JobLost, StillRunning, SubmissionUncertain
from flux_tasks.images.reference import makes_previews
from flux_tasks.jobs.result import is_loss
from pipelines.data.manifest import FINE, ManifestRow, StepOutcome, errors_of, paid_steps
from pipelines.run.estimate import Estimate

_NAMED = 10
_NOT_COLLECTED = frozenset(error.__name__ for error in (StillRunning, DeliveryFailed, JobLost))


@dataclass
class ToolTotal:
    """The jobs of one tool, with what they were expected to cost and did cost, in credits, as far as that is known.

    ``unpriced`` are those whose cost the service did not say, ``unestimated`` those without a published price.
    """

    jobs: int = 0
    estimate: float = 0.0
    cost: float = 0.0
    unpriced: int = 0
    unestimated: int = 0

    @property
    def is_priced(self) -> bool:
        """Whether the service has said what any of them cost."""
        return self.jobs > self.unpriced

    @property
    def difference(self) -> float | None:
        """Credits that they cost more than expected; None unless both are known of all of them."""
        is_known = self.jobs and not self.unpriced and not self.unestimated
        return round(self.cost - self.estimate, 6) + 0.0 if is_known else None


@dataclass
class Summary:
    """The sums of a run.

    Attributes:
        total: items of the source.
        jobs: paid calls made by this run.
        collected: jobs paid for by an earlier run and collected by this one.
        cached: answers from the store.
        duplicates: items that were left out, since another one has their picture; among those that were skipped.
        cost: credits of the jobs of this run, as far as the service says.
        unpriced: jobs whose cost the service did not say.
        uncertain: submissions that may have been charged and whose id is not known.
        uncollected: jobs that are paid for and in the journal, to be collected by the next run.
        warnings: how many warnings there are of steps that were skipped, and of what pictures have lost.
        warned: the first of these, as sentences.
        failed: the first rows of items that did not end well, in the order in which they ended.
        stopped: why the run was stopped, or an empty string.
        unreported: why its report could not be written, or an empty string.
        sample: the price of all items, if the run was over a sample of them.
        shards: how many parts the items were worked on in, each by a process of its own; 0 for a run without.
        shards_on: what these ran on, as ``--on`` names it.
        shards_begun: how many of them had something left to do.
        shard: the part that the run works on, such as ``2/8``, where somebody has divided the items by hand.
    """

    name: str
    run_id: str = ""
    started: str = ""
    endpoint: str = ""
    engine: str = ""
    total: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    jobs: int = 0
    collected: int = 0
    cached: int = 0
    duplicates: int = 0
    cost: float = 0.0
    unpriced: int = 0
    uncertain: int = 0
    uncollected: int = 0
    tools: dict[str, ToolTotal] = field(default_factory=dict)
    warnings: int = 0
    warned: list[str] = field(default_factory=list)
    failed: list[ManifestRow] = field(default_factory=list)
    seconds: float = 0.0
    stopped: str = ""
    unreported: str = ""
    manifest: str = ""
    report: str = ""
    sample: Estimate | None = None
    shards: int = 0
    shards_on: str = ""
    shards_begun: int = 0
    shard: str = ""

    @property
    def items(self) -> int:
        """How many items ended."""
        return sum(self.counts.values())

    @property
    def bad(self) -> int:
        """How many items did not end well."""
        return sum(count for outcome, count in self.counts.items() if outcome not in FINE)

    @property
    def is_preview(self) -> bool:
        """Whether its jobs were made on this machine, which costs nothing; known once the endpoint was asked."""
        return makes_previews(self.engine)

    @property
    def beyond_cost(self) -> str:
        """What follows the price of its jobs: how many have none that is known; empty if there is none."""
        jobs = f"{self.unpriced:,} {'job' if self.unpriced == 1 else 'jobs'}"
        return f" plus {jobs} of unknown cost" if self.unpriced else ""

    @property
    def is_fine(self) -> bool:
        """Whether every item ended well and nothing stopped the run."""
        return not self.problem

    @property
    def end(self) -> Literal["fine", "failed", "stopped"]:
        """How it ended: all items well, some not (``failed``), or not by itself (``stopped``)."""
        return "stopped" if self.stopped else "failed" if self.problem else "fine"

    @property
    def problem(self) -> str:
        """Why the run did not end well, in one sentence; empty if it did."""
        if self.stopped:
            return self.stopped
        bad = {outcome: n for outcome, n in sorted(self.counts.items()) if n and outcome not in FINE}
        what = ", ".join(f"{n} {outcome}" for outcome, n in bad.items())
        return f"{sum(bad.values())} of {self.total} items did not end well: {what}" if bad else ""

    def add(self, row: ManifestRow) -> None:
        """Add an item."""
        if self.sample is not None:
            self.sample.add(row)
        self.counts[str(row["outcome"])] += 1
        if row["outcome"] not in FINE and len(self.failed) < _NAMED:
            self.failed.append(row)
        self.duplicates += "duplicate_of" in row
        self.cached += len(paid_steps(row, StepOutcome.CACHED))
        self.collected += len(paid_steps(row, StepOutcome.COLLECTED))
        for step in paid_steps(row, StepOutcome.DONE):
            cost, estimate = step.get("cost"), step.get("estimate")
            self.jobs += 1
            self.cost += cost or 0.0
            self.unpriced += cost is None
            total = self.tools.setdefault(step["tool"], ToolTotal())
            total.jobs += 1
            total.unpriced += cost is None
            total.cost += cost or 0.0
            total.estimate += estimate or 0.0
            total.unestimated += estimate is None
        for step in row["steps"]:
            for warning in step.get("warnings", ()):
                if step["outcome"] is not StepOutcome.SKIPPED and not is_loss(warning):
                    continue
                self.warnings += 1
                if len(self.warned) < _NAMED:
                    self.warned.append(f"{row['item']}: {step['id']}: {warning}")
        for error in errors_of(row):
            self.uncertain += error["kind"] == SubmissionUncertain.__name__
            self.uncollected += error["kind"] in _NOT_COLLECTED
