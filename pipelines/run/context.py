"""What the items of one run share: store, settings, facts, budget, the reason to stop, and one turn for equal calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

from flux_tasks import background
from flux_tasks.errors import BudgetReached, FluxError, RunStopped
from flux_tasks.jobs.call import Call
from flux_tasks.jobs.endpoint import stop_submitting
from flux_tasks.jobs.result import JobResult
from flux_tasks.settings import Settings
from flux_tasks.store.commit import patiently
from flux_tasks.store.journal import Journal, Standing
from flux_tasks.store.records import Store
from pipelines.data.history import JobDurations
from pipelines.data.outputs import Outputs
from pipelines.execution.facts import Facts
from pipelines.language.compiled import CompiledRecipe
from pipelines.run.budget import RunBudget

__all__ = ["CallTool", "Event", "EventKind", "RunContext"]

CallTool: TypeAlias = Callable[[str, dict[str, Any]], Awaitable[JobResult]]
"""Makes one paid call: task name and arguments, with every image an ``ImageRef``; returns its result."""


class EventKind(StrEnum):
    """What a progress display is informed of."""

    BEGIN = "begin"
    """A job of an item's step begins."""
    END = "end"
    """That job ended, well or not."""
    STEP = "step"
    """An item's step ended."""
    ITEM = "item"
    """An item ended."""
    WARNING = "warning"
    """A sentence for a person."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a run.

    Attributes:
        item: what people call it.
        outcome: of the step or the item.
        cost: credits of the step.
        text: of a warning.
    """

    kind: EventKind
    item: str = ""
    step: str = ""
    outcome: str = ""
    cost: float = 0.0
    text: str = ""


class _Turn:
    """The turn of equal calls that are under way; it is gone when all of them have ended."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.problem: FluxError | None = None


class RunContext:
    """What the items of one run share.

    Attributes:
        seed: instead of the seeds of the recipe, or None.
        engine: which engine answers; known once the run has asked the endpoint.
        facts: of pictures.
        outputs: the paths that results go to.
        durations: of jobs, by tool.
        stopped: why no new job is begun, or None.
    """

    def __init__(
        self,
        recipe: CompiledRecipe,
        settings: Settings,
        *,
        cap: float | None,
        seed: int | None,
        on_event: Callable[[Event], None],
    ) -> None:
        self.recipe = recipe
        self.settings = settings
        self.seed = seed
        self.emit = on_event
        self.engine = ""
        self.store = Store(settings.store)
        self.facts = Facts(self.store)
        self.outputs = Outputs()
        self.durations = JobDurations(self.store)
        self.budget = RunBudget(cap, self.store, recipe.digest, warn=self._warn)
        self.stopped: RunStopped | None = None
        self._turns: WeakValueDictionary[str, _Turn] = WeakValueDictionary()

    def _warn(self, text: str) -> None:
        self.emit(Event(EventKind.WARNING, text=text))

    def stop(self, reason: RunStopped) -> None:
        """Begin no new job: items that are left are held, jobs that wait for a slot are not submitted.

        May be called from any thread.
        """
        if self.stopped is None:
            self.stopped = reason
            background.start(stop_submitting(self.settings, reason))

    @asynccontextmanager
    async def one_at_a_time(self, call: Call) -> AsyncIterator[None]:
        """Let one of several equal calls go on at a time: the others find its result in the store, or fail as it did.

        So a job that several steps or items share is paid for, counted and taken out of the budget once.
        """
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
        """Check whether an earlier run has submitted the job of ``call``, or may have; always False without a budget.

        Raises:
            StoreUnavailable: the journal cannot be read.
        """
        if self.budget.cap is None:
            return False
        entry = await patiently(Journal(self.store).entry, call.key(self.engine))
        return entry is not None and entry.standing(self.settings) is not Standing.FREE

    def check_not_stopped(self, *, is_paid: bool) -> None:
        """Raise the reason why the run was stopped, unless only the budget is used up and the job is paid already."""
        if self.stopped is not None and not (is_paid and isinstance(self.stopped, BudgetReached)):
            raise type(self.stopped)(f"not begun, because the run was stopped: {self.stopped}")
