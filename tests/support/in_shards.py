"""Runs in shards, which are threads of this process unless another engine is given; what two runs have alike."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from flux_tasks.settings import Settings
from pipelines.recipe import Recipe
from pipelines.run.context import Event
from pipelines.run.run import Run
from pipelines.shards.coordinator import finish_in_shards
from pipelines.shards.engines.base import Engine
from pipelines.shards.task import ShardTask, work_on

__all__ = ["Threads", "alike", "perform_in_shards"]


class Threads(Engine):
    """Works on shards by threads: quicker than processes, for tests that kill none.

    Attributes:
        begun: the numbers of the shards that were begun, in that order.
    """

    def __init__(self, begin: Callable[[ShardTask], None] = lambda _: None) -> None:
        self.begun: list[int] = []
        self._begin = begin

    async def run(self, task: ShardTask, on_event: Callable[[Event], None]) -> str:
        self.begun.append(task.shard.number)
        try:
            self._begin(task)
        except EOFError as error:  # the worker is lost
            return str(error)
        await asyncio.to_thread(work_on, task, on_event)
        return ""


def perform_in_shards(
    recipe: Recipe, settings: Settings, count: int, engine: Engine | None = None, **options: Any
) -> tuple[Run, list[dict[str, Any]]]:
    """A whole run in shards, and its rows in the order of the items; ``options`` are of ``Run``."""
    with Run(recipe.compiled, settings, **options) as run:
        asyncio.run(finish_in_shards(run, engine=engine or Threads(), count=count, on="threads"))
    return run, list(run.rows())


def alike(rows: Any, *places: str) -> Any:
    """The rows of a manifest without what is another one each time: timings, ids of jobs, and these places."""
    if isinstance(rows, dict):
        own = ("seconds", "job_id", "delivery_host")
        return {name: alike(value, *places) for name, value in rows.items() if name not in own}
    if isinstance(rows, list):
        return [alike(value, *places) for value in rows]
    for place in places:
        rows = rows.replace(place, "PLACE") if isinstance(rows, str) else rows
    return rows
