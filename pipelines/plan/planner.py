"""The plan: what a run would do and cost. It spends nothing and writes nothing.

Every item is taken through the graph as in a run, and where a run would pay for a job the plan goes on with a
placeholder of the size that the result will have. So conditions on what is there already are decided, results in the
store are found, and jobs that several items share are counted once. What depends on pictures that are not made yet is
counted separately.
"""

from __future__ import annotations

from typing import Any

from flux_tasks.settings import Settings, current, use
from pipelines.execution.precheck import budget_cap, check_items, items
from pipelines.language.compiled import CompiledRecipe
from pipelines.plan.dry_run import ItemPlan
from pipelines.plan.result import Plan
from pipelines.plan.tally import Tally


def plan(
    recipe: CompiledRecipe,
    *,
    limit: int | None = None,
    budget: float | None = None,
    settings: Settings | None = None,
    **changes: Any,
) -> Plan:
    """Return what a run of ``recipe`` would do and cost.

    Args:
        limit: so many items at most.
        budget: credits, instead of the recipe's own cap.
        changes: of the settings, as for ``flux_tasks.use``.

    Raises:
        RecipeError: what is wrong with recipe, source or budget.
        EndpointUnreachable: the endpoint has to be asked which engine it is, and does not answer.
        StoreUnavailable: the store cannot be read.
    """
    with use(settings or current(), **changes) as chosen:
        tally = Tally(recipe, chosen, budget_cap(recipe, budget))
        check_items(recipe, limit=limit)
        for item in items(recipe, limit=limit):
            tally.add_item(ItemPlan(item, tally).run())
        return tally.plan
