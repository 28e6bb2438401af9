"""What a Prefect server shows of a run while it goes on, and what it is told: artifacts, lines of the log, events.

One progress bar and one table stand on the page of the flow run from its beginning; they are brought up to date every
few seconds, and only if something has changed. At the end, a summary in Markdown joins them. The events are called
``flux.run.started``, ``.budget``, ``.held`` and ``.ended``; their resource is the run, ``flux.run.<run id>``.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.artifacts import acreate_progress_artifact, acreate_table_artifact, aupdate_progress_artifact
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.settings import PREFECT_API_URL
from prefect.states import Failed

from flux_tasks.errors import BudgetReached
from flux_tasks.units import credits, escape_controls, measured_duration, price
from pipelines.data.manifest import FINE, ItemOutcome, StepOutcome
from pipelines.flows.artifact import key_of, publish
from pipelines.run.context import Event, EventKind
from pipelines.run.run import Run
from pipelines.run.summary import Summary

INTERVAL = 5.0
"""Seconds between two looks whether the pages of the server have to be brought up to date."""

_COLUMNS = {
    StepOutcome.DONE: "done",
    StepOutcome.COLLECTED: "collected",
    StepOutcome.CACHED: "from the store",
    StepOutcome.UNCHANGED: "unchanged",
    StepOutcome.SKIPPED: "skipped",
    "active": "active jobs",
}
"""The columns of the table, by what they count."""

_log = logging.getLogger("flux_tasks.flows")
_lines = logging.getLogger("pipelines.run")
_items = logging.getLogger("pipelines.run.items")
_task_runs = logging.getLogger("prefect.task_runs")


_STOPPED, _MANIFEST = "stopped: ", ". Manifest: "  # of what a flow run says of its end


def end_of(summary: Summary) -> dict[str, int] | State[Any]:
    """Return what a flow run ends with: its counts, or Failed with the reason if not every item ended well."""
    problem = f"{_STOPPED}{summary.stopped}" if summary.stopped else summary.problem
    return Failed(message=f"{problem}{_MANIFEST}{summary.manifest}") if problem else dict(summary.counts)


def is_over(state: State[Any]) -> bool:
    """Return whether a flow run has worked on all of its items, however these have ended."""
    message = state.message or ""
    return state.is_completed() or (_MANIFEST in message and not message.startswith(_STOPPED))


@asynccontextmanager
async def published(run: Run) -> AsyncIterator[None]:
    """Show a run on the pages of the server that records it, if one does, and tell the server of it as events.

    A server that refuses any of it does not fail the run: that is a warning.
    """
    if not PREFECT_API_URL.value():  # nobody looks at the pages of a server that Prefect has started for a flow
        yield
        return
    board, context = Board(run), run.context
    emit, warn = context.emit, context.budget.warn

    def note(event: Event) -> None:
        board.note(event)
        emit(event)

    def warn_of_budget(text: str) -> None:
        announce(run, "budget", outcome="near")
        warn(text)

    context.emit, context.budget.warn = note, warn_of_budget
    announce(run, "started", outcome="started")
    try:
        with _item_lines():
            async with board:
                yield
    except BaseException as error:
        board.is_away = board.is_away or isinstance(error, asyncio.CancelledError)  # nobody waits for an answer
        run.summary.stopped = run.summary.stopped or str(error) or "cancelled"
        raise
    finally:
        context.emit, context.budget.warn = emit, warn
        summary = run.summary
        outcome = summary.end
        if isinstance(run.stopped, BudgetReached):
            announce(run, "budget", outcome="reached")
        if summary.counts[ItemOutcome.HELD]:
            announce(run, "held", outcome=outcome)
        announce(run, "ended", outcome=outcome)
        with _item_lines():
            _items.log(logging.WARNING if summary.problem else logging.INFO, "%s", escape_controls(line_of(summary)))
        if not board.is_away:
            await publish(summary, context.cap, [output.place for output in run.recipe.outputs])


def announce(run: Run, what: str, *, outcome: str) -> None:
    """Tell the server that something has happened to a run: ``flux.run.<what>``. Of a shard the run itself tells.

    An automation can ask for the labels of the resource (``flux.recipe``, ``flux.outcome``); counts and credits are in
    the payload.

    Args:
        outcome: of ``ended`` and ``held``: ``fine``, ``failed`` (items did not end well) or ``stopped``; of
            ``budget``: ``near`` (four fifths) or ``reached``.
    """
    if run.is_part:
        return
    summary = run.summary
    resource = {
        "prefect.resource.id": f"flux.run.{summary.run_id}",
        "prefect.resource.name": summary.name,
        "flux.recipe": summary.name,
        "flux.outcome": outcome,
    }
    payload = {
        "items": summary.items,
        "total": summary.total,
        "counts": dict(summary.counts),
        "jobs": summary.jobs,
        "credits": summary.cost,
        "budget": run.context.cap,
        "problem": summary.problem,
        "manifest": summary.manifest,
        "report": summary.report,
    }
    emit_event(f"flux.run.{what}", resource, payload=payload)


class Board:
    """The progress bar and the table of a run on the pages of a server."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._steps = {step.id: Counter[str]() for step in run.recipe.steps}
        self._credits = dict.fromkeys(self._steps, 0.0)
        self._ended: Counter[str] = Counter()
        self._shown: list[dict[str, Any]] = []
        self._ids: tuple[UUID, UUID] | None = None
        self.is_away = False
        """Whether the server is asked nothing any more, because it has refused something."""

    async def __aenter__(self) -> Board:
        self._following = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.is_away = self.is_away or kind is asyncio.CancelledError
        self._following.cancel()
        with suppress(asyncio.CancelledError):
            await self._following
        if not self.is_away:
            await self._show()

    def note(self, event: Event) -> None:
        """Take note of what has happened."""
        if event.kind is EventKind.ITEM:
            self._ended[event.outcome] += 1
        elif (counts := self._steps.get(event.step)) is not None:
            counts["active"] += {EventKind.ACTIVE: 1, EventKind.END: -1}.get(event.kind, 0)
            if event.kind is EventKind.STEP:
                counts[event.outcome] += 1
                self._credits[event.step] += event.cost if event.outcome == StepOutcome.DONE else 0.0

    def rows(self) -> list[dict[str, Any]]:
        """Return the table: a row for each step, and one for all of them with the budget."""
        found: list[dict[str, Any]] = [
            {"step": step, **{shown: counts[name] for name, shown in _COLUMNS.items()}}
            for step, counts in self._steps.items()
        ]
        total: dict[str, Any] = {
            "step": "all",
            **{shown: sum(row[shown] for row in found) for shown in _COLUMNS.values()},
        }
        costs, cap = [*self._credits.values(), sum(self._credits.values())], self._run.context.cap
        budgets = ["" for _ in found] + ["" if cap is None else credits(cap)]
        is_preview = self._run.summary.is_preview
        return [
            # The pages cut off what is last.
            {"step": row["step"], "credits": "preview" if is_preview else credits(cost), "budget": budget, **row}
            for row, cost, budget in zip([*found, total], costs, budgets, strict=True)
        ]

    async def _follow(self) -> None:
        while await self._show():
            await asyncio.sleep(INTERVAL)

    async def _show(self) -> bool:
        """Bring the server's pages up to date; False if it refused that."""
        rows = self.rows()
        ended, total = self._ended.total(), self._run.summary.total
        bad = sum(n for outcome, n in self._ended.items() if outcome not in FINE)
        percent = 100.0 * min(ended / total, 1.0) if total else 0.0
        text = f"{ended} of {total} items, {bad} not fine"
        state = [*rows, {"text": text}]
        if state == self._shown:
            return True
        key = key_of(self._run.summary.name)
        try:
            if self._ids is None:
                bar = await acreate_progress_artifact(percent, f"{key}-progress", text)
                self._ids = bar, await acreate_table_artifact(rows, f"{key}-steps", "Results of each step")
            else:
                bar, table = self._ids
                async with get_client() as client:
                    await aupdate_progress_artifact(bar, percent, text, client=client)
                    await client.update_artifact(table, ArtifactUpdate(data=json.dumps(rows)))
        except Exception as error:  # whatever Prefect raises: the jobs are paid for, and the run goes on
            _log.warning("the progress of the run could not be shown: %s: %s", type(error).__name__, error)
            self.is_away = True
            return False
        self._shown = state
        return True


