"""One manifest of many: the rows of the shards, in the order of the items, and the rows that no shard could write."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from flux_tasks import files
from flux_tasks.errors import FluxError, RunStopped, StoreUnavailable
from pipelines.data.items import Item
from pipelines.data.manifest import FINE, ManifestRow, StepOutcome, paid_steps
from pipelines.execution.answers import NeedsJob
from pipelines.run.context import Event, EventKind
from pipelines.run.item import ItemRun
from pipelines.run.row import outcome_of_steps
from pipelines.run.run import Run, refuse
from pipelines.run.shard import Listing, ShardFolder, shard_of

__all__ = ["Gathering"]

_WORKERS = 8
"""Items whose rows of datasets are made at a time."""


class Gathering:
    """The rows of a run whose items are worked on in shards.

    Args:
        run: over all items, and open.
        count: how many shards there are.
        is_elsewhere: they are worked on by other machines, whose disks may be others.

    Attributes:
        listing: its items, as ``answer_settled`` has found them: these are worked on, whatever the source has later.
    """

    def __init__(self, run: Run, count: int, *, is_elsewhere: bool = False) -> None:
        self._run, self._count, self._is_elsewhere = run, count, is_elsewhere
        self.listing = Listing()
        self._left = 0
        self._numbers = itertools.count()
        self._answered: set[int] = set()
        self._shown: set[int] = set()
        self._steps = {node.id: node.step.id for node in run.recipe.graph.nodes}

    def show(self, event: Event) -> None:
        """Show what happens in a shard; what an item has come to is shown once."""
        if event.row is not None:
            if event.row["index"] in self._shown:
                return
            self._shown.add(event.row["index"])
        self._run.context.emit(event)

    async def answer_settled(self) -> list[int]:
        """Add the items that earlier runs have settled; return how many items each shard has besides."""
        run, left = self._run, [0] * self._count
        settled = run.context.settled
        for item in run.items():
            self.listing.add(item)
            self._left += 1
            is_known = bool(settled) and settled is not None and settled.has_seen(item)
            row = await ItemRun(item, run.context, 0).find_settled() if is_known else None
            if row is None:
                left[shard_of(item.source, self._count) - 1] += 1
                continue
            self._end_without_rows()
            self._answered.add(item.index)
            self._add(row)
        return left

    def _end_without_rows(self) -> None:
        number = next(self._numbers)
        if self._run.context.datasets is not None:
            self._run.context.datasets.end(number, [])

    async def finish(self, folders: Iterable[ShardFolder]) -> None:
        """Add the rows that the shards have written, and write the datasets that these are for.

        An item without a row is held, for the reason that has stopped the run; if it is in the source no more, that
        stops the run.

        Raises:
            OSError: the store cannot be read.
        """
        rows = _paid_once(heapq.merge(*(folder.rows() for folder in folders), key=lambda row: row["index"]))
        pairs = self._pairs(rows)
        async with asyncio.TaskGroup() as group:
            for _ in range(_WORKERS):
                group.create_task(self._work(pairs))
        if self._left:
            self._stop_as_changed(f"{self._left} of the items that the run began with are not in their place any more")

    def _pairs(self, rows: Iterator[ManifestRow]) -> Iterator[tuple[Item | None, ManifestRow | None]]:
        """Return the items that are not answered yet with their rows; a row whose item is gone comes without one."""
        row = next(rows, None)
        for item in self._items():
            while row is not None and row["index"] < item.index:
                yield None, row
                row = next(rows, None)
            own = row if row is not None and row["index"] == item.index else None
            row = next(rows, None) if own is not None else row
            if own is not None and own["source"] != item.source:
                yield None, own
                own = None
            if item.index not in self._answered and self.listing.has(item):
                yield item, own
        while row is not None:
            yield None, row
            row = next(rows, None)

    def _items(self) -> Iterator[Item]:
        try:
            yield from self._run.items()
        except FluxError as error:
            self._run.stop(RunStopped(f"the source cannot be read any further: {error}"))

    def _stop_as_changed(self, what: str) -> None:
        if self._run.stopped is None:
            again = "run the recipe again, which works on what is left"
            self._run.stop(RunStopped(f"the source was changed meanwhile: {what}; {again}"))

    async def _work(self, pairs: Iterator[tuple[Item | None, ManifestRow | None]]) -> None:
        for item, row in pairs:
            if row is not None and row["index"] in self._answered:
                continue
            if row is not None:
                self._show_steps(row)
            if item is None:
                assert row is not None  # noqa: S101 - a pair has one of the two
            elif row is None:
                row = await self._held(item)
            elif row["outcome"] in FINE and "duplicate_of" not in row and await self._has_to_be_written(row):
                row = await self._with_outputs(item, row)
            else:
                self._end_without_rows()
            self._add(row)
            await asyncio.sleep(0)

    def _show_steps(self, row: ManifestRow) -> None:
        """Show the steps of an item whose worker has told nobody of them."""
        for step in row["steps"] if row["index"] not in self._shown else ():
            cost = step.get("cost") or 0.0
            self.show(Event(EventKind.STEP, row["item"], self._steps.get(step["id"], ""), step["outcome"], cost))

    async def _held(self, item: Item) -> ManifestRow:
        """Return the row of an item that no shard has brought to an end."""
        self._stop_as_changed(f"no shard has worked on {item.source}, and maybe on others")
        return await ItemRun(item, self._run.context, next(self._numbers)).run(refuse)

    async def _has_to_be_written(self, row: ManifestRow) -> bool:
        """Check whether an item has results that no shard writes, or that are not here."""
        if self._run.context.datasets is not None:
            return True
        places = [output["path"] for output in row["outputs"] if files.is_local(output["path"])]
        if not self._is_elsewhere or not places:
            return False
        return not await asyncio.to_thread(lambda: all(map(files.exists, places)))

    async def _with_outputs(self, item: Item, row: ManifestRow) -> ManifestRow:
        """Return the row of an item whose results are written here, from what the store has."""
        number = next(self._numbers)
        try:
            made = await ItemRun(item, self._run.context, number).run(None)
        except NeedsJob:
            what = f"the store does not have what the results of {item.source} are made of"
            self._run.stop(StoreUnavailable(f"{what}, so that they cannot be written here: run the recipe again"))
            if self._run.context.datasets is not None:
                self._run.context.datasets.end(number, [])
            return row
        own: dict[str, Any] = {name: row[name] for name in ("steps", "cost", "seconds")}
        return {**made, **own, "outcome": made["outcome"] if made["error"] else row["outcome"]}  # type: ignore[typeddict-item]

    def _add(self, row: ManifestRow) -> None:
        self._left -= 1
        self._run.add(row)
        self.show(Event(EventKind.ITEM, row["item"], outcome=row["outcome"], row=row))


def _paid_once(rows: Iterable[ManifestRow]) -> Iterator[ManifestRow]:
    """Return rows in which each job is paid for by one item only: by the first of those that it answers."""
    paid: set[str] = set()
    for row in rows:
        is_changed = False
        for outcome in (StepOutcome.DONE, StepOutcome.COLLECTED):
            for step in paid_steps(row, outcome):
                job = step.get("job_id")
                if job and job in paid:
                    step["outcome"], is_changed = StepOutcome.CACHED, True
                elif job and outcome is StepOutcome.DONE:
                    paid.add(job)
        if is_changed:
            row["cost"] = sum(step.get("cost") or 0.0 for step in paid_steps(row, StepOutcome.DONE))
            with suppress(KeyError):
                if row["error"] is None:
                    row["outcome"] = outcome_of_steps({step["outcome"] for step in row["steps"]})
        yield row
