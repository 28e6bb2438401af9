"""A recipe run as a Prefect flow: one task run for each paid call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar, copy_context
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.exceptions import FailedRun
from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS
from prefect.states import Failed

from flux_tasks import ImageRef, tasks, use
from flux_tasks.errors import FluxError, ItemsFailed, Problem, RecipeError, RunStopped, shown
from flux_tasks.jobs.result import JobOutcome, JobResult
from flux_tasks.settings import current
from flux_tasks.tasks.prefect_task import collect_results
from pipelines.data.manifest import SEVERITY
from pipelines.flows.artifact import publish
from pipelines.flows.prefect_settings import shield_server
from pipelines.language.compiled import HasCompiled
from pipelines.language.reading import loader
from pipelines.plan.planner import PlanOptions
from pipelines.run.context import Event
from pipelines.run.run import Run


class RunOptions(PlanOptions, total=False):
    """The keyword arguments of a run: its own, and those of ``flux_tasks.use``."""

    seed: int | None
    verify: bool
    on_event: Callable[[Event], None]


_log = logging.getLogger("flux_tasks.flows")


class RunResult(TypedDict):
    """How a run went: items by outcome, jobs paid for by it, their cost in credits, its manifest and its id."""

    counts: dict[str, int]
    jobs: int
    cost: float
    manifest: str
    run_id: str


async def call_task(task: str, arguments: dict[str, Any]) -> JobResult:
    """Return the result of one paid call, made as a Prefect task run: the ``CallTool`` of a run."""
    with collect_results() as results:
        image: ImageRef = await getattr(tasks, f"a{task}")(**arguments)
    if not results:  # Prefect has found the result in the store, and has not run the task
        return JobResult(image, "", JobOutcome.CACHED, image.cost, job_id=image.job_id)
    return replace(results[-1], image=image)


_current_run: ContextVar[Run | None] = ContextVar("run", default=None)
_is_over: ContextVar[asyncio.Event] = ContextVar("is_over")

LAST_WORDS = 10.0
"""Seconds that Prefect has for the end of a flow run when all items are finished."""


@flow(name="run-recipe", flow_run_name="{recipe}", validate_parameters=False)
async def _advance(recipe: str, endpoint: str) -> dict[str, int] | State[Any]:
    run = _current_run.get()
    assert run is not None, f"{recipe} on {endpoint} was started without its run"  # noqa: S101
    await run.run_remaining(call_task)
    run.summary.stopped = str(run.stopped or "")
    _is_over.get().set()
    if PREFECT_API_URL.value():  # nobody looks at the pages of an embedded server
        await publish(run.summary)
    problem = run.summary.problem
    return Failed(message=f"{problem}. Manifest: {run.summary.manifest}") if problem else dict(run.summary.counts)


async def advance(run: Run) -> None:
    """Finish a run as a Prefect flow: one task run for each paid call, and none for anything else.

    The flow run ends as Failed when items did not end well or the run was stopped; its message says which.

    The run itself is not a parameter of the flow, because Prefect stores those: they are the recipe's name and the
    endpoint, never a key.

    Raises:
        RunStopped: Prefect itself failed, for example because its server cannot be reached.
    """
    if not PREFECT_API_URL.value():
        shield_server()
        seconds = PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()
        _log.warning("waiting for Prefect's embedded server to start, %s s at most …", seconds)
    token, over = _current_run.set(run), asyncio.Event()
    _is_over.set(over)
    try:
        with use(run.settings):
            await _with_last_words(asyncio.ensure_future(_advance(run.recipe.name, run.settings.endpoint)), over)
    except FluxError:
        raise
    except FailedRun:
        pass  # the flow run's state, for those who watch Prefect; the caller looks at the run
    except Exception as error:
        if over.is_set():  # what became of the items is known, whatever became of the flow run
            _mute(f"{type(error).__name__}: {error}")
            return
        what = f"Prefect failed: {type(error).__name__}: {error}"
        raise RunStopped(f"{what.rstrip('.')}. {_remedy()}") from error
    finally:
        _current_run.reset(token)


async def _with_last_words(flow_run: asyncio.Future[Any], over: asyncio.Event) -> None:
    """Wait for a flow run, but not for ever when its items are finished."""
    waiting = asyncio.ensure_future(over.wait())
    try:
        await asyncio.wait({flow_run, waiting}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({flow_run}, timeout=LAST_WORDS if over.is_set() else None)
    except asyncio.CancelledError:
        flow_run.cancel()
        await asyncio.wait({flow_run})
        raise
    finally:
        waiting.cancel()
    if not flow_run.done():
        _mute("no answer")
        flow_run.add_done_callback(lambda late: late.cancelled() or late.exception())  # told already
        flow_run.cancel()
        await asyncio.wait({flow_run}, timeout=LAST_WORDS)
    else:
        await flow_run


def _mute(reason: str) -> None:
    """Say once that Prefect's server is gone, and let Prefect's own loggers say nothing more."""
    line = next(iter(reason.splitlines()), "")[:200]
    _log.warning("Prefect's server did not take the end of the flow run (%s); the items are as told here", line)
    names = [name for name in logging.Logger.manager.loggerDict if name.partition(".")[0] == "prefect"]
    for name in ("prefect", *names):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def _remedy() -> str:
    if address := PREFECT_API_URL.value():
        return f"Check that a Prefect server answers at {address} (PREFECT_API_URL), then run the recipe again"
    return (
        "If Prefect's embedded server did not start, give it more time with "
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS, or start a lasting one with `prefect server start` and set "
        "PREFECT_API_URL to its address; then run the recipe again"
    )


async def arun_recipe(
    recipe: str | Path | HasCompiled, *, raise_on: bool | str | Iterable[str] = False, **settings: Unpack[RunOptions]
) -> RunResult:
    """Run a recipe from Python; the async form of ``run_recipe``."""
    outcomes = _outcomes(raise_on)
    loaded = loader.load(recipe) if isinstance(recipe, (str, Path)) else recipe.compiled
    changes: dict[str, Any] = {**settings}
    given = {name: changes.pop(name) for name in ("limit", "seed", "budget", "verify", "on_event") if name in changes}
    with use(**changes), Run(loaded, current(), **given) as run:
        if not await run.answer_from_store():
            await run.prepare_to_pay()
            await advance(run)
    if run.stopped is not None:
        raise run.stopped
    summary = run.summary
    result = RunResult(
        counts=dict(summary.counts),
        jobs=summary.jobs,
        cost=summary.cost,
        manifest=summary.manifest,
        run_id=summary.run_id,
    )
    if any(summary.counts[outcome] for outcome in outcomes):
        raise ItemsFailed(f"{summary.problem}. Manifest: {summary.manifest}", result)
    return result


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

    Each item that does not end well is logged as a warning of the logger ``pipelines.run``; with a Prefect server it is
    in the log of the flow run, which ends as Failed.

    Args:
        recipe: a file, or a recipe already loaded.
        raise_on: True raises ``ItemsFailed`` when any item did not end well; or the outcomes that count as failure:
            ``failed``, ``moderated``, ``invalid``, ``held``.
        settings: of ``flux_tasks.use``: endpoint, store, max_jobs …; and of the run: ``limit`` (so many items),
            ``seed``, ``budget`` in credits, ``verify`` (look also at items that are settled), ``on_event``.

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
