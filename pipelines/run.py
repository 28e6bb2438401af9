"""A run: items through the steps of a recipe, bounded in flight, each ending in a row of the manifest.

It knows nothing of where it runs: ``advance`` is handed the callable that makes a paid call. What the store already
answers never gets that far, so a run that has nothing left to do needs neither Prefect nor a server.
"""

from __future__ import annotations

import asyncio
import errno
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flux_tasks import files, job, portal
from flux_tasks.errors import (
    FluxError,
    InvalidImage,
    InvalidRequest,
    Moderated,
    RunStopped,
    StoreUnavailable,
    SubmissionUncertain,
)
from flux_tasks.images import ImageRef
from flux_tasks.preflight import Call
from flux_tasks.settings import Settings
from flux_tasks.store import Store
from pipelines import templates
from pipelines.calls import Observed, call_of, observe, pictures_of
from pipelines.manifest import FINE, Manifest, read_manifest
from pipelines.recipe import IMAGE_FACTS, Recipe, Step
from pipelines.sinks import check_outputs, identity, output_path, write_output
from pipelines.sources import Item, items_of

__all__ = ["CallTool", "Event", "Run", "Summary"]

CallTool = Callable[[str, dict[str, Any]], Awaitable[ImageRef]]
"""Makes one paid call: task name and arguments, with every image an ``ImageRef``; returns the result."""

_FULL = (errno.ENOSPC, errno.EROFS, errno.EDQUOT)

PICTURED_ITEMS = 60
"""Items whose masks are kept and drift is measured for the report; it embeds no more pictures than that."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something a progress display wants to know: an item's step began or ended, or an item ended."""

    kind: str
    item: str
    step: str = ""
    outcome: str = ""
    cost: float = 0.0


@dataclass
class Summary:
    """What a run came to.

    Attributes:
        counts: items by outcome.
        jobs: paid calls made by this run.
        collected: jobs paid for by an earlier run and collected by this one.
        cached: answers from the store.
        cost: credits of the jobs of this run, as far as the service says.
        unpriced: jobs whose cost the service did not say.
        uncertain: submissions that may have been charged and whose id is not known.
        uncollected: jobs that are paid for, and wait in the journal to be collected.
        stopped: why the run was stopped, or an empty string.
    """

    name: str
    run_id: str
    started: str
    endpoint: str
    engine: str
    counts: Counter[str] = field(default_factory=Counter)
    jobs: int = 0
    collected: int = 0
    cached: int = 0
    cost: float = 0.0
    unpriced: int = 0
    uncertain: int = 0
    uncollected: int = 0
    seconds: float = 0.0
    stopped: str = ""
    manifest: str = ""
    report: str = ""

    @property
    def items(self) -> int:
        """Items that ended."""
        return sum(self.counts.values())

    @property
    def is_fine(self) -> bool:
        """Whether every item ended well and nothing stopped the run."""
        return not self.stopped and set(+self.counts) <= FINE


class _NeedsJob(Exception):
    """The store has no answer for a step, and this is not the time to pay for one."""


