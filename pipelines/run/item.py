"""One item on its way through the graph: every node once what feeds it is there, each with a note for the manifest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from flux_tasks import background, files
from flux_tasks.errors import (
    BudgetReached,
    CheckFailed,
    FluxError,
    InvalidImage,
    InvalidRequest,
    Moderated,
    RunStopped,
    StoreUnavailable,
    SubmissionUncertain,
)
from flux_tasks.images.reference import ImageRef
from flux_tasks.jobs import job
from flux_tasks.jobs.call import Call
from flux_tasks.jobs.result import JobOutcome, JobResult
from flux_tasks.store.commit import patiently
from pipelines.data.items import Item
from pipelines.data.manifest import SEVERITY
from pipelines.data.outputs import FULL, target_path, write_output
from pipelines.execution import conditions, expectations, local_steps
from pipelines.execution.arguments import arguments_of, call_of, context_of, pictures_for_task, tries_of, with_pictures
from pipelines.language.graph import Node, OutputTarget
from pipelines.language.names import SOURCE

if TYPE_CHECKING:
    from pipelines.run.run import Run

__all__ = ["CallTool", "Event", "ItemRun", "NeedsJob"]

CallTool = Callable[[str, dict[str, Any]], Awaitable[JobResult]]
"""Makes one paid call: task name and arguments, with every image an ``ImageRef``; returns its result."""

PICTURED_ITEMS = 60
"""Items whose masks are kept and drift is measured for the report; it embeds no more pictures than that."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something a display wants to know: an item's step began or ended, an item ended, or a word to a person."""

    kind: str
    item: str
    step: str = ""
    outcome: str = ""
    cost: float = 0.0


class NeedsJob(Exception):
    """The store has no answer for a step, and this is not the time to pay for one."""


@dataclass(frozen=True)
class _Failure:
    node: str
    outcome: str
    problem: Exception

    @property
    def row(self) -> dict[str, str]:
        problem = self.problem
        is_ours = isinstance(problem, (FluxError, OSError))
        message = str(problem) if is_ours else f"{type(problem).__name__}: {problem}"
        return {"step": self.node, "kind": type(problem).__name__, "message": message}


