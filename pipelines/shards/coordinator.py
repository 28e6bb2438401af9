"""The coordinator of a run in shards: it divides, starts, watches, resumes, and makes one run of it in the end.

The shards do all that one process would do, but for what needs all items: datasets and labels. What they have paid for
is in the store, so that the coordinator writes those from there. An item's row comes from the shard that has worked on
it, with what it has cost: reading results from the store a second time would tell of none that was paid.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import replace

from flux_tasks import errors, files
from flux_tasks.background import beside
from flux_tasks.errors import BudgetReached, Interrupted, OutOfCredits, RecipeError, RunStopped, StoreUnavailable
from flux_tasks.settings import without_secrets
from flux_tasks.store.commit import patiently
from flux_tasks.tasks import recording
from pipelines.flows.attempt import Division
from pipelines.run.context import Event, EventKind
from pipelines.run.run import Run
from pipelines.run.shard import Shard, ShardFolder
from pipelines.shards.engines.base import Engine
from pipelines.shards.merge import Gathering
from pipelines.shards.task import ShardTask

__all__ = ["finish_in_shards"]

_TRIES = 5
"""Attempts in a row that bring no item of a shard to its end, after which the run is stopped."""
_PAUSE = 1.0
"""Seconds before a shard is resumed, more each time."""
_LOOK = 0.3
"""Seconds between two looks whether the run was stopped."""
_SILENT = 90.0
"""Seconds without a sign of life after which a worker on another machine counts as lost."""


async def finish_in_shards(run: Run, *places: str, engine: Engine, count: int, on: str) -> None:
    """Work on all items of a run in shards, and add their rows to its manifest.

    Args:
        run: over all items; entered.
        places: files that will be written after the run; see ``Run.prepare_to_pay``.
        count: how many shards.
        on: what ``engine`` is called on the command line.

    Raises:
        RunStopped: nothing was begun, for this reason.
    """
    run.summary.shards, run.summary.shards_on = count, on
    await run.open()
    gathering = Gathering(run, count, is_elsewhere=engine.is_elsewhere)
    left = await gathering.answer_settled()
    coordinator = _Coordinator(run, engine, count, gathering)
    numbers = [number for number, items in enumerate(left, 1) if items]
    run.summary.shards_begun = len(numbers)
    if numbers and run.stopped is None:
        if run.settings.prefect == "auto" and not engine.is_elsewhere and not recording.is_server_configured():
            recording.tell_unrecorded()
        await run.prepare_to_pay(*places, has_key=bool(run.settings.key) or not engine.is_elsewhere)
        try:
            async with engine:
                await coordinator.work(numbers)
        except BaseException:  # such as a task that is cancelled: workers elsewhere begin nothing more
            await asyncio.to_thread(coordinator.end)
            raise
    try:
        await gathering.finish(coordinator.folders[number] for number in numbers)
    except OSError as error:
        raise StoreUnavailable.of("read", error) from error
    await run.close()
    await asyncio.to_thread(coordinator.end)


class _Coordinator:
    def __init__(self, run: Run, engine: Engine, count: int, gathering: Gathering) -> None:
        self._run, self._engine, self._gathering = run, engine, gathering
        self._store = run.context.store
        run_id = run.summary.run_id
        self.folders = {number: ShardFolder(self._store, run_id, number) for number in range(1, count + 1)}
        self._division = Division(self._store, run_id)
        recipe = run.recipe
        file = "" if engine.is_elsewhere and files.is_local(recipe.file) else recipe.file
        text = recipe.yaml or replace(recipe, on_end=()).to_yaml()  # of the whole run, and no text may run commands
        settings = run.settings if engine.has_secrets else without_secrets(run.settings)
        parts = (text, file, dict(recipe.variables), settings)
        ends = (recipe.no_code, engine.folder, engine.has_secrets)
        self._tasks = {number: ShardTask(*parts, Shard(number, count, run_id), *ends) for number in self.folders}
        self._warned: set[str] = set()
        self._spent: RunStopped | None = None

    async def work(self, numbers: list[int]) -> None:
        """Have all these shards worked on, until each has ended or the run is stopped."""
        run = self._run
        parts = (run.of_shards, self._gathering.listing, run.listed)
        await patiently(self._division.begin, run.recipe, run.settings, *parts)
        async with beside(self._watch()), asyncio.TaskGroup() as group:
            for number in numbers:
                group.create_task(self._bring_to_end(number))
        if self._spent is not None:
            self._run.stop(self._spent)

    def _show(self, active: Counter[tuple[str, str]], event: Event) -> None:
        """Show what happens in a shard, of which these jobs are active: item and step."""
        if event.kind is EventKind.WARNING:
            self._warn(event.text)
            return
        active[event.item, event.step] += {EventKind.ACTIVE: 1, EventKind.END: -1}.get(event.kind, 0)
        self._gathering.show(event)

    def _warn(self, text: str) -> None:
        """Say once what several shards may have to say."""
        if text not in self._warned:
            self._warned.add(text)
            self._run.warn(text)

    async def _watch(self) -> None:
        """Tell the shards when the run is to end."""
        while self._run.stopped is None:
            await asyncio.sleep(_LOOK)
        self._engine.stop(str(self._run.stopped))
        await patiently(self._division.stop, str(self._run.stopped))

    def end(self) -> None:
        """Remove what was there for the shards: their rows are in the manifest of the run."""
        self._division.end()

    async def _bring_to_end(self, number: int) -> None:
        folder, task = self.folders[number], self._tasks[number]
        fruitless, ended = 0, frozenset[int]()
        while self._run.stopped is None:
            await patiently(folder.forget_end)
            said = await self._attempt(task, folder)
            ending = await patiently(folder.ending)
            for warning in ending.get("warnings", ()) if not self._engine.tells_events else ():
                self._warn(str(warning))
            kind, problem = str(ending.get("kind", "")), str(ending.get("problem", ""))
            if ending and not kind:
                return
            if kind == BudgetReached.__name__:  # another shard may have jobs that fit
                self._spent = BudgetReached(problem)
                return
            if self._run.stopped is not None:
                return
            reason = problem or said or "its worker was lost"
            if kind == Interrupted.__name__:
                reason = f"its worker was asked to end: {problem}"
            before, ended = ended, await patiently(folder.ended)
            fruitless = fruitless + 1 if ended <= before else 0
            if fruitless >= _TRIES or self._is_final(kind):
                found = getattr(errors, kind, RunStopped)
                is_stop = isinstance(found, type) and issubclass(found, RunStopped)
                self._run.stop((found if is_stop else RunStopped)(f"shard {task.shard}: {reason}"))
                return
            self._warn(f"shard {task.shard} is begun again where it was left: {reason}")
            await asyncio.sleep(_PAUSE * (fruitless + 1))

    def _is_final(self, kind: str) -> bool:
        """Check whether what has stopped a shard would stop it on every other worker, too."""
        if kind in ("", Interrupted.__name__):
            return False
        return not self._engine.is_elsewhere or kind in (OutOfCredits.__name__, RecipeError.__name__)

    async def _attempt(self, task: ShardTask, folder: ShardFolder) -> str:
        """Have a worker work on a shard; one elsewhere that gives no sign of life any more is not waited for."""
        active: Counter[tuple[str, str]] = Counter()
        loop = asyncio.get_running_loop()

        def show(event: Event) -> None:
            loop.call_soon_threadsafe(self._show, active, event)

        working = asyncio.ensure_future(self._engine.run(task, show))
        life, since = "", time.monotonic()
        try:
            while not working.done():
                await asyncio.wait({working}, timeout=_LOOK if not self._engine.is_elsewhere else 10 * _LOOK)
                if not self._engine.is_elsewhere or working.done():
                    continue
                word = await asyncio.to_thread(folder.life)
                if word != life:
                    life, since = word, time.monotonic()
                elif life and time.monotonic() - since > _SILENT:
                    return f"its worker has given no sign of life for {_SILENT:g} s"
            return working.result()
        except Exception as error:  # of the engine: what has become of the shard is in the store
            return f"{type(error).__name__}: {error}"
        finally:
            working.cancel()
            for item, step in active.elements():  # of a worker that is lost
                self._gathering.show(Event(EventKind.END, item, step))
