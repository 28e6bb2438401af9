"""The plan: what a run would do and cost. It spends nothing and writes nothing.

Every item goes through the graph as in a run, and where a run would pay for a job the plan goes on with a stand-in of
the size that the result will have. So conditions on what is there already are decided, results in the store are found,
and jobs that several items share are counted once. What depends on pictures that are not made yet is told apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from flux_tasks import job, portal
from flux_tasks.errors import StoreUnavailable
from flux_tasks.images import ImageRef
from flux_tasks.journal import Entry, Journal
from flux_tasks.settings import Settings, current, use
from flux_tasks.store import Store
from pipelines.facts import Facts
from pipelines.forecast import Forecast
from pipelines.graph import Node
from pipelines.plan_table import table
from pipelines.purse import spent_before
from pipelines.recipe import Recipe
from pipelines.sinks import Outputs
from pipelines.survey import items, survey
from pipelines.timings import USUAL, Timings

__all__ = ["Amount", "Plan", "Planner", "StepPlan", "plan"]

KONTEXT_MAX_SLOTS = 6
_TOLD = 20


@dataclass
class Amount:
    """Jobs and what they are expected to cost: ``credits`` of those with a published price, ``unpriced`` the others."""

    jobs: int = 0
    credits: float = 0.0
    unpriced: int = 0

    def add(self, estimate: float | None) -> None:
        """One more job."""
        self.jobs += 1
        self.credits += estimate or 0.0
        self.unpriced += estimate is None


@dataclass
class StepPlan:
    """What one step would do, over all items and all its combinations.

    Attributes:
        does: the tool or operation.
        paid: jobs that would be paid for, each counted once.
        undecided: jobs that depend on a condition which cannot be decided yet; not in ``paid``.
        retries: jobs at most, if results are not as expected; not in ``paid``.
        cached: answers from the store.
        shared: calls that another item's job answers.
        collected: jobs that an interrupted run has paid for.
        held: jobs that may have been charged, and whose id is not known.
        skipped: conditions that do not hold.
        nothing_to_do: an empty mask, or a picture that is as it should be.
        local: operations done here, free.
        moderated: refused earlier, and not tried again.
        blocked: something before it cannot be done.
    """

    id: str
    does: str
    is_paid: bool
    paid: Amount = field(default_factory=Amount)
    undecided: Amount = field(default_factory=Amount)
    retries: Amount = field(default_factory=Amount)
    cached: int = 0
    shared: int = 0
    collected: int = 0
    held: int = 0
    skipped: int = 0
    nothing_to_do: int = 0
    local: int = 0
    moderated: int = 0
    blocked: int = 0


@dataclass
class Plan:
    """What a run of ``recipe`` would do.

    Attributes:
        items: how many there are.
        steps: in the order of the graph.
        seconds: expected duration at ``max_jobs`` jobs at a time.
        assumed: tools whose jobs nobody has timed on this store; they are taken to last 10 s.
        invalid: what is wrong with items, the first of them; ``troubled`` counts them all.
        budget: the cap in credits, or None.
        spent: credits that count against it already, because earlier runs did not get to their end.
    """

    recipe: str
    endpoint: str
    engine: str
    items: int = 0
    steps: list[StepPlan] = field(default_factory=list)
    seconds: float = 0.0
    max_jobs: int = 0
    assumed: list[str] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)
    troubled: int = 0
    budget: float | None = None
    spent: float = 0.0

    def __str__(self) -> str:
        return table(self)

    @property
    def jobs(self) -> int:
        """Jobs that the run would pay for, as far as that can be told."""
        return sum(step.paid.jobs for step in self.steps)

    @property
    def credits(self) -> float:
        """What they are expected to cost, those without a published price left out."""
        return sum(step.paid.credits for step in self.steps)

    @property
    def unpriced(self) -> int:
        """How many of them have no published price."""
        return sum(step.paid.unpriced for step in self.steps)

    @property
    def collected(self) -> int:
        """Jobs that an interrupted run has paid for, and this one would collect."""
        return sum(step.collected for step in self.steps)

    def total(self, kind: str) -> Amount:
        """All ``undecided`` or all ``retries``."""
        found = Amount()
        for step in self.steps:
            amount: Amount = getattr(step, kind)
            found.jobs += amount.jobs
            found.credits += amount.credits
            found.unpriced += amount.unpriced
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        totals = {
            "jobs": self.jobs,
            "credits": round(self.credits, 4),
            "dollars": round(self.credits / 100, 4),
            "unpriced": self.unpriced,
            "collected": self.collected,
            "undecided": asdict(self.total("undecided")),
            "retries": asdict(self.total("retries")),
        }
        return asdict(self) | totals


def plan(
    recipe: Recipe,
    *,
    limit: int | None = None,
    budget: float | None = None,
    settings: Settings | None = None,
    **changes: Any,
) -> Plan:
    """What a run of ``recipe`` would do and cost.

    Args:
        limit: so many items at most.
        budget: instead of the recipe's own.
        changes: of the settings, as for ``flux_tasks.use``.

    Raises:
        RecipeError: what is wrong with recipe or source.
        EndpointUnreachable: the endpoint has to be asked which engine it is, and does not answer.
        StoreUnavailable: the store cannot be read.
    """
    with use(settings or current(), **changes) as chosen:
        return Planner(recipe, chosen, limit, budget).plan


class Planner:
    """Makes a plan; what the forecasts of its items share."""

    def __init__(self, recipe: Recipe, settings: Settings, limit: int | None, budget: float | None) -> None:
        self.settings = settings
        self.store = Store(settings.store)
        self.facts = Facts(self.store, keep=False)
        self.engine = portal.run(job.engine_of(settings))
        cap = budget if budget is not None else recipe.budget.credits if recipe.budget else None
        self.plan = Plan(recipe.name, settings.endpoint, self.engine, max_jobs=settings.max_jobs, budget=cap)
        self.by_step = {node.step.id: StepPlan(node.step.id, _does(node), node.is_paid) for node in recipe.graph.nodes}
        self.plan.steps = list(self.by_step.values())
        self.seen: dict[str, ImageRef] = {}
        self.outputs = Outputs()
        try:
            self.journal: Mapping[str, Entry] = {entry.key: entry for entry in Journal(self.store).entries()}
        except OSError as error:
            raise StoreUnavailable(f"the store cannot be read: {error}") from error
        if cap is not None:
            self.plan.spent = spent_before(self.store, recipe.digest)
        self.timings = Timings(self.store)
        self.busy: dict[str, float] = defaultdict(float)
        self.longest = 0.0
        survey(recipe, limit=limit)
        for item in items(recipe, limit=limit):
            self.plan.items += 1
            Forecast(self, recipe, item).go()
        slots: dict[str, int] = {"account": settings.max_jobs, "kontext-max": min(settings.max_jobs, KONTEXT_MAX_SLOTS)}
        self.plan.seconds = round(max([self.longest, *(s / slots[name] for name, s in self.busy.items())]), 1)

    def seconds_of(self, tool: str) -> float:
        """How long a job lasts."""
        known = self.timings.of(tool)
        if known is None and tool not in self.plan.assumed:
            self.plan.assumed.append(tool)
        return USUAL if known is None else known

    def trouble(self, words: str) -> None:
        """Something is wrong with an item."""
        self.plan.troubled += 1
        if len(self.plan.invalid) < _TOLD:
            self.plan.invalid.append(words)


def _does(node: Node) -> str:
    if node.is_paid:
        return node.tool.name if "model" not in node.step.matrix else "several models"
    return str(getattr(node.action, "reference", node.step.task))