class ItemRun:
    """One item on its way."""

    def __init__(self, item: Item, run: Run) -> None:
        self._item = item
        self._run = run
        self._context = {**run.recipe.constants, **item.context}
        self._results: dict[str, ImageRef | None] = {}
        self._failures: list[_Failure] = []
        self._notes: list[tuple[int, dict[str, Any]]] = []
        self._started = time.monotonic()

    async def to_end(self, call_tool: CallTool | None) -> dict[str, Any]:
        """The item's manifest row. Errors of the item are in it; none are raised.

        Raises:
            NeedsJob: a step needs a job and there is no ``call_tool``.
        """
        graph = self._run.recipe.graph
        written: list[dict[str, Any]] = []
        paths: list[tuple[OutputTarget, str]] = []
        try:
            if self._item.error:
                raise InvalidRequest(self._item.error)
            for number, target in enumerate(graph.targets):
                path = target_path(target, self._context)
                self._run.claim_output(path, self._item, number)
                paths.append((target, path))
        except Exception as problem:
            self._fail("output" if not self._item.error else "source", problem)
        if not self._failures:
            await self._read_source()
        if not self._failures:
            await self._through(graph.nodes, call_tool)
            for target, path in paths:
                await self._write(target, path, written)
        return self._row(written)

    async def _read_source(self) -> None:
        try:
            self._results[SOURCE] = None
            if self._item.path:
                self._results[SOURCE] = await asyncio.to_thread(ImageRef.of, self._item.path)
        except Exception as problem:
            self._fail("input", problem)

    async def _through(self, nodes: tuple[Node, ...], call_tool: CallTool | None) -> None:
        """Take every node when what feeds it is there; those that do not wait for one another go side by side."""
        is_chain = all(set(node.dependencies) <= {SOURCE, before.id} for before, node in pairwise(nodes))
        if call_tool is None or is_chain:
            for node in nodes:
                await self._reach(node, call_tool)
            return
        tasks: dict[str, asyncio.Task[None]] = {}

        async def when_fed(node: Node) -> None:
            for fed in node.dependencies:
                if fed in tasks:
                    await tasks[fed]
            await self._reach(node, call_tool)

        async with asyncio.TaskGroup() as group:
            for node in nodes:
                tasks[node.id] = group.create_task(when_fed(node))

    async def _reach(self, node: Node, call_tool: CallTool | None) -> None:
        if any(fed not in self._results for fed in node.dependencies):
            return  # something before it failed, and has been told
        try:
            self._results[node.id] = await self._take(node, call_tool)
        except NeedsJob:  # what was made on the way is found in the store when this item is gone through again
            self._run.made.update(note["image"]["digest"] for _, note in self._notes if note["outcome"] == "made")
            raise
        except Exception as problem:  # one bad item, whatever is wrong with it, never stops a run
            self._fail(node.id, problem)

    async def _write(self, target: OutputTarget, path: str, written: list[dict[str, Any]]) -> None:
        image = self._results.get(target.node)
        if image is None:
            return
        try:
            try:
                await asyncio.to_thread(files.patiently, write_output, image, path)
            except OSError as error:
                if error.errno in FULL:  # every further item would end the same way
                    raise StoreUnavailable(f"{path} cannot be written: {error.strerror}") from error
                raise
        except Exception as problem:
            self._fail("output", problem)
            return
        written.append({"path": path, "from": target.node, "image": image.to_dict(), "is_output": target.is_output})

    def _fail(self, node: str, problem: Exception) -> None:
        if isinstance(problem, RunStopped):
            self._run.stop(problem)
            outcome = "held"
        elif isinstance(problem, SubmissionUncertain):
            outcome = "held"
        elif isinstance(problem, Moderated):
            outcome = "moderated"
        elif isinstance(problem, (InvalidImage, InvalidRequest)):
            outcome = "invalid"
        else:
            outcome = "failed"
        self._failures.append(_Failure(node, outcome, problem))

    def _row(self, written: list[dict[str, Any]]) -> dict[str, Any]:
        steps = [note for _, note in sorted(self._notes, key=lambda noted: noted[0])]
        worst = min(self._failures, key=lambda failure: SEVERITY.index(failure.outcome), default=None)
        outputs = [w for w in written if w["is_output"]]
        first = outputs[0] if outputs and worst is None else None
        source = self._results.get(SOURCE)
        return {
            "item": self._item.stem,
            "index": self._item.index,
            "source": self._item.path or self._item.stem,
            "outcome": worst.outcome if worst else self._success(steps),
            "error": worst.row if worst else None,
            "errors": [failure.row for failure in self._failures] if len(self._failures) > 1 else [],
            "input": source.to_dict() if source else None,
            "output": first["image"] if first else None,
            "output_path": first["path"] if first else "",
            "outputs": [{name: value for name, value in w.items() if name != "is_output"} for w in written],
            "cost": sum(s.get("cost") or 0.0 for s in steps if s["outcome"] == "done"),
            "seconds": round(time.monotonic() - self._started, 3),
            "preview": any(s.get("preview") for s in steps) or bool(source and source.is_preview),
            "steps": steps,
        }

    def _success(self, steps: list[dict[str, Any]]) -> str:
        outcomes = {step["outcome"] for step in steps}
        if outcomes & {"done", "collected", "made"}:
            return "done"
        return "cached" if outcomes & {"cached", "kept"} else "skipped"

    # -- one node -------------------------------------------------------------------------------------------------

    async def _take(self, node: Node, call_tool: CallTool | None) -> ImageRef | None:
        """The result of ``node``; its input where it does not apply; None where there is no picture."""
        image = self._results[node.image] if node.image is not None else None
        if node.image is not None and image is None:
            self._note(node, "skipped", reason=f"there is no picture from {node.image}")
            return None
        context = context_of(node, self._context)
        given = with_pictures(node, arguments_of(node, context), self._results)
        if given is None:
            self._note(node, "skipped", reason="a picture that it needs was not made")
            return image if node.passes_input_through else None
        if not await asyncio.to_thread(conditions.applies, node, context, given, image, self._run.facts):
            self._note(node, "skipped", reason=f"when: {node.step.when}")
            return image if node.passes_input_through else None
        tries = tries_of(node, context)
        failures: list[str] = []
        for number, changes in enumerate(tries):
            started = time.monotonic()
            arguments = {**given, **changes}
            words = [f"tried again with {_told(changes)}, because {'; '.join(failures)}"] if failures else []
            if node.is_paid:
                result, call = await self._call(node, arguments, image, call_tool, words, started)
            else:
                result, call = await self._operate(node, arguments, image, words, started), None
            failures = await self._expected(node, call, image, result) if result is not image else []
            if not failures:
                return result
            if number == len(tries) - 1 and node.step.on_failure.then == "keep":
                self._notes[-1][1].setdefault("warnings", []).append(f"kept, though {'; '.join(failures)}")
                return result
        raise CheckFailed(f"the result is not as expected: {'; '.join(failures)}")

    async def _expected(
        self, node: Node, call: Call | None, before: ImageRef | None, after: ImageRef | None
    ) -> list[str]:
        expect = node.step.expect
        if expect is None or after is None:
            return []

        def look() -> list[str]:
            mask = local_steps.sent_mask(call) if call is not None and expect.needs_mask else None
            return expectations.judge(expect, self._run.facts, before, after, mask)

        return await asyncio.to_thread(look)

    async def _operate(
        self, node: Node, given: Mapping[str, Any], image: ImageRef | None, words: list[str], started: float
    ) -> ImageRef:
        known: list[bool] = []
        result: ImageRef = await patiently(local_steps.operate, node, given, image, self._run.store, True, known)
        if image is not None and result.digest == image.digest:
            self._note(node, "unchanged", reason="the picture is as it should be")
            return image
        self._note(
            node,
            "kept" if known and result.digest not in self._run.made else "made",
            seconds=round(time.monotonic() - started, 3),
            image=result.to_dict(),
            parameters=_plain(given),
            warnings=words,
            preview=result.is_preview or None,
        )
        return result

    async def _call(
        self,
        node: Node,
        arguments: dict[str, Any],
        image: ImageRef | None,
        call_tool: CallTool | None,
        words: list[str],
        started: float,
    ) -> tuple[ImageRef | None, Call]:
        run = self._run
        call = first = await asyncio.to_thread(call_of, node, arguments, image)
        if run.seed is not None and "seed" in node.tool.parameters:
            arguments = {**arguments, "seed": run.seed}
            call = await asyncio.to_thread(call_of, node, arguments, image)
        async with run.equal_calls(call.key(run.summary.engine)):
            result = await self._answer(node, call, arguments, call_tool)
            if call is not first and result is not None and result.outcome is not JobOutcome.CACHED:
                await background.arun(job.substitute(first, call, run.settings))
        if result is None:
            why = "the mask is all black" if call.mask else "the canvas is the picture"
            self._note(node, "unchanged", reason=why)
            return image, call
        return await self._noted(node, call, image, result, words, started), call

    async def _answer(
        self, node: Node, call: Call, arguments: dict[str, Any], call_tool: CallTool | None
    ) -> JobResult | None:
        """Return the result of a call, or None if it would change nothing."""
        run = self._run
        found = await background.arun(job.lookup(call, run.settings))
        if found is not None:
            return found.with_warnings_of(call)
        if await asyncio.to_thread(call.is_noop):
            return None
        if call_tool is None:
            raise NeedsJob
        is_paid = await run.is_paid(call)
        if run.stopped is not None and not (is_paid and isinstance(run.stopped, BudgetReached)):
            raise type(run.stopped)(f"not begun, because the run was stopped: {run.stopped}")
        async with run.purse.pay(node.tool.name, call.estimate(), is_paid=is_paid) as bill:
            run.tell(Event("begin", self._item.stem, node.step.id))
            try:
                result = await call_tool(node.step.task, {**arguments, **pictures_for_task(node, call)})
                cost = result.cost if result.cost is not None else call.estimate()
                bill.cost = cost if result.is_submitted_here else 0.0
            except RunStopped as reason:
                run.stop(reason)
                raise
            finally:
                run.tell(Event("end", self._item.stem, node.step.id))
        if result.seconds is not None:
            run.durations.add(node.tool.name, result.seconds)
        return replace(result, outcome=JobOutcome.DONE) if result.is_submitted_here else result

    async def _noted(
        self,
        node: Node,
        call: Call,
        before: ImageRef | None,
        result: JobResult,
        words: list[str],
        started: float,
    ) -> ImageRef:
        """Return the picture of ``result``, with the untouched pixels put back if the step says so, and note it all."""
        said = [*words, *result.warnings]
        delivered = after = result.image
        if node.step.preserve is not None and before is not None and call.mask is not None:
            put = await patiently(
                local_steps.preserved, call, before, after, self._run.store, node.step.preserve.feather
            )
            if put is after:
                said.append("the untouched pixels were not put back: the result has another size than its input")
            after = put
        seen = expectations.Observed()
        if self._item.index < PICTURED_ITEMS:
            seen = await asyncio.to_thread(expectations.observe, self._run.store, call, before, after)
        if seen.is_unchanged:
            said.append("the result has the same pixels as its input")
        self._note(
            node,
            result.outcome,
            cost=call.estimate() if delivered.is_preview else delivered.cost,  # a preview is free; this is its worth
            estimate=call.estimate(),
            job_id=delivered.job_id,
            seconds=round(time.monotonic() - started, 3),
            image=after.to_dict(),
            mask=seen.mask,
            drift=seen.drift,
            parameters=dict(call.parameters),
            warnings=said,
            preview=after.is_preview or None,
        )
        return after

    def _note(self, node: Node, outcome: str, **facts: Any) -> None:
        step = node.step
        noted: dict[str, Any] = {"id": node.id, "task": step.task, "outcome": outcome, "from": list(node.dependencies)}
        if node.is_paid:
            noted["tool"] = node.tool.name
        elif step.task == "call":
            noted["task"] = getattr(node.action, "reference", "call")
        if node.axes:
            noted["varied"] = dict(node.axes)
        noted |= {name: value for name, value in facts.items() if value not in (None, "", [], ())}
        self._notes.append((node.rank, noted))
        self._run.tell(Event("step", self._item.stem, step.id, outcome, facts.get("cost") or 0.0))


def _told(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in changes.items())


def _plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters for the manifest, without pictures."""
    return {n: v for n, v in given.items() if isinstance(v, (str, int, float, bool))}