class Run:
    """One execution of ``recipe``.

    Use it as a context manager: first ``settle`` what the store can answer, then, if anything is left, ``advance``
    with the callable that makes jobs. Leaving the block closes the manifest.
    """

    def __init__(
        self,
        recipe: Recipe,
        settings: Settings,
        *,
        on_event: Callable[[Event], None] = lambda _: None,
        manifest: str = "",
        limit: int | None = None,
        only: Callable[[Item], bool] = lambda _: True,
        seed: int | None = None,
    ) -> None:
        self.recipe = recipe
        self.seed = seed
        self.settings = settings
        self._on_event = on_event
        now = time.time()  # ids sort by time, to the millisecond
        run_id = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{int(now % 1 * 1000):03d}{uuid.uuid4().hex[:4]}"
        self.store = Store(settings.store)
        self.folder = self.store.location("runs", run_id)
        self.summary = Summary(
            recipe.name,
            run_id,
            time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            settings.endpoint,
            "",
            manifest=manifest or files.join(self.folder, "manifest.jsonl"),
        )
        self._manifest = Manifest(self.summary.manifest)
        self._started = time.monotonic()
        self._stop: RunStopped | None = None
        self._outputs: dict[str, str] = {}
        self.items: list[Item] = []
        for item in items_of(recipe.source):
            if limit is not None and len(self.items) >= limit:
                break
            if only(item):
                self.items.append(item)
        check_outputs(recipe, self.items)
        self._left: Iterator[Item] = iter(self.items)
        self._next: Item | None = None

    def __enter__(self) -> Run:
        record = {
            "recipe": self.recipe.text,
            "folder": str(Path.cwd()),
            "endpoint": self.settings.endpoint,
            "manifest": self.summary.manifest,
            "started": self.summary.started,
        }
        try:
            self.store.put_record(files.join("runs", self.summary.run_id), "run", record)
        except OSError as error:
            raise StoreUnavailable(f"the store cannot be written: {error}") from error
        self._manifest.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.summary.seconds = time.monotonic() - self._started
        self._manifest.__exit__(*error)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows written, in the order of the items."""
        return iter(sorted(read_manifest(self.summary.manifest), key=lambda row: int(row.get("index", 0))))

    async def settle(self) -> bool:
        """Go through the items until one needs a job; True if none did and the run is complete.

        Raises:
            EndpointUnreachable: the endpoint has to be asked which engine it is, and does not answer.
        """
        self.summary.engine = await portal.arun(job.engine_of(self.settings))
        await portal.arun(job.tidy(self.settings))
        await portal.arun(job.stop_submitting(self.settings, None))
        for item in self._left:
            if self._stop is not None:
                self._next = item
                return False
            try:
                await self._finish(item, None)
            except _NeedsJob:
                self._next = item
                return False
        return True

    async def advance(self, call_tool: CallTool) -> None:
        """Finish every item that is left, with several in work at a time and paid calls through ``call_tool``.

        When the key is refused, credits run out, or somebody wants the run to end, no new job is begun; those in
        flight are collected.
        """
        if self._next is None:
            return
        queue = iter((self._next, *self._left))
        # Enough open items that a slot never waits for one: the next job starts before the last one's bookkeeping.
        workers = min(len(self.items), 3 * self.settings.max_jobs)
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._work(queue, call_tool))
        self._next = None

    async def _work(self, queue: Iterator[Item], call_tool: CallTool) -> None:
        for item in queue:
            await self._finish(item, call_tool)

    async def _finish(self, item: Item, call_tool: CallTool | None) -> None:
        walk = _Walk(item, self)
        row = await walk.to_end(call_tool)
        self.summary.counts[row["outcome"]] += 1
        for step in row["steps"]:
            self.summary.cached += step["outcome"] == "cached"
            if step["outcome"] == "done":
                self.summary.jobs += 1
                self.summary.cost += step.get("cost") or 0.0
                self.summary.unpriced += "cost" not in step
            self.summary.collected += step["outcome"] == "attached"
        kind = (row["error"] or {}).get("kind")
        self.summary.uncertain += kind == "SubmissionUncertain"
        self.summary.uncollected += kind in ("StillRunning", "DeliveryFailed", "JobLost")
        try:
            self._manifest.add(row)
        except OSError as error:
            self.stop(RunStopped(f"the manifest cannot be written: {error}"))
        self._on_event(Event("item", item.stem, outcome=row["outcome"]))

    # What a walk needs of its run.

    def stop(self, reason: RunStopped) -> None:
        """Begin no new job: items that are left are held, jobs that wait for a slot are not submitted.

        May be called from any thread.
        """
        if self._stop is None:
            self._stop = reason
            self.summary.stopped = str(reason)
            portal.start(job.stop_submitting(self.settings, reason))

    @property
    def stopped(self) -> RunStopped | None:
        """Why no new job is begun, or None."""
        return self._stop

    def tell(self, event: Event) -> None:
        """Pass something on to the progress display."""
        self._on_event(event)

    def claim_output(self, path: str, item: Item) -> None:
        """Reserve an output path.

        Raises:
            InvalidRequest: an earlier item writes to the same path.
        """
        earlier = self._outputs.setdefault(identity(path), item.path)
        if earlier != item.path:
            raise InvalidRequest(f"output.path: {path} is also the result of {earlier}: use more of the path in it")


class _Walk:
    """One item on its way through the steps."""

    def __init__(self, item: Item, run: Run) -> None:
        self._item = item
        self._run = run
        self._steps: list[dict[str, Any]] = []
        self._step = ""
        self._started = time.monotonic()

    async def to_end(self, call_tool: CallTool | None) -> dict[str, Any]:
        """The item's manifest row. Errors of the item are in it; none are raised.

        Raises:
            _NeedsJob: a step needs a job and there is no ``call_tool``.
        """
        original: ImageRef | None = None
        image: ImageRef | None = None
        path, error, outcome = "", None, ""
        try:
            self._step = "output"
            path = output_path(self._run.recipe.output, self._item.context)
            self._run.claim_output(path, self._item)
            self._step = "input"
            original = image = await asyncio.to_thread(ImageRef.of, self._item.path)
            for step in self._run.recipe.steps:
                self._step = step.id
                image = await self._take(step, image, call_tool)
            self._step = "output"
            await self._write(image, path)
        except _NeedsJob:
            raise
        except Exception as problem:  # one bad item, whatever is wrong with it, never stops a run
            outcome, error = self._failure(problem)
        return {
            "item": self._item.stem,
            "index": self._item.index,
            "source": self._item.path,
            "outcome": outcome or self._success(),
            "error": error,
            "input": original.to_dict() if original else None,
            "output": image.to_dict() if image and not error else None,
            "output_path": path if not error else "",
            "cost": sum(s.get("cost") or 0.0 for s in self._steps if s["outcome"] == "done"),
            "seconds": round(time.monotonic() - self._started, 3),
            "preview": bool(image and image.is_preview),
            "steps": self._steps,
        }

    async def _write(self, image: ImageRef, path: str) -> None:
        try:
            await asyncio.to_thread(files.patiently, write_output, image, path)
        except OSError as error:
            if error.errno in _FULL:  # every further item would end the same way
                raise StoreUnavailable(f"{path} cannot be written: {error.strerror}") from error
            raise

    def _success(self) -> str:
        outcomes = {step["outcome"] for step in self._steps}
        if outcomes & {"done", "attached"}:
            return "done"
        return "cached" if "cached" in outcomes else "skipped"

    def _failure(self, problem: Exception) -> tuple[str, dict[str, str]]:
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
        message = str(problem) if isinstance(problem, (FluxError, OSError)) else f"{type(problem).__name__}: {problem}"
        return outcome, {"step": self._step, "kind": type(problem).__name__, "message": message}

    async def _take(self, step: Step, image: ImageRef, call_tool: CallTool | None) -> ImageRef:
        """``image`` after ``step``."""
        context = self._item.context
        if step.when and not templates.evaluate(step.when, await self._facts(step.when, image), f"{step.id}.when"):
            self._note(step, "skipped", reason=f"when: {step.when}")
            return image
        started = time.monotonic()
        arguments = step.arguments(context)
        call = first = await asyncio.to_thread(call_of, step, arguments, image)
        if self._run.seed is not None and "seed" in step.tool.parameters:
            arguments["seed"] = self._run.seed
            call = await asyncio.to_thread(call_of, step, arguments, image)
        found = await portal.arun(job.lookup(call, self._run.settings))
        if found is not None:
            await self._note_result(step, call, "cached", image, found.image, started)
            return found.image
        if await asyncio.to_thread(call.nothing_to_do):
            self._note(step, "nothing_to_do", reason="the mask is all black")
            return image
        if call_tool is None:
            raise _NeedsJob
        if self._run.stopped is not None:
            raise type(self._run.stopped)(f"not begun, because the run was stopped: {self._run.stopped}")
        self._run.tell(Event("begin", self._item.stem, step.id))
        try:
            result = await call_tool(step.task, {**arguments, **pictures_of(call), "image": image})
        except RunStopped as reason:
            self._run.stop(reason)
            raise
        finally:
            self._run.tell(Event("end", self._item.stem, step.id))
        if call is not first:
            await portal.arun(job.substitute(first, call, self._run.settings))
        outcome = "done" if job.was_submitted_here(result.job_id) else "attached"
        await self._note_result(step, call, outcome, image, result, started)
        return result

    async def _facts(self, expression: str, image: ImageRef) -> dict[str, Any]:
        """What a condition refers to, and no more than that."""
        facts = self._item.context
        width, height = image.upright_size
        values = (width, height, width / height, image.megapixels)
        facts |= dict(zip(IMAGE_FACTS, values, strict=True))
        for name in templates.names_in_expression(expression):
            column = name.removesuffix("_exists")
            if name not in facts and column in facts:
                location = str(facts[column] or "")
                facts[name] = bool(location) and await asyncio.to_thread(files.patiently, files.exists, location)
        return facts

    async def _note_result(
        self, step: Step, call: Call, outcome: str, before: ImageRef, after: ImageRef, started: float
    ) -> None:
        seen, words = Observed(), [*call.warnings, *job.history(after.job_id), *job.result_warnings(call, after)]
        if self._item.index < PICTURED_ITEMS:
            seen = await asyncio.to_thread(observe, self._run.store, call, before, after)
        if seen.unchanged:
            words.append("the result has the same pixels as its input")
        self._note(
            step,
            outcome,
            cost=call.estimate() if after.is_preview else after.cost,  # a preview is not paid for; this is its worth
            estimate=call.estimate(),
            job_id=after.job_id,
            seconds=round(time.monotonic() - started, 3),
            image=after.to_dict(),
            mask=seen.mask,
            drift=seen.drift,
            parameters=dict(call.parameters),
            warnings=words,
        )

    def _note(self, step: Step, outcome: str, **facts: Any) -> None:
        noted = {"id": step.id, "task": step.task, "tool": step.tool.name, "outcome": outcome}
        self._steps.append(noted | {name: value for name, value in facts.items() if value not in (None, "", [], ())})
        self._run.tell(Event("step", self._item.stem, step.id, outcome, facts.get("cost") or 0.0))
