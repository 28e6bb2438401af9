"""One item of a run: the answers to its walk, each paid for once, its files, and its row of the manifest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, cast

from flux_tasks import background, files
from flux_tasks.errors import InvalidRequest, RunStopped, StoreUnavailable
from flux_tasks.images.reference import ImageRef, remembering
from flux_tasks.jobs.call import Call
from flux_tasks.jobs.context import CheckedArguments, heed
from flux_tasks.jobs.known import changes_nothing, lookup, substitute
from flux_tasks.jobs.result import JobOutcome, JobResult
from flux_tasks.store.commit import patiently
from pipelines.data import manifest
from pipelines.data.annotations import Labels
from pipelines.data.inputs import ReadFiles
from pipelines.data.items import Item
from pipelines.data.manifest import ErrorRow, ItemOutcome, ManifestRow, OutputRow, StepOutcome, StepRow
from pipelines.data.outputs import FULL, write_output
from pipelines.execution import expectations, local_steps
from pipelines.execution.answers import Attempt, InVain, NeedsJob, Outcome, Place
from pipelines.execution.arguments import call_of, pictures_for_task
from pipelines.execution.expectations import Observed
from pipelines.execution.labels import FollowedLabels
from pipelines.execution.precheck import pictures_of_item
from pipelines.execution.walk import walk
from pipelines.language.graph import OutputTarget
from pipelines.language.names import SOURCE
from pipelines.run.context import CallTool, Event, EventKind, RunContext

T = TypeVar("T")

PICTURED_ITEMS = 60
"""Items whose masks are kept and drift is measured for the report; it embeds no more pictures than that."""


class ItemRun:
    """One item of a run. Implements ``NodeAnswers``: pays for jobs, does local work, keeps results in the store.

    Args:
        is_new: no run has settled it, and others have been: these leave it the way.
    """

    def __init__(self, item: Item, context: RunContext, *, is_new: bool = False) -> None:
        self.item = item
        self.is_new = is_new
        self.facts = context.facts
        self.outputs = context.outputs
        self._context = context
        self._call_tool: CallTool | None = None
        self._row = _Row(item)
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
        settled = await self._settled()
        if settled is not None:
            return settled
        self._call_tool = call_tool
        self._row = _Row(self.item)
        read = await self._where_it_lies(self._read_files)
        with files.watching(read), remembering(read):
            walked = await walk(self.item, self._context.recipe, self)
        for target, path in walked.paths:
            image = walked.results.get(target.node)
            if image is not None:
                await self._write(target, path, image, walked.labels)
        row = self._row.finish(walked.results.get(SOURCE))
        assert self._context.settled is not None  # noqa: S101 - as above
        await self._where_it_lies(
            self._context.settled.add, self.item, read, row, self._row.remarks, self._row.fingerprints
        )
        return row

    async def _where_it_lies(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function that looks at files: here if all are on this machine, else on a thread."""
        outputs = (target.output.path for target in self._context.recipe.graph.targets)
        is_here = all(map(files.is_local, (self.item.path, *outputs)))
        return function(*arguments) if is_here else await self.off_loop(function, *arguments)

    async def _settled(self) -> ManifestRow | None:
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

    async def _write(self, target: OutputTarget, path: str, image: ImageRef, followed: FollowedLabels | None) -> None:
        assert self._context.settled is not None  # noqa: S101 - opened before the first item
        try:
            labels = await self.off_loop(followed.at, target.node) if followed is not None else None
            prints = self._context.settled.prints
            fingerprint = await asyncio.to_thread(files.patiently, write_output, image, path, prints)
        except Exception as problem:
            if isinstance(problem, OSError) and problem.errno in FULL:  # every further item would end the same way
                problem = StoreUnavailable(f"{path} cannot be written: {problem.strerror}")
            self.fail("output", problem)
        else:
            self._row.written(target, path, image, fingerprint, labels)

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
        return Outcome(kind, result.image, warnings=(*attempt.notes, *result.warnings))

    async def paid(self, attempt: Attempt) -> Outcome:
        """Return what the store has, or pay for a job; raise NeedsJob if there is nobody to make one, or InVain."""
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
                result = await self._call_tool(step.task, CheckedArguments(arguments, call))
                cost = result.cost if result.cost is not None else estimate
                reservation.cost = cost if result.is_submitted_here else 0.0
                if result.outcome is not JobOutcome.CACHED:
                    context.prices.add(call, result.cost)
            except RunStopped as reason:
                context.stop(reason)
                raise
            finally:
                context.emit(Event(EventKind.END, self.item.stem, step.id))
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


