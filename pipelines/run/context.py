"""What the items of one run share: store, settings, facts, budget, the reason to stop, and one turn for equal calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

from flux_tasks.errors import BudgetReached, FluxError, RunStopped
from flux_tasks.jobs.call import Call
from flux_tasks.jobs.context import Halt
from flux_tasks.jobs.result import JobResult
from flux_tasks.settings import Settings
from flux_tasks.store.account.periods import PeriodBudget
from flux_tasks.store.commit import patiently
from flux_tasks.store.journal import Journal, Standing
from flux_tasks.store.records import Store
from pipelines.data.history import LearnedPrices
from pipelines.data.manifest import ManifestRow
from pipelines.data.outputs import Outputs
from pipelines.data.settled import SettledItems
from pipelines.execution.facts import Facts
from pipelines.execution.precheck import named_pictures, period_limits
from pipelines.language.compiled import CompiledRecipe
from pipelines.run.budget import RunBudget
from pipelines.run.datasets import Datasets
from pipelines.run.shard import Shard

CallTool: TypeAlias = Callable[[str, dict[str, Any]], Awaitable[JobResult]]
"""Makes one paid call: task name and arguments, with every image an ``ImageRef``; returns its result."""


class EventKind(StrEnum):
    """What happened: an item asks for a job; a job has a slot, and gives it back; a step or an item ended."""

    BEGIN = "begin"
    ACTIVE = "active"
    END = "end"
    STEP = "step"
    ITEM = "item"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a run, for a progress display.

    Attributes:
        cost: in credits.
        text: of a warning.
        row: of an item that has ended, as the manifest has it.
    """

    kind: EventKind
    item: str = ""
    step: str = ""
    outcome: str = ""
    cost: float = 0.0
    text: str = ""
    row: ManifestRow | None = None


class _Turn:
    """The turn of equal calls that are under way; it is gone when all of them have ended."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.problem: FluxError | None = None


@dataclass
class RunContext:
    """What the items of one run share.

    Attributes:
        cap: the most credits that it may spend, or None.
        run_id: the id of the run.
        shard: the part of the items that it works on; None for all.
        engine: which engine answers; known once the run has asked the endpoint.
        halt: keeps the run from submitting jobs once it has been stopped.
        datasets: what results go to besides files.
        settled: items that need no look at them; known with the engine.
        whole: the id of the run that it is part of, or its own.
        beginning: the indexes of new items in work whose first job has not begun.
    """

    recipe: CompiledRecipe
    settings: Settings
    cap: float | None
    seed: int | None
    emit: Callable[[Event], None]
    run_id: str
    shard: Shard | None = None
    engine: str = ""
    settled: SettledItems | None = None
    datasets: Datasets | None = None

    def __post_init__(self) -> None:
        self.whole = (self.shard.of if self.shard is not None else "") or self.run_id
        self.halt = Halt(run=self.whole, recipe=self.recipe.name, part=self.run_id)
        self.store = Store(self.settings.store)
        self.facts = Facts(self.store)
        self.outputs = Outputs()
        self.prices = LearnedPrices(self.store, "")
        part_of = self.whole if self.shard is not None else ""
        periods = PeriodBudget(self.store, period_limits(self.recipe), self.run_id, self.recipe.name)
        self.budget = RunBudget(self.cap, self.store, self.recipe.digest, self.run_id, self._warn, part_of, periods)
        self.named_pictures = list(named_pictures(self.recipe))
        self.beginning: set[int] = set()
        self._turns: WeakValueDictionary[str, _Turn] = WeakValueDictionary()

    def open_settled(self, *, is_trusted: bool) -> None:
        """Read what earlier runs have settled; nothing of it counts where it is not trusted."""
        parts = (self.store, self.recipe, self.engine, self.seed)
        self.settled = SettledItems(*parts, run_id=self.run_id, whole=self.whole, is_trusted=is_trusted)
        bool(self.settled)  # reads the index here, on a thread

    def _warn(self, text: str) -> None:
        self.emit(Event(EventKind.WARNING, text=text))

    @property
    def stopped(self) -> RunStopped | None:
        """Why no new job is begun, or None."""
        return self.halt.reason

    def stop(self, reason: RunStopped) -> None:
        """Hold the items that are left, and submit no job that waits for a slot. May be called from any thread."""
        if self.halt.reason is None:
            self.halt.reason = reason

    def is_own(self, result: JobResult) -> bool:
        """Check whether the run that this one is part of has paid for a result, maybe in another process."""
        return self.shard is not None and bool(self.shard.of) and result.run == self.whole

    @asynccontextmanager
    async def one_at_a_time(self, call: Call) -> AsyncIterator[None]:
        """Let one of several equal calls go on at a time: the others find its result in the store, or fail like it."""
        turn = self._turns.setdefault(call.key(self.engine), _Turn())
        async with turn.lock:
            if turn.problem is not None:
                raise turn.problem
            try:
                yield
            except FluxError as problem:
                turn.problem = problem
                raise

    async def is_paid(self, call: Call) -> bool:
        """Return ``is_unsettled`` where it counts: False without a budget."""
        return self.budget.is_limited and await self.is_unsettled(call)

    async def is_unsettled(self, call: Call) -> bool:
        """Check whether an earlier run has submitted the job of ``call``, or may have.

        Raises:
            StoreUnavailable: the journal cannot be read.
        """
        entry = await patiently(Journal(self.store).entry, *call.identity(self.engine).keys)
        return entry is not None and entry.standing(self.settings) is not Standing.FREE

    def check_not_stopped(self, *, is_paid: bool) -> None:
        """Raise the reason why the run was stopped, unless only the budget is used up and the job is paid already."""
        if self.stopped is not None and not (is_paid and isinstance(self.stopped, BudgetReached)):
            raise type(self.stopped)(f"not begun, because the run was stopped: {self.stopped}")
