"""A recipe run from Python or by the command line, recorded in Prefect or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, Protocol, TypedDict, Unpack

from flux_tasks import use
from flux_tasks.errors import ItemsFailed, Problem, RecipeError, shown
from flux_tasks.settings import Settings
from flux_tasks.tasks import direct, recording
from pipelines.data.manifest import SEVERITY
from pipelines.language.compiled import CompiledRecipe, HasCompiled
from pipelines.language.places import in_places_of
from pipelines.language.reading import loader
from pipelines.plan.planner import PlanOptions
from pipelines.report.ending import Ending
from pipelines.run.context import Event, EventKind
from pipelines.run.run import Run
from pipelines.run.shard import Shard
from pipelines.run.summary import Summary

if TYPE_CHECKING:
    from flux_tasks.tasks.embedded import EmbeddedServer


class Finish(Protocol):
    """Finishes a run, as ``finish`` does."""

    async def __call__(self, run: Run, *places: str) -> None:
        """Do what the store cannot answer; see ``finish`` for ``places``."""


class RunOptions(PlanOptions, total=False):
    """The keyword arguments of a run: its own, and those of ``flux_tasks.use``.

    ``divide`` returns the part of the items that this process works on, or None, and what finishes the run.
    """

    seed: int | None
    on_event: Callable[[Event], None]
    divide: Callable[[CompiledRecipe, Settings], tuple[Shard | None, Finish]]


class RunResult(TypedDict):
    """How a run went: items by outcome, jobs paid for by it, their cost in credits, its manifest and its id.

    ``sample`` is there if it was over a sample: ``items`` of it and ``of`` how many, the ``credits`` that all are
    expected to cost, and ``low`` and ``high``, between which that lies probably; None from one item only.
    """

    counts: dict[str, int]
    jobs: int
    cost: float
    manifest: str
    run_id: str
    sample: NotRequired[dict[str, Any]]


async def finish(run: Run, *places: str) -> None:
    """Do what the store cannot answer: as a Prefect flow, or by itself where nothing records it.

    Prefect is not even imported where nothing is left to do, or nothing records it. An embedded server starts while
    the store is asked, and ends with the run.

    Args:
        places: files that will be written after the run; see ``Run.prepare_to_pay``.
    """
    async with _own_server(run) as server:
        if await run.answer_from_store():
            if run.stopped is None and _is_prefect_expected(run.settings):
                run.context.emit(Event(EventKind.WARNING, text="no flow run in Prefect: no job was left to make"))
            return
        await run.prepare_to_pay(*places)
        if server is not None:
            from pipelines.flows.recipe_flow import advance_on

            await advance_on(server, run)
        elif run.settings.prefect != "off" and (recording.is_in_flow() or recording.is_server_configured()):
            from pipelines.flows.recipe_flow import advance

            await advance(run)
        else:
            if run.settings.prefect == "auto":
                recording.tell_unrecorded()
            with use(run.settings):
                await run.run_remaining(direct.call_task)


def _is_prefect_expected(settings: Settings) -> bool:
    """Check whether somebody may look for the run in Prefect, without importing it."""
    return settings.prefect == "embedded" or (settings.prefect == "auto" and recording.may_be_configured())


@asynccontextmanager
async def _own_server(run: Run) -> AsyncIterator[EmbeddedServer | None]:
    """Start the embedded server that a run asks for, if any, and end it with the block."""
    if run.settings.prefect != "embedded" or recording.is_in_flow():
        yield None
        return
    from flux_tasks.tasks.embedded import EmbeddedServer

    server = EmbeddedServer()
    try:
        yield server
    finally:
        await asyncio.to_thread(server.stop)


async def arun_recipe(
    recipe: str | Path | HasCompiled, *, raise_on: bool | str | Iterable[str] = False, **settings: Unpack[RunOptions]
) -> RunResult:
    """Run a recipe from Python; the async form of ``run_recipe``."""
    outcomes = _outcomes(raise_on)
    async with Ending(str(recipe) if isinstance(recipe, (str, Path)) else recipe.compiled.name) as ending:
        summary = await _run(recipe, ending, settings)
    result = RunResult(
        counts=dict(summary.counts),
        jobs=summary.jobs,
        cost=summary.cost,
        manifest=summary.manifest,
        run_id=summary.run_id,
    )
    if summary.sample is not None:
        result["sample"] = summary.sample.to_dict()
    if any(summary.counts[outcome] for outcome in outcomes):
        raise ItemsFailed(f"{summary.problem}. Manifest: {summary.manifest}", result)
    return result


async def _run(recipe: str | Path | HasCompiled, ending: Ending, settings: RunOptions) -> Summary:
    """Run a recipe to its end, and let ``ending`` know recipe and run.

    Raises:
        RunStopped: it was stopped.
    """
    ending.recipe = loaded = loader.load(recipe) if isinstance(recipe, (str, Path)) else recipe.compiled
    changes: dict[str, Any] = {**settings}
    given = {
        name: changes.pop(name)
        for name in ("limit", "sample", "seed", "budget", "verify", "on_event")
        if name in changes
    }
    divide = changes.pop("divide", lambda *_: (None, finish))
    with use(**changes) as wanted, in_places_of(loaded, wanted) as chosen:
        part, finish_it = divide(loaded, wanted)
        ending.run = Run(loaded, chosen, shard=part, **given)
        with ending.run as run:
            await finish_it(run)
    if run.stopped is not None:
        raise run.stopped
    return run.summary


def _outcomes(raise_on: bool | str | Iterable[str]) -> set[str]:
    if isinstance(raise_on, bool):
        return set(SEVERITY) if raise_on else set()
    named: list[Any] = [raise_on] if isinstance(raise_on, str) or not isinstance(raise_on, Iterable) else list(raise_on)
    if unknown := [name for name in named if name not in SEVERITY]:
        hint = f"write True, or some of {', '.join(SEVERITY)}"
        raise RecipeError([Problem("raise_on", f"{shown(name)} is not an outcome: {hint}") for name in unknown])
    return set(named)


def run_recipe(
    recipe: str | Path | HasCompiled, *, raise_on: bool | str | Iterable[str] = False, **settings: Unpack[RunOptions]
) -> RunResult:
    """Run a recipe from Python, also inside a flow of one's own::

        run_recipe("configs/restore.yaml", endpoint="local", store="out/store")

    In async code, await ``arun_recipe``: this one blocks the event loop.

    Where a Prefect server is configured, or in a flow, it is a flow run with a task run for each paid call; else no
    server is started, and it is not recorded. Nor is a run that has no job left to make. ``prefect="embedded"`` or
    ``prefect="off"`` decides otherwise.

    Each item that does not end well is logged as a warning of the logger ``pipelines.run``; with a Prefect server it is
    in the log of the flow run, which ends as Failed.

    Args:
        recipe: a file, or a recipe already loaded.
        raise_on: True raises ``ItemsFailed`` when any item did not end well; or the outcomes that count as failure:
            ``failed``, ``moderated``, ``invalid``, ``held``.
        settings: of ``flux_tasks.use``: endpoint, store, max_jobs, prefect …; and of the run: ``limit`` (so many
            items), ``sample`` (so many that stand for all), ``seed``, ``budget`` in credits, ``verify`` (look also at
            items that are settled), ``on_event``. Shards are an option of ``Recipe.run``.

    Returns:
        ``counts`` by outcome, ``jobs`` paid, ``cost`` in credits, ``manifest`` and ``run_id``.

    Raises:
        RecipeError: the recipe or an argument is wrong.
        ItemsFailed: items ended as ``raise_on`` says; every item was worked on, and its ``result`` is what would have
            been returned.
        RunStopped: the key was refused, no credits, no server; jobs in flight were collected. Run it again to go on.
    """
    coroutine = arun_recipe(recipe, raise_on=raise_on, **settings)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    started: list[asyncio.Task[RunResult]] = []

    async def cancellable() -> RunResult:
        started.append(asyncio.ensure_future(coroutine))
        return await started[0]

    with ThreadPoolExecutor(1) as pool:  # a loop runs here, as in a notebook: one in a thread, within the same flow run
        running = pool.submit(copy_context().run, asyncio.run, cancellable())
        try:
            return running.result()
        except (KeyboardInterrupt, SystemExit):  # of this thread: the other one would go on and pay
            for task in started:
                with suppress(RuntimeError):  # its loop has ended
                    task.get_loop().call_soon_threadsafe(task.cancel)
            raise