@contextmanager
def _item_lines() -> Iterator[None]:
    """Let the log of a flow run have a line for each item, which no console shows, and none for each task run.

    A level that the user has chosen stays. A worker has imported Prefect before ``prefect_settings`` could say so.
    """
    before = _items.level, _items.propagate, _items.handlers, _task_runs.level
    _items.propagate, _items.handlers = False, [*_lines.handlers, logging.NullHandler()]
    if _lines.getEffectiveLevel() == logging.WARNING:
        _items.setLevel(logging.INFO)
    if _task_runs.getEffectiveLevel() == logging.INFO:
        _task_runs.setLevel(logging.WARNING)
    try:
        yield
    finally:
        level, _items.propagate, _items.handlers, task_level = before
        _items.setLevel(level)
        _task_runs.setLevel(task_level)


def line_of(summary: Summary) -> str:
    """Return how a run went, in one line."""
    counts = ", ".join(f"{n} {outcome}" for outcome, n in sorted(summary.counts.items()))
    is_preview = summary.is_preview
    paid = f"paid, {price(summary.cost)}{summary.beyond_cost}"
    jobs = f"{summary.jobs} jobs {'made here, nothing was paid' if is_preview else paid}"
    report = f"; report: {summary.report}" if summary.report else ""
    seconds = f" after {measured_duration(summary.seconds)}" if summary.seconds else ""
    stopped = f" ({summary.stopped})" if summary.stopped else ""
    return (
        f"{summary.name}: {summary.end}{seconds}{stopped}: {summary.items} of {summary.total} items: "
        f"{counts or 'none'}; {jobs}; {summary.cached} results from the store; manifest: {summary.manifest}{report}"
    )