class _Row:
    """Gathers what becomes the row of one item."""

    def __init__(self, item: Item) -> None:
        self._item = item
        self._steps: list[tuple[int, StepRow]] = []
        self._errors: list[tuple[ItemOutcome, ErrorRow]] = []
        self._outputs: list[tuple[OutputTarget, OutputRow]] = []
        self._remarks: list[tuple[int, str, str]] = []
        self._started = time.monotonic()
        self.fingerprints: dict[str, str | None] = {}

    def note(self, attempt: Attempt, outcome: Outcome, seen: Observed) -> StepRow:
        """Add how an attempt at a step ended; returns that step's row."""
        node = attempt.node
        tool = node.tool.name if node.is_paid else None
        facts: dict[str, Any] = {"reason": outcome.reason, "varied": dict(node.axes) or None, "tool": tool}
        same = ["the result has the same pixels as its input"] if seen.is_unchanged else []
        facts["warnings"] = [*outcome.warnings, *same]
        if outcome.image is not None and outcome.kind is not StepOutcome.UNCHANGED:
            facts |= _facts_of(attempt, outcome, outcome.image, seen)
        row = {
            "id": node.id,
            "task": getattr(node.action, "reference", node.step.task),
            "outcome": outcome.kind,
            "is_paid": node.is_paid,
            "from": list(node.dependencies),
            **{name: value for name, value in facts.items() if value not in (None, "", [])},
        }
        step = cast(StepRow, row)
        of_job = outcome.job.warnings if outcome.job is not None else ()
        said = (warning for warning in outcome.warnings if warning not in (*attempt.notes, *of_job))
        self._remarks += ((node.rank, node.id, warning) for warning in said)
        self._steps.append((node.rank, step))
        return step

    @property
    def remarks(self) -> list[tuple[str, str]]:
        """What a plan says of the steps once the store answers them: node and sentence."""
        return [(node, said) for _, node, said in sorted(self._remarks, key=lambda remark: remark[0])]

    def fail(self, place: str, problem: Exception) -> None:
        """Add what went wrong, and where: the node, or ``source``, ``input``, ``output``."""
        self._errors.append((manifest.outcome_of(type(problem)), manifest.error_row(place, problem)))

    def written(
        self, target: OutputTarget, path: str, image: ImageRef, fingerprint: str | None, labels: Labels | None
    ) -> None:
        """Add a file that was written, with the fingerprint that it had then, and the labels of its picture."""
        self.fingerprints[path] = fingerprint
        row: OutputRow = {"path": path, "from": target.node, "image": image.to_dict()}
        if labels is not None:
            row |= {"labels": labels.to_data(), "annotations": [*dict.fromkeys(target.annotations)]}
        self._outputs.append((target, row))

    def finish(self, source: ImageRef | None) -> ManifestRow:
        """Return the row; ``source`` is the item's picture."""
        steps = [step for _, step in sorted(self._steps, key=lambda noted: noted[0])]
        worst = min(self._errors, key=lambda error: manifest.SEVERITY.index(error[0]), default=None)
        results = [row for target, row in self._outputs if target.is_output]
        first = results[0] if results and worst is None else None
        paid = (step for step in steps if step["is_paid"] and step["outcome"] is StepOutcome.DONE)
        return {
            "item": self._item.stem,
            "index": self._item.index,
            "source": self._item.source,
            "outcome": worst[0] if worst else _outcome_of({step["outcome"] for step in steps}),
            "error": worst[1] if worst else None,
            "errors": [error for _, error in self._errors] if len(self._errors) > 1 else [],
            "input": source.to_dict() if source else None,
            "output": first["image"] if first else None,
            "output_path": first["path"] if first else "",
            "outputs": [row for _, row in self._outputs],
            "cost": sum(step.get("cost") or 0.0 for step in paid),
            "seconds": round(time.monotonic() - self._started, 3),
            "preview": any(step.get("preview") for step in steps) or bool(source and source.is_preview),
            "steps": steps,
        }


_OF_JOB = ("input_mp", "output_mp", "delivery_host", "expanded_prompt")
"""What a row tells of its job as the service said it."""


def _facts_of(attempt: Attempt, outcome: Outcome, image: ImageRef, seen: Observed) -> dict[str, Any]:
    """Return what the row of a step tells of its result."""
    call = outcome.call or attempt.call
    facts: dict[str, Any] = {
        "seconds": round(time.monotonic() - attempt.started, 3),
        "image": image.to_dict(),
        "preview": image.is_preview or None,
    }
    if call is None:
        plain = {name: value for name, value in attempt.arguments.items() if isinstance(value, (str, int, float))}
        shown = {n: files.quoted(v) if isinstance(v, str) and files.is_data(v) else v for n, v in plain.items()}
        return {**facts, "parameters": shown}
    return {
        **facts,
        "parameters": dict(call.parameters),
        "cost": call.estimate() if image.is_preview else image.cost,  # a preview is free: what it would be worth
        "estimate": call.estimate(),
        **{name: getattr(outcome.job, name, None) for name in _OF_JOB},
        "job_id": image.job_id,
        "mask": seen.mask,
        "drift": seen.drift,
    }


def _outcome_of(steps: set[StepOutcome]) -> ItemOutcome:
    if steps & {StepOutcome.DONE, StepOutcome.COLLECTED}:
        return ItemOutcome.DONE
    return ItemOutcome.CACHED if StepOutcome.CACHED in steps else ItemOutcome.SKIPPED
