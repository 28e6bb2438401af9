"""One item of a run: the answers to its walk, each paid for once, its files, and its row of the manifest."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from flux_tasks import background, files
from flux_tasks.api.telemetry import probe
from flux_tasks.errors import InvalidRequest, RunStopped, StoreUnavailable
from flux_tasks.images.encoding import EXTENSIONS
from flux_tasks.images.reference import ImageRef, remembering
from flux_tasks.jobs.call import Call
from flux_tasks.jobs.context import CheckedArguments, heed, noting_slots
from flux_tasks.jobs.known import changes_nothing, lookup, substitute
from flux_tasks.jobs.result import JobOutcome, JobResult
from flux_tasks.settings import use
from flux_tasks.store.commit import patiently
from pipelines.data.annotations import Labels
from pipelines.data.inputs import ReadFiles
from pipelines.data.items import Item
from pipelines.data.manifest import ManifestRow, StepOutcome
from pipelines.data.outputs import FULL, write_output
from pipelines.data.settled import AddLater, SettledItems
from pipelines.data.writers.columns.schema import IMAGE, Row
from pipelines.data.writers.provenance import SIDECAR, lineage, provenance_of
from pipelines.data.writers.rows import PlacedRow
from pipelines.execution import expectations, local_steps
from pipelines.execution.answers import Attempt, InVain, NeedsJob, Outcome, Place
from pipelines.execution.arguments import call_of, pictures_for_task
from pipelines.execution.expectations import Observed
from pipelines.execution.local_steps import Restored
from pipelines.execution.precheck import pictures_of_item
from pipelines.execution.walk import WalkResult, walk
from pipelines.language.graph import OutputTarget
from pipelines.language.names import SOURCE
from pipelines.run.context import CallTool, Event, EventKind, RunContext
from pipelines.run.datasets import NewRow, Result, make_row
from pipelines.run.row import ItemRow

T = TypeVar("T")

PICTURED_ITEMS = 60
"""Items whose masks are kept and drift is measured for the report; it embeds no more pictures than that."""


class ItemRun:
    """One item of a run. Implements ``NodeAnswers``: pays for jobs, does local work, keeps results in the store.

    Args:
        number: its place in the order of work.
        is_new: no run has settled it, and others have been: these leave it the way.
    """

    def __init__(self, item: Item, context: RunContext, number: int, *, is_new: bool = False) -> None:
        self.item = item
        self._number = number
        self._masks: dict[str, ImageRef] = {}
        """As they were sent, by node; only where a dataset has them."""
        self.is_new = is_new
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
        if self.is_new:
            self._context.beginning.add(self.item.index)
        try:
            with heed(self._context.halt):
                return await self._run(call_tool)
        finally:
            self._context.beginning.discard(self.item.index)

    async def _run(self, call_tool: CallTool | None) -> ManifestRow:
        if self.item.duplicate_of:
            await self._end([])
            return self._row.finish(None)
        settled = await self.find_settled()
        if settled is not None:
            await self._end([])
            return settled
        self._call_tool = call_tool
        self._row = ItemRow(self.item)
        read = await self._where_it_lies(self._read_files)
        with files.watching(read), remembering(read):
            walked = await walk(self.item, self._context.recipe, self)
        rows: list[tuple[str, Row]] = []
        is_left = False
        for target, path in walked.paths:
            image = walked.results.get(target.node)
            if image is not None and target.output.dataset and self._context.shard is not None:
                is_left = True  # its row is written when all shards have ended
            elif image is not None and target.output.dataset:
                rows += await self._new_row(target, path, image, walked)
            elif image is not None:
                await self._write(target, path, image, walked)
        row = self._row.finish(walked.results.get(SOURCE))
        assert self._context.settled is not None  # noqa: S101 - as above
        noted = self._context.settled, self.item, read, row, self._row.remarks
        if rows:
            add = await self._where_it_lies(SettledItems.add_later, *noted)
            await self._end(_new_rows(rows, self._row.fingerprints, add))
            return row
        await self._end([])
        if not is_left:
            await self._where_it_lies(SettledItems.add, *noted, self._row.fingerprints)
        return row

    async def _end(self, rows: Sequence[NewRow]) -> None:
        """Hand over the rows of the item: their turn comes after those of the items before it."""
        datasets = self._context.datasets
        if datasets is not None and (rows or not datasets.is_idle):
            await asyncio.to_thread(datasets.end, self._number, rows)
        elif datasets is not None:
            datasets.end(self._number, rows)

    async def _new_row(
        self, target: OutputTarget, place: str, image: ImageRef, walked: WalkResult
    ) -> list[tuple[str, Row]]:
        """Return the row of a result, and its dataset; nothing if that cannot be made."""
        context = self._context
        assert context.datasets is not None  # noqa: S101 - the recipe has one
        schema = context.datasets.schemas[target.output.dataset]
        source = walked.results.get(SOURCE)
        try:
            labels = await self._labels_at(target, walked)
            new = Result(target, place, image, source, self._row.steps, self._masks, labels)
            make = partial(make_row, context.recipe, schema, self.item, new, context.store)
            row = await asyncio.to_thread(files.patiently, make)
        except Exception as problem:
            self.fail("output", problem)
            return []
        is_file = target.output.format == "imagefolder"
        path = f"{place}.{EXTENSIONS[row.pictures[IMAGE].media_type]}" if is_file else place
        self._row.add_output(target, path, row.pictures[IMAGE], labels, place)
        return [(target.output.dataset, row)]

    async def _where_it_lies(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function that looks at files: here if all are on this machine, else on a thread."""
        outputs = (target.output.root for target in self._context.recipe.graph.targets)
        is_here = all(map(files.is_local, (self.item.path, *outputs)))
        return function(*arguments) if is_here else await self.off_loop(function, *arguments)

    async def find_settled(self) -> ManifestRow | None:
        """Return the row of an item that an earlier run has settled; None if it has to be looked at."""
        context = self._context
        if not context.settled:
            return None
        try:
            names = {**context.recipe.constants, **self.item.context}
            paths = self.outputs.claim(context.recipe.graph.targets, names, self.item.index)
        except InvalidRequest:
            return None
        find = partial(context.settled.find, self.item, [path for _, path in paths])
        try:
            found = find(may_wait=False)
        except BlockingIOError:
            found = await self.off_loop(find)
        return found.row if found is not None else None

    def _read_files(self) -> ReadFiles:
        """Return what notes the files of this item, beginning with the pictures that its recipe names."""
        context = self._context
        assert context.settled is not None  # noqa: S101 - opened before the first item
        read = ReadFiles(context.settled.inputs, context.store)
        for location in pictures_of_item(context.recipe, self.item, context.named_pictures):
            read.add(location)
        return read

    async def _write(self, target: OutputTarget, path: str, image: ImageRef, walked: WalkResult) -> None:
        assert self._context.settled is not None  # noqa: S101 - opened before the first item
        try:
            labels = await self._labels_at(target, walked)
            prints = self._context.settled.prints
            fingerprint, digest = await asyncio.to_thread(files.patiently, write_output, image, path, prints)
            if target.output.provenance:
                await asyncio.to_thread(self._write_provenance, target, path, walked.results.get(SOURCE))
        except Exception as problem:
            if isinstance(problem, OSError) and problem.errno in FULL:  # every further item would end the same way
                problem = StoreUnavailable(f"{path} cannot be written: {problem.strerror}")
            self.fail("output", problem)
        else:
            self._row.add_output(target, path, image, labels, digest=digest)
            self._row.fingerprints[path] = fingerprint

    async def _labels_at(self, target: OutputTarget, walked: WalkResult) -> Labels | None:
        """Return the labels of a result."""
        followed = walked.labels
        return await self.off_loop(followed.at, target.node) if followed is not None else None

    def _write_provenance(self, target: OutputTarget, path: str, source: ImageRef | None) -> None:
        """Write what a file was made of into a JSON file beside it."""
        assert self._context.settled is not None  # noqa: S101 - as above
        steps, written = lineage(self._row.steps, target.node), ImageRef.of(files.read(path))
        text = provenance_of(self._context.recipe, steps, source, self.item.source, written)
        beside = f"{path}{SIDECAR}"
        state = files.write(beside, text.encode("utf-8", "replace"))
        self._row.fingerprints[beside] = self._context.settled.prints.of_written(beside, state)

    # -- answers to the walk --------------------------------------------------------------------------------------

    @property
    def is_parallel(self) -> bool:
        """Whether jobs are made, which can go side by side."""
        return self._call_tool is not None

    async def off_loop(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function on a thread."""
        return await asyncio.to_thread(function, *arguments)

    async def _measured(self, answer: Callable[[Attempt], Awaitable[Outcome]], attempt: Attempt) -> Outcome:
        """Answer an attempt, and measure that if anybody wants it."""
        if probe.probe is None or self._call_tool is None:
            return await answer(attempt)
        with probe.probe.part("step", attempt.node.id) as ended:
            outcome = await answer(attempt)
            ended(str(outcome.kind))
            return outcome

    async def local(self, attempt: Attempt) -> Outcome:
        """Do what costs nothing, and keep the result in the store."""
        return await self._measured(self._local, attempt)

    async def _local(self, attempt: Attempt) -> Outcome:
        node, image = attempt.node, attempt.image
        operate = partial(local_steps.operate, node, attempt.arguments, image, self._context.store)
        result = await patiently(operate)
        if image is not None and result.image.digest == image.digest:
            return Outcome(StepOutcome.UNCHANGED, image, "the picture is as it should be")
        performed = (node.id, result.image.digest)
        if not result.from_store:
            self._performed.add(performed)
        kind = StepOutcome.DONE if performed in self._performed else StepOutcome.CACHED
        return Outcome(kind, result.image, warnings=(*attempt.notes, *result.warnings))

    async def paid(self, attempt: Attempt) -> Outcome:
        """Return what the store has, or pay for a job; raise NeedsJob if there is nobody to make one, or InVain."""
        return await self._measured(self._paid, attempt)

    async def _paid(self, attempt: Attempt) -> Outcome:
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
        kind = StepOutcome.DONE if context.is_own(result) else StepOutcome(result.outcome)
        return Outcome(kind, result.image, warnings=warnings, call=call, job=result)

    async def _result(self, attempt: Attempt, call: Call) -> JobResult | None:
        """Return the result of a call, or None if it would change nothing."""
        context, step = self._context, attempt.node.step
        found = await background.arun(lookup(call, context.settings, write=True))
        if found is not None:
            return found.with_warnings_of(call)
        if await changes_nothing(call):
            return None
        if await attempt.is_in_vain() and not await context.is_unsettled(call):
            raise InVain
        if self._call_tool is None:
            raise NeedsJob
        is_paid = await context.is_paid(call)
        context.check_not_stopped(is_paid=is_paid)
        estimate = context.prices.estimate(call)
        async with context.budget.pay(call.tool.name, estimate, is_paid=is_paid) as reservation:
            context.emit(Event(EventKind.BEGIN, self.item.stem, step.id))
            context.beginning.discard(self.item.index)
            try:
                arguments = {**attempt.arguments, **pictures_for_task(attempt.node, call)}
                transport = step.transport or context.recipe.transport
                on_slot = partial(self._note_slot, asyncio.get_running_loop(), step.id)
                with use(transport=transport) if transport else nullcontext(), noting_slots(on_slot):
                    result = await self._call_tool(step.task, CheckedArguments(arguments, call))
                cost = result.cost if result.cost is not None else estimate
                reservation.cost = cost if result.is_submitted_here else 0.0
                if result.outcome is not JobOutcome.CACHED:
                    context.prices.add(call, result.cost)
            except RunStopped as reason:
                context.stop(reason)
                raise
        return replace(result, outcome=JobOutcome.DONE) if result.is_submitted_here else result

    def _note_slot(self, loop: asyncio.AbstractEventLoop, step: str, is_held: bool) -> None:
        event = Event(EventKind.ACTIVE if is_held else EventKind.END, self.item.stem, step)
        with suppress(RuntimeError):  # the run has ended before the job
            loop.call_soon_threadsafe(self._context.emit, event)

    async def restore(self, attempt: Attempt, image: ImageRef) -> Restored:
        """Put right what the step says, and keep the result in the store."""
        call, before = attempt.call, attempt.image
        assert call is not None and before is not None, attempt.node.id  # noqa: S101, PT018 - the walk has looked
        return await patiently(local_steps.restore, attempt.node.step, call, before, image, self._context.store)

    async def retry(self, attempt: Attempt) -> None:
        """Do nothing: a run knows its results, and so whether there will be a further try."""

    async def note(self, attempt: Attempt, outcome: Outcome) -> None:
        """Add the step to the item's row."""
        if outcome.kind is StepOutcome.BLOCKED:
            return  # the row has the error of what blocks it
        call, image, seen = outcome.call or attempt.call, outcome.image, Observed()
        is_new_picture = image is not None and outcome.kind is not StepOutcome.UNCHANGED
        if call is not None and image is not None and is_new_picture and self.item.index < PICTURED_ITEMS:
            parts = (self._context.store, self.facts, call, attempt.image, image)
            seen = await asyncio.to_thread(expectations.observe, *parts)
        if self._context.datasets is not None and call is not None and call.mask is not None and is_new_picture:
            self._masks[attempt.node.id] = await asyncio.to_thread(getattr, call.mask, "picture")
        step = self._row.note(attempt, outcome, seen)
        cost = step.get("cost") or 0.0
        self._context.emit(Event(EventKind.STEP, self.item.stem, attempt.node.step.id, outcome.kind, cost))

    def fail(self, place: Place, problem: Exception) -> None:
        """Add the error to the item's row; one that nothing can succeed after stops the run."""
        if isinstance(problem, RunStopped):
            self._context.stop(problem)
        self._row.fail(place if isinstance(place, str) else place.id, problem)


def _new_rows(rows: Sequence[tuple[str, Row]], prints: Mapping[str, str | None], add: AddLater) -> list[NewRow]:
    """Return rows; the item is settled (``add``) once all of them are safe."""
    found, placed = dict(prints), list[PlacedRow]()

    def written(row: PlacedRow, own: Mapping[str, str | None]) -> None:
        found.update(own)
        placed.append(row)
        if len(placed) == len(rows):
            add(found, placed)

    return [NewRow(dataset, row, written) for dataset, row in rows]
