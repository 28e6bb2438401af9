"""The plan: what a run would do and cost. It spends nothing and writes nothing.

Every item is taken through the graph as in a run; where a run would pay for a job, the plan goes on with a placeholder
of the size that the result will have. What depends on pictures that are not made yet is counted separately.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Unpack

from flux_tasks.errors import Problem, RecipeError, nearest, quote
from flux_tasks.images.reference import remembering
from flux_tasks.jobs.identity import Identity
from flux_tasks.settings import SettingChanges, Settings, current, use
from pipelines.data.duplicates.find import find_duplicates, groups_of
from pipelines.data.formats.known_tars import KnownTars
from pipelines.data.items import Item, Listed
from pipelines.data.keyed_lines import program_version
from pipelines.data.manifest import StepOutcome
from pipelines.data.settled import SettledItems
from pipelines.data.writers.rows import read_rows
from pipelines.execution.answers import Attempt, Outcome
from pipelines.execution.placeholders import Placeholder
from pipelines.execution.precheck import budget_cap, check_items, items, source_warnings
from pipelines.execution.sampling import check_sample, choose_sample
from pipelines.language.compiled import CompiledRecipe
from pipelines.language.libraries import check_libraries
from pipelines.language.places import in_places_of
from pipelines.plan.dry_run import ItemPlan
from pipelines.plan.result import Plan, ShardPlan
from pipelines.plan.tally import Tally

_ANSWERS = {
    StepOutcome.CACHED: "its result is in the store, and is another one",
    StepOutcome.UNCHANGED: "it would change nothing",
    StepOutcome.COLLECTED: "its job is paid for, and would be collected",
    StepOutcome.HELD: "its job is held",
}


class PlanOptions(SettingChanges, total=False):
    """The keyword arguments of ``plan``: its own, and those of ``flux_tasks.use``."""

    limit: int | None
    sample: int | None
    budget: float | None
    verify: bool
    settings: Settings | None


def plan(
    recipe: CompiledRecipe,
    *,
    limit: int | None = None,
    sample: int | None = None,
    budget: float | None = None,
    verify: bool = False,
    divide: Callable[[str], int] | None = None,
    shards: int = 0,
    settings: Settings | None = None,
    **changes: Unpack[SettingChanges],
) -> Plan:
    """Return what a run of ``recipe`` would do and cost.

    Args:
        limit: so many items at most.
        sample: so many items that stand for all; see ``execution/sampling.py``.
        budget: credits, instead of the recipe's own cap.
        verify: look at every item, also at those that a run has settled and whose files are as they were.
        divide: returns the number of an item's shard, of so many ``shards``, by its source.
        changes: of the settings, as for ``flux_tasks.use``.

    Raises:
        RecipeError: what is wrong with recipe, source or budget.
        EndpointUnreachable: the endpoint has to be asked which engine it is, and does not answer.
        StoreUnavailable: the store, or the rows of a dataset, cannot be read.
    """
    check_sample(sample, limit)
    check_libraries(recipe)
    with use(settings or current(), **changes) as given, in_places_of(recipe, given) as chosen:
        tally = Tally(recipe, chosen, budget_cap(recipe, budget))
        tally.plan.calls = [*recipe.functions]
        tally.plan.at_end = [f"{call.name} ({', '.join(call.when)})" for call in recipe.on_end]
        listed = Listed()
        listed.tars = KnownTars(tally.store, program_version(), writes=False, is_trusted=not verify)
        found = partial(items, recipe, limit=limit, listed=listed)
        noting: Any = {"store": tally.store, "is_trusted": not verify}
        listed.duplicates = find_duplicates(recipe, found(), **noting)
        tally.plan.duplicates = groups_of(listed.duplicates)
        if sample is not None:
            drawn = choose_sample(found(), sample, seed=recipe.source.seed, facts=tally.facts, **noting)
            tally.plan.sample_of, tally.plan.looked_at = drawn.total, drawn.looked_at
            found = partial(found, only=drawn.has)
        only = found.keywords.get("only")
        check_items(recipe, limit=limit, only=only, listed=listed, outputs=tally.outputs)
        for folder in dict.fromkeys(filter(None, (output.dataset for output in recipe.outputs))):
            read_rows(folder)
        for warning in source_warnings(recipe, listed):
            tally.plan.add_warning(str(warning))
        tally.settled = SettledItems(tally.store, recipe, tally.engine, None, is_trusted=not verify)
        with closing(tally.settled), remembering(tally.settled.inputs):
            tally.plan.shards = {number: ShardPlan() for number in range(1, shards + 1)}
            for item in found():
                before = tally.plan.total("paid") if divide is not None else None
                tally.add_item(ItemPlan(item, tally).run())
                if divide is not None and before is not None:
                    tally.plan.add_to_shard(divide(item.source), before)
        return tally.plan


@dataclass(frozen=True)
class PlannedCall:
    """One call of a tool.

    Attributes:
        outcome: how a run would answer it; None if moderation refused it earlier.
        has_pictures: whether all its pictures are there; if not, the identities of some stand for pictures to come.
    """

    node: str
    identity: Identity
    outcome: StepOutcome | None
    has_pictures: bool = True

    @property
    def answer(self) -> str:
        """How a run would answer it, in words."""
        if self.outcome is None:
            return "moderation refused it earlier"
        return _ANSWERS.get(self.outcome, "the store has no result: a run would pay for a job")


def calls_of_item(recipe: CompiledRecipe, name: str, settings: Settings) -> Sequence[PlannedCall]:
    """Return the calls of the first item called ``name`` (its stem, or its location), as far as it gets.

    Raises:
        RecipeError: there is no such item, or no call can be made; and whatever ``plan`` raises.
    """
    with in_places_of(recipe, settings) as chosen:
        return _calls_of_item(recipe, name, chosen)


def _calls_of_item(recipe: CompiledRecipe, name: str, settings: Settings) -> Sequence[PlannedCall]:
    item = next(items(recipe, only=lambda one: name in (one.stem, one.path)), None)
    if item is None:
        known = [one.stem for one in items(recipe, limit=1_000)]
        raise RecipeError([Problem("item", f"the recipe has no item {quote(name)}{nearest(name, known)}")])
    tally = Tally(recipe, settings, None)
    recorder = _Recorder(item, tally)
    recorder.run()
    if not recorder.calls and tally.plan.invalid:
        raise RecipeError([Problem("item", problem) for problem in tally.plan.invalid])
    return recorder.calls


class _Recorder(ItemPlan):
    """One item of a plan whose calls are kept."""

    def __init__(self, item: Item, tally: Tally) -> None:
        super().__init__(item, tally)
        self.calls: list[PlannedCall] = []
        self._engine = tally.engine

    async def paid(self, attempt: Attempt) -> Outcome:
        """Keep the call of an attempt, and answer it as a plan does."""
        kind: StepOutcome | None = None
        try:
            outcome = await super().paid(attempt)
            kind = outcome.kind
        finally:
            if attempt.call is not None:
                has_pictures = not any(isinstance(picture, Placeholder) for picture in attempt.pictures)
                identity = attempt.call.identity(self._engine)
                self.calls.append(PlannedCall(attempt.node.id, identity, kind, has_pictures))
        return outcome
