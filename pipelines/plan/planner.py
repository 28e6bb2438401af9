"""The plan: what a run would do and cost. It spends nothing and writes nothing.

Every item goes through the graph as in a run, and where a run would pay for a job the plan goes on with a stand-in of
the size that the result will have. So conditions on what is there already are decided, results in the store are found,
and jobs that several items share are counted once. What depends on pictures that are not made yet is told apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from flux_tasks import background
from flux_tasks.errors import StoreUnavailable
from flux_tasks.images.reference import ImageRef
from flux_tasks.jobs import job
from flux_tasks.settings import Settings, current, use
from flux_tasks.store.journal import Entry, Journal
from flux_tasks.store.records import Store
from pipelines.data.history import USUAL, JobDurations, spent_before
from pipelines.data.outputs import Outputs
from pipelines.execution.facts import Facts
from pipelines.execution.precheck import check_items, items
from pipelines.language.compiled import CompiledRecipe
from pipelines.language.graph import Node
from pipelines.plan.dry_run import ItemPlan
from pipelines.plan.result import _TOLD, Plan, StepPlan

__all__ = ["Planner", "plan"]

KONTEXT_MAX_SLOTS = 6


def plan(
    recipe: CompiledRecipe,
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

    def __init__(self, recipe: CompiledRecipe, settings: Settings, limit: int | None, budget: float | None) -> None:
        self.settings = settings
        self.store = Store(settings.store)
        self.facts = Facts(self.store, keep=False)
        self.engine = background.run(job.engine_of(settings))
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
        self.timings = JobDurations(self.store)
        self.busy: dict[str, float] = defaultdict(float)
        self.longest = 0.0
        check_items(recipe, limit=limit)
        for item in items(recipe, limit=limit):
            self.plan.items += 1
            ItemPlan(self, recipe, item).go()
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
