"""A run: items through the graph of a recipe, bounded in flight, each ending in a row of the manifest.

Items are streamed: what stays of each are a few dozen bytes, by which two results for one place are found.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

from flux_tasks import background, files
from flux_tasks.api.telemetry import probe
from flux_tasks.errors import FluxError, RunStopped, StoreUnavailable
from flux_tasks.jobs.endpoint import engine_of, open_account, require_exclusion, save_durations
from flux_tasks.settings import Settings
from flux_tasks.store.commit import reconcile
from flux_tasks.store.failures import forget_failures
from flux_tasks.units import escape_controls
from pipelines.data.annotations.writing import coco_file, write_annotations
from pipelines.data.duplicates.find import find_duplicates
from pipelines.data.formats.known_tars import KnownTars
from pipelines.data.history import BegunRun, LearnedPrices, new_run_id
from pipelines.data.items import Item, Listed
from pipelines.data.keyed_lines import program_version
from pipelines.data.manifest import Manifest, ManifestRow, read_manifest
from pipelines.data.settled import SettledItems
from pipelines.data.writers.columns.checks import DatasetChecks
from pipelines.execution.answers import NeedsJob
from pipelines.execution.precheck import budget_cap, check_items, items, source_warnings
from pipelines.execution.sampling import check_sample, choose_sample
from pipelines.language.compiled import CompiledRecipe
from pipelines.language.libraries import check_libraries
from pipelines.run.backlog import Backlog
from pipelines.run.context import CallTool, Event, EventKind, RunContext
from pipelines.run.datasets import Datasets
from pipelines.run.estimate import Estimate
from pipelines.run.item import ItemRun
from pipelines.run.row import jobs_text
from pipelines.run.shard import Shard, check_shard, left_to_others
from pipelines.run.state import StateRecord
from pipelines.run.summary import Summary

_log = logging.getLogger("pipelines.run")
_items_log = logging.getLogger("pipelines.run.items")

_PAUSE = 0.01
"""Seconds between two looks whether the jobs of new items have begun."""


class Run:
    """One execution of ``recipe``.

    Use it as a context manager: first ``answer_from_store``, then, if anything is left, ``run_remaining`` with the
    callable that makes a paid call; so what the store answers needs no Prefect. Leaving the block closes the manifest.

    Args:
        on_event: called with each event, for a progress display.
        manifest: where it is written; in the store where empty.
        limit: so many items at most.
        sample: so many items that stand for all; see ``execution/sampling.py``.
        only: which items.
        seed: instead of the seeds of the recipe.
        budget: credits, instead of the recipe's own cap.
        verify: look at every item, also at those that an earlier run has settled and whose files are as they were.
        shard: the part of the items that it works on. It writes no datasets and no labels, which need all of them.

    Attributes:
        of_shards: those of its options that hold for each of its shards, too.

    Raises:
        RecipeError: the source has no items, a template names a column that its table has not, results would be
            written over what the run reads, or the budget is not a number of credits.
    """

    def __init__(
        self,
        recipe: CompiledRecipe,
        settings: Settings,
        *,
        on_event: Callable[[Event], None] = lambda _: None,
        manifest: str = "",
        limit: int | None = None,
        sample: int | None = None,
        only: Callable[[Item], bool] | None = None,
        seed: int | None = None,
        budget: float | None = None,
        verify: bool = False,
        shard: Shard | None = None,
    ) -> None:
        check_sample(sample, limit)
        check_libraries(recipe)
        check_shard(shard, recipe)
        self.recipe = recipe
        self.settings = settings
        run_id = new_run_id()
        started = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        self.context = RunContext(recipe, settings, budget_cap(recipe, budget), seed, on_event, run_id, shard)
        self.folder = self.context.store.location("runs", run_id)
        self.summary = Summary(recipe.name, run_id, started, settings.endpoint)
        self.summary.shard = str(shard or "")
        self.summary.manifest = manifest or files.join(self.folder, "manifest.jsonl")
        self._begun = BegunRun(self.context.store, recipe.digest, run_id)
        self._state = StateRecord(self.context, self.summary)
        self._measuring = ExitStack()
        self._measured: Callable[..., None] = lambda *_, **__: None
        self._verify = verify
        self.of_shards = {"seed": seed, "budget": budget, "verify": verify}
        self._is_whole = limit is None and only is None and sample is None and shard is None
        self._manifest = Manifest(self.summary.manifest)
        self._started = time.monotonic()
        self.listed = Listed(shard.found if shard is not None else {})
        self.listed.tars = KnownTars(self.context.store, program_version(), writes=True, is_trusted=not verify)
        found = partial(items, recipe, limit=limit, listed=self.listed)
        noting: Any = {"store": self.context.store, "is_trusted": not verify}
        if shard is not None and shard.listing is not None:
            self.listed.duplicates, only = dict(shard.duplicates), shard.listing.has
        else:
            self.listed.duplicates = find_duplicates(recipe, found(only=only), run_id=new_run_id(), **noting)
        if sample is not None:
            measuring: Any = {"seed": recipe.source.seed, "facts": self.context.facts, "run_id": new_run_id()}
            chosen = choose_sample(found(), sample, **measuring, **noting)
            paid = [node.id for node in recipe.graph.nodes if node.is_paid]
            self.summary.sample = Estimate(chosen.total, chosen.looked_at, paid)
            only = chosen.has
            self._others = partial(found, only=lambda item: not chosen.has(item))
        self.items = partial(found, only=only)
        outputs = self.context.outputs
        checks = DatasetChecks(recipe)
        self.summary.total = check_items(
            recipe, limit=limit, only=only, listed=self.listed, outputs=outputs, datasets=checks
        )
        if shard is not None:  # what all items have in common was found out with all of them
            self.items = partial(shard.filtered, self.items)
            self.summary.total = sum(1 for _ in self.items())
        elif checks:
            self.context.datasets = Datasets(recipe, checks, self.warn, self.stop)
        self._left: Iterator[ItemRun | None] = iter(())
        self._next: ItemRun | None = None
        self._unsettled = 0

    @property
    def is_part(self) -> bool:
        """Whether another run has started it, keeps its record, and tells of its source."""
        return self.context.shard is not None and bool(self.context.shard.of)

    def __enter__(self) -> Run:
        probe.look()
        if not self.is_part:
            self._begin()
        self._manifest.__enter__()
        if probe.probe is not None:
            about = {"flux__run_id": self.summary.run_id, "flux__items": self.summary.total}
            self._measured = self._measuring.enter_context(probe.probe.part("run", self.recipe.name, **about))
        if not self.is_part:
            self._state.begin()
        return self

    def _begin(self) -> None:
        warnings = source_warnings(self.recipe, self.listed)
        facts = {"started": self.summary.started, "manifest": self.summary.manifest}
        try:
            self._begun.put_record(self.recipe, endpoint=self.settings.endpoint, **facts)
            killed = self._begun.begin(**facts, total=self.summary.total)
        except OSError as error:
            raise StoreUnavailable.of("written", error) from error
        for line in killed:
            self.warn(line)
        for warning in (*warnings, *left_to_others(self.context.shard, self.recipe)):
            self.context.emit(Event(EventKind.WARNING, text=str(warning)))

    def warn(self, text: str) -> None:
        """Tell people of something, here and in the log of a flow run."""
        _log.warning(escape_controls(text))
        self.context.emit(Event(EventKind.WARNING, text=text))

    def __exit__(self, *error: Any) -> None:
        broken = error[1]
        try:
            self._end(*error)
        except BaseException as problem:
            broken = problem
            raise
        finally:
            self._tell_end(str(broken) or type(broken).__name__ if broken else "")
        if not self.is_part:
            self._begun.end()

    def _tell_end(self, broken: str) -> None:
        """Write the last state, and end what is measured; ``broken`` is what broke off the run."""
        summary = self.summary
        if not self.is_part:
            self._state.end(problem=broken)
        outcome = "stopped" if broken else summary.end
        self._measured(outcome, summary.problem or broken, flux__jobs=summary.jobs, flux__credits=summary.cost)
        self._measuring.close()

    def note_report(self) -> None:
        """Let others see where the report is, or why there is none: it is written after the end."""
        self._state.note_report()

    def _end(self, *error: Any) -> None:
        background.run(save_durations(self.settings))
        self.context.prices.close()
        if self.context.datasets is not None:
            self.context.datasets.abandon()
        if self.context.settled is not None:
            self.context.settled.close()
        self._manifest.__exit__(*error)
        if self.context.shard is None:
            self._write_annotations()
        self.summary.seconds = time.monotonic() - self._started
        self.summary.stopped = str(self.stopped or "")

    def _write_annotations(self) -> None:
        """Write the labels of the results, those of a run that was stopped as well."""
        try:
            write_annotations(self.recipe, self.rows, self.context.store)
        except (FluxError, OSError) as error:
            what = f"the labels of the results cannot be written: {error}"
            self.stop(StoreUnavailable(f"{what}: mend that, and run the recipe again, which pays for nothing"))

    @property
    def stopped(self) -> RunStopped | None:
        """Why no new job is begun, or None."""
        return self.context.stopped

    def stop(self, reason: RunStopped) -> None:
        """Begin no new job; see ``RunContext.stop``."""
        self.context.stop(reason)

    def rows(self) -> Iterator[ManifestRow]:
        """Return the rows in the order of the items."""
        return read_manifest(self.summary.manifest, in_order=True)

    def failed_rows(self, most: int = 1_000) -> list[ManifestRow]:
        """Return the rows of items that did not end well, in the order of the items; the first ``most``."""
        if not self.summary.failed:
            return []
        rows = (row for row in read_manifest(self.summary.manifest) if row.get("error"))
        return heapq.nsmallest(most, rows, key=lambda row: int(row.get("index", 0)))

    async def answer_from_store(self) -> bool:
        """Go through the items until one needs a job; True if none did or the run was stopped: then it is over.

        Raises:
            EndpointUnreachable: the endpoint has to be asked which engine it is, and does not answer.
        """
        await self.open()
        self._left = self._in_order_of_work()
        for item in filter(None, self._left):
            self._next = item
            if self.stopped is not None:
                await self.run_remaining(refuse)
                return True
            try:
                await self._finish(item, None)
            except NeedsJob:
                return False
        self._next = None
        await self.close()
        return True

    async def open(self) -> None:
        """Ask the endpoint which engine it is, and read what the store knows of items, jobs and budgets.

        Raises:
            EndpointUnreachable: the endpoint does not answer.
        """
        self.summary.engine = self.context.engine = await background.arun(engine_of(self.settings))
        self.context.prices = LearnedPrices(self.context.store, self.context.engine)
        await asyncio.to_thread(partial(self.context.open_settled, is_trusted=not self._verify))
        if self.summary.sample is not None and self.context.settled:
            self.summary.sample.known = await asyncio.to_thread(self._count_known, self.context.settled)
        if self.context.datasets is not None and self.context.settled is not None:
            await asyncio.to_thread(self.context.datasets.open, self.context.settled.prints)
        self._unsettled = await background.arun(reconcile(self.settings))
        await background.arun(forget_failures(self.context.store))
        await self.context.budget.open(self.context.engine)

    def _count_known(self, settled: SettledItems) -> int:
        """Return how many items besides the sample an earlier run has settled."""
        return sum(settled.has_seen(item) for item in self._others() if not item.duplicate_of)

    def _in_order_of_work(self) -> Iterator[ItemRun | None]:
        """Return the items: first those that no run has settled, so that their jobs wait for none of the others.

        None stands for an item whose turn has not come yet: whoever has other work to do may do some. The source is
        read once: somebody may edit it while jobs are made.

        Raises:
            RecipeError: the source cannot be read any further; all that it has had were returned.
        """
        context, settled = self.context, self.context.settled
        count, broken = 0, None
        numbers = itertools.count()
        with Backlog() as backlog:
            try:
                for item in self.items():
                    count += 1
                    is_later = settled and settled.has_seen(item) and backlog.add(item)
                    is_new = bool(settled) and not item.duplicate_of
                    yield None if is_later else ItemRun(item, context, next(numbers), is_new=is_new)
            except FluxError as error:
                broken = error
            yield from (ItemRun(item, context, next(numbers)) for item in backlog)
        if broken is not None:
            raise broken
        if count != self.summary.total:
            what = f"the source was changed meanwhile: {self.summary.total} items were counted, {count} were read"
            self.warn(f"{what}; run the recipe again, which works on what is left")

    async def prepare_to_pay(self, *places: str, has_key: bool = True) -> None:
        """Find out before the first job what would keep its result from being written, or its call from being made.

        Args:
            places: files that will be written, besides the recipe's outputs and the manifest.
            has_key: False leaves the question whether the key is good to those who have it.

        Raises:
            RunStopped: one of them cannot be written, the store cannot keep several processes apart, the key is
                refused, no credits are left, no server answers.
        """
        outputs = [files.join(target.output.root, "result") for target in self.recipe.graph.targets]
        outputs += (coco_file(target.path) for output in self.recipe.outputs for target in output.annotations)
        for file in dict.fromkeys((*outputs, self.summary.manifest, *places)):
            reason = files.unwritable(file)
            try:
                await asyncio.to_thread(files.try_writing, file)
            except OSError as error:
                reason = reason or f"nothing can be written to {file.rpartition('/')[0]}: {error}"
            if reason:
                raise StoreUnavailable(f"no job was begun: {reason}")
        if self.context.datasets is not None:
            await asyncio.to_thread(self.context.datasets.read)
        await background.arun(require_exclusion(self.settings))
        if has_key:
            await background.arun(open_account(self.settings))

    async def run_remaining(self, call_tool: CallTool) -> None:
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
        await self.close()

    async def close(self) -> None:
        """Write what is left of datasets, and the end of the run in its budget."""
        if self.context.datasets is not None:
            is_complete = self.stopped is None
            await asyncio.to_thread(
                partial(self.context.datasets.close, is_complete=is_complete, without_row=self.summary.bad)
            )
        if self._unsettled:
            with suppress(StoreUnavailable):  # by now, what had no living owner is known to have none
                await background.arun(reconcile(self.settings))
        await self.context.budget.close(is_stopped=self.stopped is not None, is_whole=self._is_whole)

    def _queue(self, first: ItemRun) -> Iterator[ItemRun | None]:
        """Return what is left; a source that cannot be read any further stops the run, and what it has is finished."""
        yield first
        try:
            yield from self._left
        except FluxError as error:
            self.stop(RunStopped(f"the source cannot be read any further: {error}"))

    async def _work(self, queue: Iterator[ItemRun | None], call_tool: CallTool) -> None:
        for item in queue:
            if item is not None:
                while not item.is_new and self.context.beginning:
                    await asyncio.sleep(_PAUSE)
                await self._finish(item, call_tool)
            await asyncio.sleep(0)  # many that are settled may follow one another

    async def _finish(self, item: ItemRun, call_tool: CallTool | None) -> None:
        if probe.probe is None or call_tool is None:
            row = await item.run(call_tool)
        else:
            with probe.probe.part("item", item.item.stem, flux__index=item.item.index) as ended:
                row = await item.run(call_tool)
                ended(str(row["outcome"]), row["error"]["message"] if row["error"] is not None else "")
        if probe.probe is not None:
            probe.probe.item_ended(str(row["outcome"]))
        self.add(row)
        self.context.emit(Event(EventKind.ITEM, row["item"], outcome=row["outcome"], row=row))

    def add(self, row: ManifestRow) -> None:
        """Add the row of an item that has ended to summary, manifest and log."""
        self.summary.add(row)
        try:
            self._manifest.add(row)
        except OSError as error:
            self.stop(RunStopped(f"the manifest cannot be written: {error}"))
        jobs = jobs_text(row)
        if row["error"] is not None:
            message = "; ".join(row["error"]["message"].splitlines())
            _log.warning(escape_controls(f"{row['item']}: {row['outcome']}: {row['error']['step']}: {message}{jobs}"))
        elif jobs:
            _items_log.info(escape_controls(f"{row['item']}: {row['outcome']}{jobs}"))


async def refuse(task: str, arguments: dict[str, Any]) -> Any:
    """Stand in for the call of a task where none can be begun any more.

    Raises:
        AssertionError: one was.
    """
    raise AssertionError(f"{task} was begun after the run was stopped")
