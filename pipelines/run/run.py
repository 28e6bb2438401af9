"""A run: items through the graph of a recipe, bounded in flight, each ending in a row of the manifest.

It knows nothing of where it runs: ``advance`` is handed the callable that makes a paid call. What the store already
answers never gets that far, so a run that has nothing left to do needs neither Prefect nor a server.

Items are streamed: what is held of each is a few dozen bytes, by which two results for one place are found.
"""

from __future__ import annotations

import asyncio
import heapq
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from flux_tasks import background, files
from flux_tasks.errors import FluxError, InvalidRequest, Problem, RecipeError, RunStopped, StoreUnavailable
from flux_tasks.jobs import job
from flux_tasks.jobs.call import Call
from flux_tasks.settings import Settings
from flux_tasks.store.commit import patiently
from flux_tasks.store.journal import Journal
from flux_tasks.store.records import Store
from pipelines.data.history import JobDurations
from pipelines.data.items import Item
from pipelines.data.manifest import Manifest, read_manifest
from pipelines.data.outputs import Outputs
from pipelines.execution.facts import Facts
from pipelines.execution.precheck import check_items, items
from pipelines.language.compiled import CompiledRecipe
from pipelines.run.budget import RunBudget
from pipelines.run.item import CallTool, Event, ItemRun, NeedsJob
from pipelines.run.summary import Summary

__all__ = ["CallTool", "Event", "Run"]


