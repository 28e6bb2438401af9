"""What the items of one plan share: the store as it is, jobs that are planned already, and the counts of each step."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Mapping

from flux_tasks import background
from flux_tasks.api.slots import CLASS_LIMITS
from flux_tasks.errors import BudgetReached, StoreUnavailable
from flux_tasks.jobs.call import Call
from flux_tasks.jobs.endpoint import engine_of
from flux_tasks.settings import Settings
from flux_tasks.store.account.periods import SET_AGAIN, PeriodBudget, read_limits
from flux_tasks.store.durations import Durations, size_class
from flux_tasks.store.journal import Entry, Journal
from flux_tasks.store.records import Store
from pipelines.data.history import LearnedPrices, spent_before
from pipelines.data.manifest import StepOutcome
from pipelines.data.outputs import Outputs
from pipelines.data.settled import Settled, SettledItems
from pipelines.execution.facts import Facts
from pipelines.execution.precheck import period_limits
from pipelines.language.compiled import CompiledRecipe
from pipelines.language.graph import Node
from pipelines.plan.result import Plan, StepPlan


class Tally:
    """What the items of one plan share.

    Attributes:
        plan: the result, which grows with each item.
        journal: unsettled jobs by key.
        settled: items that need no look at them, if any.
    """

    def __init__(self, recipe: CompiledRecipe, settings: Settings, cap: float | None) -> None:
        self.recipe = recipe
        self.settings = settings
        self.engine = background.run(engine_of(settings))
        self.store = Store(settings.store)
        self.facts = Facts(self.store, write=False)
        self.outputs = Outputs()
        self._planned: set[bytes] = set()
        self.settled: SettledItems | None = None
        try:
            self.journal: Mapping[str, Entry] = {entry.key: entry for entry in Journal(self.store).entries()}
            is_new = self.store.is_new()
        except OSError as error:
            raise StoreUnavailable.of("read", error) from error
        self._steps = {node.step.id: StepPlan(node.step.id, _does(node), node.is_paid) for node in recipe.graph.nodes}
        self._step_of = {node.id: self._steps[node.step.id] for node in recipe.graph.nodes}
        self.plan = Plan(recipe.name, settings.endpoint, self.engine, max_jobs=settings.max_jobs, budget=cap)
        self.plan.store, self.plan.is_store_new = self.store.url, is_new
        self.plan.steps = list(self._steps.values())
        spent = spent_before(self.store, recipe.digest) if cap is not None else {}
        self.plan.spent_by = {run: cap or 0.0 if math.isinf(paid) else paid for run, paid in spent.items()}
        self._add_periods(recipe)
        self._durations = Durations(self.store, self.engine)
        self._prices = LearnedPrices(self.store, self.engine)
        self._remarks: set[tuple[str, str]] = set()
        self._busy: dict[str, float] = defaultdict(float)
        self._longest = 0.0

    def _add_periods(self, recipe: CompiledRecipe) -> None:
        """Note what is left of the budgets for days and months, of the recipe and of the store."""
        try:
            limits = [*period_limits(recipe), *read_limits(self.store)]
            periods = PeriodBudget(self.store, limits, "", recipe.name, self.engine)
            periods.read()
        except OSError as error:
            raise StoreUnavailable.of("read", error) from error
        except ValueError as error:
            raise BudgetReached(f"the store's budget is unknown ({error}): {SET_AGAIN}") from None
        now = time.time()
        self.plan.periods = [
            {
                "recipe": limit.recipe,
                "period": limit.period,
                "credits": limit.credits,
                "spent": round(periods.spent(limit), 4),
                "ends": limit.end(now).isoformat(),
            }
            for limit in limits
        ]

    def step(self, node: Node) -> StepPlan:
        """Return the counts of a node's step."""
        return self._steps[node.step.id]

    def is_planned(self, key: str) -> bool:
        """Check whether the job with this key is counted already."""
        return bytes.fromhex(key[:32]) in self._planned

    def add_planned(self, key: str) -> None:
        """Note that the job with this key is counted."""
        self._planned.add(bytes.fromhex(key[:32]))

    def remark(self, node: Node, what: str) -> None:
        """Warn of what a step's parameters ask for, once for all of its items."""
        if (node.step.id, what) not in self._remarks:
            self._remarks.add((node.step.id, what))
            self.plan.add_warning(f"{node.step.id}: {what}")

    def add_settled(self, stem: str, settled: Settled) -> None:
        """Count the steps of an item that a run has settled, as its walk would."""
        for row in settled.row["steps"]:
            step = self._step_of[row["id"]]
            if row["outcome"] is StepOutcome.CACHED and not row["is_paid"]:
                step.local += 1
            else:
                step.count(row["outcome"])
        for node, said in settled.remarks:
            self.plan.add_warning(f"{stem}: {node}: {said}")

    def estimate(self, call: Call | None) -> float | None:
        """Return the credits that a call is expected to cost; a price that was learned is named in the plan."""
        if call is None:
            return None
        price = self._prices.price(call)
        if price.state == "learned":
            self.plan.learned[_name(call)] = {"credits": price.first, "jobs": price.jobs}
        return self._prices.estimate(call)

    def add_job(self, node: Node, call: Call | None, *, is_certain: bool) -> float:
        """Add the time of a job to that of its slots, if it is certain; returns its seconds."""
        tool = node.tool
        self._durations.load(tool.name)
        known = self._durations.of(tool.name, size_class(call.price.label, call.output_size) if call else None)
        if known is None and tool.name not in self.plan.assumed:
            self.plan.assumed.append(tool.name)
        seconds = tool.seconds if known is None else known.seconds
        if is_certain:
            self._busy[tool.slots] += seconds
        return seconds

    def add_item(self, seconds: float) -> None:
        """Add an item that would take so long if nothing had to wait for a slot."""
        self.plan.items += 1
        self._longest = max(self._longest, seconds)
        most = self.settings.max_jobs
        by_slots = (seconds / min(CLASS_LIMITS.get(name) or most, most) for name, seconds in self._busy.items())
        self.plan.seconds = round(max([self._longest, *by_slots]), 1)


def _name(call: Call) -> str:
    return " ".join(filter(None, (call.tool.name, call.price.label)))


def _does(node: Node) -> str:
    if node.is_paid:
        return node.tool.name if "model" not in node.step.matrix else "several models"
    return str(getattr(node.action, "reference", node.step.task))
