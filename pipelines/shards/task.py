"""A shard as a task: what a worker gets to know, and what it does."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flux_tasks.api.telemetry.exporters import exporting
from flux_tasks.errors import FluxError, Interrupted
from flux_tasks.settings import Settings, with_own_secrets
from flux_tasks.store.records import Store
from pipelines.flows.attempt import Attempt
from pipelines.flows.recipe_run import finish
from pipelines.language.places import in_places_of
from pipelines.language.reading import loader
from pipelines.run.context import Event
from pipelines.run.run import Run
from pipelines.run.shard import Shard

__all__ = ["ShardTask", "work_on"]


@dataclass(frozen=True)
class ShardTask:
    """What a worker has to know of a shard: values that can be pickled.

    Attributes:
        recipe: its text, read from ``file``.
        settings: without key and accounts, which are in the worker's environment, unless it ``has_secrets``.
        shard: of the whole run; what else there is to know of that is in its store.
        no_code: why the recipe may call no function of Python; empty if it may.
        folder: where relative paths start; empty for the worker's current folder.
    """

    recipe: str
    file: str
    variables: Mapping[str, Any]
    settings: Settings
    shard: Shard
    no_code: str = ""
    folder: str = ""
    has_secrets: bool = False


def work_on(
    task: ShardTask,
    on_event: Callable[[Event], None] = lambda _: None,
    begun: Callable[[Run], None] = lambda _: None,
) -> None:
    """Work on a shard as a run of its own, and note in the store how it has ended. Blocks until then.

    Args:
        begun: called with the run, which it may stop.
    """
    attempt = Attempt(Store(task.settings.store), task.shard)
    problem: FluxError | None = None
    with exporting(has_port=False):
        try:
            recipe = loader.parse(task.recipe, file=task.file, variables=task.variables, no_code=task.no_code)
            settings = task.settings if task.has_secrets else with_own_secrets(task.settings)
            if any(step.is_paid for step in recipe.steps):
                settings.require_key()
            with in_places_of(recipe, settings) as chosen:
                run = attempt.run(recipe, chosen, on_event)
                begun(run)
                if (
                    threading.current_thread() is threading.main_thread()
                ):  # a drained machine: what is paid is collected
                    signal.signal(signal.SIGTERM, lambda *_: run.stop(Interrupted("interrupted (SIGTERM)")))
                with run:
                    asyncio.run(_finish(run, attempt))
            problem = run.stopped
        except FluxError as error:
            problem = error
        attempt.end(problem)  # before a collector that hangs delays it


async def _finish(run: Run, attempt: Attempt) -> None:
    async with attempt.following(run):
        await finish(run)