class _Equal:
    """Equal calls that are under way; it is gone when all of them have ended."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.problem: FluxError | None = None


class Run:
    """One execution of ``recipe``.

    Use it as a context manager: first ``settle`` what the store can answer, then, if anything is left, ``advance``
    with the callable that makes jobs. Leaving the block closes the manifest.

    Raises:
        RecipeError: the source has no items, a template names a column that its table has not, or results would be
            written over what the run reads.
    """

    def __init__(
        self,
        recipe: CompiledRecipe,
        settings: Settings,
        *,
        on_event: Callable[[Event], None] = lambda _: None,
        manifest: str = "",
        limit: int | None = None,
        only: Callable[[Item], bool] | None = None,
        seed: int | None = None,
        budget: float | None = None,
    ) -> None:
        self.recipe = recipe
        self.seed = seed
        self.made: set[str] = set()
        """Digests of what was made here for an item that had to be gone through again."""
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
        cap = budget if budget is not None else recipe.budget.credits if recipe.budget else None
        if cap is not None and not 0 <= cap < float("inf"):
            raise RecipeError([Problem("budget", f"{cap!r} is not a number of credits (1 credit is 0.01 USD)")])
        self._is_whole = limit is None and only is None
        self.purse = RunBudget(cap, self.store, recipe.digest, warn=lambda text: self.tell(Event("warning", "", text)))
        self.facts = Facts(self.store)
        self._manifest = Manifest(self.summary.manifest)
        self.durations = JobDurations(self.store)
        self._started = time.monotonic()
        self._stop: RunStopped | None = None
        self._outputs = Outputs()
        self._equal: WeakValueDictionary[str, _Equal] = WeakValueDictionary()
        self.summary.total = check_items(recipe, limit=limit, only=only)
        self._left: Iterator[Item] = items(recipe, limit=limit, only=only)
        self._next: Item | None = None

    def __enter__(self) -> Run:
        record = {
            "recipe": self.recipe.text,
            "variables": self.recipe.variables,
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
        self.durations.close()
        self._manifest.__exit__(*error)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows written, in the order of the items; beyond 10,000 of them in the order in which they ended."""
        if self.summary.items > 10_000:
            return read_manifest(self.summary.manifest)
        return iter(sorted(read_manifest(self.summary.manifest), key=lambda row: int(row.get("index", 0))))

    def failed_rows(self, most: int = 1_000) -> list[dict[str, Any]]:
        """Rows of items that did not end well, in the order of the items; the first ``most``."""
        rows = (row for row in read_manifest(self.summary.manifest) if row.get("error"))
        return heapq.nsmallest(most, rows, key=lambda row: int(row.get("index", 0)))

    async def settle(self) -> bool:
        """Go through the items until one needs a job; True if none did and the run is complete.

        Raises:
            EndpointUnreachable: the endpoint has to be asked which engine it is, and does not answer.
        """
        self.summary.engine = await background.arun(job.engine_of(self.settings))
        await background.arun(job.tidy(self.settings))
        await background.arun(job.stop_submitting(self.settings, None))
        await self.purse.open()
        for item in self._left:
            if self._stop is not None:
                self._next = item
                return False
            try:
                await self._finish(item, None)
            except NeedsJob:
                self._next = item
                return False
        await self.purse.close(is_complete=self._stop is None and self._is_whole)
        return True

    async def advance(self, call_tool: CallTool) -> None:
        """Finish every item that is left, with several in work at a time and paid calls through ``call_tool``.

        When the key is refused, credits run out, or somebody wants the run to end, no new job is begun; those in
        flight are collected.
        """
        if self._next is None:
            return
        queue = self._queue(self._next)
        # Enough open items that a slot never waits for one: the next job starts before the last one's bookkeeping.
        workers = min(self.summary.total, 3 * self.settings.max_jobs)
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._work(queue, call_tool))
        self._next = None
        await self.purse.close(is_complete=self._stop is None and self._is_whole)

    def _queue(self, first: Item) -> Iterator[Item]:
        """What is left; a source that cannot be read any further stops the run, and what it has is finished."""
        yield first
        try:
            yield from self._left
        except FluxError as error:
            self.stop(RunStopped(f"the source cannot be read any further: {error}"))

    async def _work(self, queue: Iterator[Item], call_tool: CallTool) -> None:
        for item in queue:
            await self._finish(item, call_tool)

    async def _finish(self, item: Item, call_tool: CallTool | None) -> None:
        row = await ItemRun(item, self).to_end(call_tool)
        self.summary.add(row)
        try:
            self._manifest.add(row)
        except OSError as error:
            self.stop(RunStopped(f"the manifest cannot be written: {error}"))
        self.tell(Event("item", item.stem, outcome=row["outcome"]))

    # What a walk needs of its run.

    def stop(self, reason: RunStopped) -> None:
        """Begin no new job: items that are left are held, jobs that wait for a slot are not submitted.

        May be called from any thread.
        """
        if self._stop is None:
            self._stop = reason
            self.summary.stopped = str(reason)
            background.start(job.stop_submitting(self.settings, reason))

    @property
    def stopped(self) -> RunStopped | None:
        """Why no new job is begun, or None."""
        return self._stop

    def tell(self, event: Event) -> None:
        """Pass something on to the progress display."""
        self._on_event(event)

    @asynccontextmanager
    async def equal_calls(self, key: str) -> AsyncIterator[None]:
        """Let one of several equal calls go on at a time: the others find its result in the store, or fail as it did.

        So a job that several steps or items share is paid for, counted and taken out of the budget once.
        """
        equal = self._equal.setdefault(key, _Equal())
        async with equal.lock:
            if equal.problem is not None:
                raise equal.problem
            try:
                yield
            except FluxError as problem:
                equal.problem = problem
                raise

    async def is_paid(self, call: Call) -> bool:
        """Whether an earlier run has submitted the job of ``call``, or may have; asked only where there is a budget.

        Raises:
            StoreUnavailable: the journal cannot be read.
        """
        if self.purse.cap is None:
            return False
        entry = await patiently(Journal(self.store).entry, call.key(self.summary.engine))
        is_held = self.settings.on_uncertain == "hold" and entry is not None and entry.decision != "resubmit"
        return entry is not None and (entry.phase == "submitted" or is_held)

    def claim_output(self, path: str, item: Item, number: int) -> None:
        """Reserve an output path for the ``number``-th result of an item.

        Raises:
            InvalidRequest: another item, or another output of this one, writes to the same path.
        """
        if not self._outputs.claim(path, item.index, number):
            raise InvalidRequest(f"output.path: {path} is also another result's: use more of the item's names in it")
