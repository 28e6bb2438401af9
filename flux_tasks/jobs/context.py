"""One job: its call, its key, and the places where it is recorded."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from flux_tasks.errors import RunStopped
from flux_tasks.jobs.call import Call
from flux_tasks.jobs.identity import Identity
from flux_tasks.settings import Settings
from flux_tasks.store.journal import Journal
from flux_tasks.store.records import Store
from flux_tasks.store.spool import Spool

Progress = Callable[[str, float | None], None]
"""Receives each status of a running job and the share done (0 to 1, or None). Called on the background loop."""


class CheckedArguments(dict[str, Any]):
    """The arguments of a task, with the call that they mean: it is checked, and no result of it is known.

    Whoever makes the call at once need not do either again; to everybody else they are arguments.
    """

    def __init__(self, arguments: Mapping[str, Any], call: Call) -> None:
        super().__init__(arguments)
        self.call = call


@dataclass(eq=False)
class Halt:
    """Why no more jobs of a run are submitted, or None; any thread may set it.

    Attributes:
        run: the id of the run, which the journal and the results of its jobs name; empty outside a run.
        recipe: the name of its recipe, for what is charged.
        part: the id of the shard of the run, or that of the run.
    """

    reason: RunStopped | None = None
    run: str = ""
    recipe: str = ""
    part: str = ""


_halt: ContextVar[Halt | None] = ContextVar("halt", default=None)


@contextmanager
def heed(halt: Halt) -> Iterator[None]:
    """Submit no job that is called for in the block, also by its threads and tasks, once ``halt`` has a reason."""
    token = _halt.set(halt)
    try:
        yield
    finally:
        _halt.reset(token)


_on_slot: ContextVar[Callable[[bool], None]] = ContextVar("on_slot", default=lambda is_held: None)


@contextmanager
def noting_slots(on_slot: Callable[[bool], None]) -> Iterator[None]:
    """Tell ``on_slot`` whether a job that is called for in the block holds a slot. Called on the background loop."""
    token = _on_slot.set(on_slot)
    try:
        yield
    finally:
        _on_slot.reset(token)


@dataclass(frozen=True)
class JobContext:
    """What every phase of a job needs.

    Attributes:
        engine: the identity of the engine behind the endpoint, a part of the job key.
        refresh: pay again even if the store has a result, and replace it.
        is_former: go on under the key of September 2026, because an unsettled job was begun under it.
        halt: that of the run which calls for the job; one of its own, without a reason, for a call outside a run.
        on_slot: see ``noting_slots``.
    """

    call: Call
    settings: Settings
    engine: str
    refresh: bool = False
    on_progress: Progress | None = None
    is_former: bool = False
    halt: Halt = field(default_factory=lambda: _halt.get() or Halt())
    on_slot: Callable[[bool], None] = field(default_factory=_on_slot.get)

    @cached_property
    def identity(self) -> Identity:
        return self.call.identity(self.engine)

    @property
    def key(self) -> str:
        """The key that the job is submitted and stored under."""
        return self.identity.keys[-1 if self.is_former else 0]

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that its result or its refusal may be stored under, the present one first."""
        return self.identity.keys

    @cached_property
    def store(self) -> Store:
        return Store(self.settings.store)

    @cached_property
    def journal(self) -> Journal:
        return Journal(self.store)

    @cached_property
    def spool(self) -> Spool:
        return Spool(self.store)

    @property
    def webhook(self) -> dict[str, str]:
        """What the request has besides the call, in no key and no record: where the service calls back, if it can."""
        settings = self.settings
        if not settings.webhook_url or not self.call.tool.webhooks:
            return {}
        return {"webhook_url": settings.webhook_url, "webhook_secret": settings.webhook_secret}

    @property
    def title(self) -> str:
        """What messages call the job: its task and the picture's name."""
        return f"{self.call.tool.task} {self.call.name}"

    @property
    def deadline(self) -> float:
        """Seconds that the job may take before it is left to the journal."""
        return self.call.tool.deadline if self.settings.deadline is None else self.settings.deadline
