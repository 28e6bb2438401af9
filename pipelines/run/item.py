"""One item of a run: the answers to its walk, each paid for once, and the files that come of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from flux_tasks import background, files
from flux_tasks.errors import RunStopped, StoreUnavailable
from flux_tasks.images.reference import ImageRef
from flux_tasks.jobs.call import Call
from flux_tasks.jobs.known import lookup, substitute
from flux_tasks.jobs.result import JobOutcome, JobResult
from flux_tasks.store.commit import patiently
from pipelines.data.items import Item
from pipelines.data.manifest import ManifestRow, StepOutcome
from pipelines.data.outputs import FULL, write_output
from pipelines.execution import expectations, local_steps
from pipelines.execution.arguments import call_of, pictures_for_task
from pipelines.execution.expectations import Observed
from pipelines.execution.walk import Attempt, NeedsJob, Outcome, Place, walk
from pipelines.language.graph import OutputTarget
from pipelines.language.names import SOURCE
from pipelines.run.context import CallTool, Event, EventKind, RunContext
from pipelines.run.row import ItemRow

__all__ = ["ItemRun"]

T = TypeVar("T")

PICTURED_ITEMS = 60
"""Items whose masks are kept and drift is measured for the report; it embeds no more pictures than that."""


class ItemRun:
    """One item of a run. Implements ``NodeAnswers``: pays for jobs, does local work, keeps results in the store."""

    def __init__(self, item: Item, context: RunContext) -> None:
        self.item = item
        self.facts = context.facts
        self.outputs = context.outputs
        self._context = context
        self._call_tool: CallTool | None = None
        self._row = ItemRow(item)
        self._performed: set[tuple[str, str]] = set()
        """Nodes whose result was worked out for this item, maybe in a walk that ended for want of a job."""

    async def run(self, call_tool: CallTool | None) -> ManifestRow:
        """Take the item through the recipe and write its files; errors of the item are in its row, none are raised.

        Raises:
            NeedsJob: a step needs a job and there is no ``call_tool``. Run it again with one.
        """
        self._call_tool = call_tool
        self._row = ItemRow(self.item)
        walked = await walk(self.item, self._context.recipe, self)
        for target, path in walked.paths:
            image = walked.results.get(target.node)
            if image is not None:
                await self._write(target, path, image)
        return self._row.finish(walked.results.get(SOURCE))

    async def _write(self, target: OutputTarget, path: str, image: ImageRef) -> None:
        try:
            try:
                await asyncio.to_thread(files.patiently, write_output, image, path)
            except OSError as error:
                if error.errno in FULL:  # every further item would end the same way
                    raise StoreUnavailable(f"{path} cannot be written: {error.strerror}") from error
                raise
        except Exception as problem:
            self.fail("output", problem)
        else:
            self._row.written(target, path, image)

    # -- answers to the walk --------------------------------------------------------------------------------------

    @property
    def is_parallel(self) -> bool:
        """Whether jobs are made, which can go side by side."""
        return self._call_tool is not None

    async def off_loop(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function on a thread."""
        return await asyncio.to_thread(function, *arguments)

    async def local(self, attempt: Attempt) -> Outcome:
        """Do what costs nothing, and keep the result in the store."""
        node, image = attempt.node, attempt.image
        operate = partial(local_steps.operate, node, attempt.arguments, image, self._context.store)
        result = await patiently(operate)
        if image is not None and result.image.digest == image.digest:
            return Outcome(StepOutcome.UNCHANGED, image, "the picture is as it should be")
        performed = (node.id, result.image.digest)
        if not result.from_store:
            self._performed.add(performed)
        kind = StepOutcome.DONE if performed in self._performed else StepOutcome.CACHED
        return Outcome(kind, result.image, warnings=attempt.notes)

    async def paid(self, attempt: Attempt) -> Outcome:
        """Return what the store has, or pay for a job.

        Raises:
            NeedsJob: there is nobody to make one.
            FluxError: see the tree in ``errors``.
        """
        context, first = self._context, attempt.call
        assert first is not None, attempt.node.id  # noqa: S101 - there are no placeholders in a run
        call = first
        if context.seed is not None and "seed" in call.tool.parameters:
            attempt = replace(attempt, arguments={**attempt.arguments, "seed": context.seed})
            call = await self.off_loop(call_of, attempt.node, attempt.arguments, attempt.image)
        async with context.one_at_a_time(call):
            result = await self._result(attempt, call)
            if call is not first and result is not None and result.outcome is not JobOutcome.CACHED:
                await background.arun(substitute(first, call, context.settings))
        if result is None:
            mask = call.mask.mask if call.mask is not None else None
            reason = mask.explain_empty() if mask is not None else "the canvas is the picture"
            return Outcome(StepOutcome.UNCHANGED, attempt.image, reason)
        warnings = (*attempt.notes, *result.warnings)
        return Outcome(StepOutcome(result.outcome), result.image, warnings=warnings, call=call, job=result)

    async def _result(self, attempt: Attempt, call: Call) -> JobResult | None:
        """Return the result of a call, or None if it would change nothing."""
        context, step = self._context, attempt.node.step
        found = await background.arun(lookup(call, context.settings))
        if found is not None:
            return found.with_warnings_of(call)
        if await asyncio.to_thread(call.is_noop):
            return None
        if self._call_tool is None:
            raise NeedsJob
        is_paid = await context.is_paid(call)
        context.check_not_stopped(is_paid=is_paid)
        estimate = context.prices.estimate(call)
        async with context.budget.pay(call.tool.name, estimate, is_paid=is_paid) as reservation:
            context.emit(Event(EventKind.BEGIN, self.item.stem, step.id))
            try:
                arguments = {**attempt.arguments, **pictures_for_task(attempt.node, call)}
                result = await self._call_tool(step.task, arguments)
                cost = result.cost if result.cost is not None else estimate
                reservation.cost = cost if result.is_submitted_here else 0.0
                if result.outcome is not JobOutcome.CACHED:
                    context.prices.add(call, result.cost)
            except RunStopped as reason:
                context.stop(reason)
                raise
            finally:
                context.emit(Event(EventKind.END, self.item.stem, step.id))
        if result.seconds is not None:
            context.durations.add(call.tool.name, result.seconds)
        return replace(result, outcome=JobOutcome.DONE) if result.is_submitted_here else result

    async def preserve(self, attempt: Attempt, image: ImageRef, feather: float) -> ImageRef:
        """Put the untouched pixels back, and keep the result in the store."""
        call, before = attempt.call, attempt.image
        assert call is not None and before is not None, attempt.node.id  # noqa: S101, PT018 - the walk has looked
        return await patiently(local_steps.preserve, call, before, image, self._context.store, feather)

    async def retry(self, attempt: Attempt) -> None:
        """Do nothing: a run knows its results, and so whether there will be a further try."""

    async def note(self, attempt: Attempt, outcome: Outcome) -> None:
        """Add the step to the item's row."""
        if outcome.kind is StepOutcome.BLOCKED:
            return  # the row has the error of what blocks it
        call, image, seen = outcome.call or attempt.call, outcome.image, Observed()
        is_new_picture = image is not None and outcome.kind is not StepOutcome.UNCHANGED
        if call is not None and image is not None and is_new_picture and self.item.index < PICTURED_ITEMS:
            seen = await asyncio.to_thread(expectations.observe, self._context.store, call, attempt.image, image)
        step = self._row.note(attempt, outcome, seen)
        cost = step.get("cost") or 0.0
        self._context.emit(Event(EventKind.STEP, self.item.stem, attempt.node.step.id, outcome.kind, cost))

    def fail(self, place: Place, problem: Exception) -> None:
        """Add the error to the item's row; one that nothing can succeed after stops the run."""
        if isinstance(problem, RunStopped):
            self._context.stop(problem)
        self._row.fail(place if isinstance(place, str) else place.id, problem)
