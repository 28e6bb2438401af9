"""A recipe run as a Prefect flow: one task run for each paid call."""

from __future__ import annotations

import asyncio
import logging
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS

from flux_tasks import ImageRef, tasks, use
from flux_tasks.errors import FluxError, RunStopped
from flux_tasks.jobs.result import JobOutcome, JobResult
from flux_tasks.settings import current
from flux_tasks.tasks.prefect_task import collect_results
from pipelines.flows.prefect_settings import shield_server
from pipelines.language.compiled import HasCompiled
from pipelines.language.reading import loader
from pipelines.run.run import Run

_log = logging.getLogger("flux_tasks.flows")


async def call_task(task: str, arguments: dict[str, Any]) -> JobResult:
    """Return the result of one paid call, made as a Prefect task run: the ``CallTool`` of a run."""
    with collect_results() as results:
        image: ImageRef = await getattr(tasks, f"a{task}")(**arguments)
    if not results:  # Prefect has found the result in the store, and has not run the task
        return JobResult(image, "", JobOutcome.CACHED, image.cost, job_id=image.job_id)
    return replace(results[-1], image=image)


_current_run: ContextVar[Run | None] = ContextVar("run", default=None)


@flow(name="run-recipe", flow_run_name="{recipe}", validate_parameters=False)
async def _advance(recipe: str, endpoint: str) -> dict[str, int]:
    run = _current_run.get()
    assert run is not None, f"{recipe} on {endpoint} was started without its run"  # noqa: S101
    await run.run_remaining(call_task)
    return dict(run.summary.counts)


async def advance(run: Run) -> None:
    """Finish a run as a Prefect flow: one task run for each paid call, and none for anything else.

    The run itself is not a parameter of the flow, because Prefect stores those: they are the recipe's name and the
    endpoint, never a key.

    Raises:
        RunStopped: Prefect itself failed, for example because its server cannot be reached.
    """
    if not PREFECT_API_URL.value():
        shield_server()
        seconds = PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()
        _log.warning("waiting for Prefect's embedded server to start, %s s at most …", seconds)
    token = _current_run.set(run)
    try:
        with use(run.settings):
            await _advance(run.recipe.name, run.settings.endpoint)
    except FluxError:
        raise
    except Exception as error:
        what = f"Prefect failed: {type(error).__name__}: {error}"
        raise RunStopped(f"{what.rstrip('.')}. {_remedy()}") from error
    finally:
        _current_run.reset(token)


def _remedy() -> str:
    if address := PREFECT_API_URL.value():
        return f"Check that a Prefect server answers at {address} (PREFECT_API_URL), then run the recipe again"
    return (
        "If Prefect's embedded server did not start, give it more time with "
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS, or start a lasting one with `prefect server start` and set "
        "PREFECT_API_URL to its address; then run the recipe again"
    )


async def arun_recipe(recipe: str | Path | HasCompiled, **settings: Any) -> dict[str, Any]:
    """Run a recipe from Python; the async form of ``run_recipe``."""
    loaded = loader.load(recipe) if isinstance(recipe, (str, Path)) else recipe.compiled
    given = {name: settings.pop(name) for name in ("limit", "seed", "budget", "on_event") if name in settings}
    with use(**settings), Run(loaded, current(), **given) as run:
        if not await run.answer_from_store():
            await advance(run)
    if run.stopped is not None:
        raise run.stopped
    told = {name: getattr(run.summary, name) for name in ("jobs", "cost", "manifest", "run_id")}
    return {"counts": dict(run.summary.counts), **told}


def run_recipe(recipe: str | Path | HasCompiled, **settings: Any) -> dict[str, Any]:
    """Run a recipe from Python, also inside a flow of one's own::

        run_recipe("configs/restore.yaml", endpoint="local", store="out/store")

    In async code, await ``arun_recipe``.

    Args:
        recipe: a file, or a recipe already loaded.
        settings: of ``flux_tasks.use``: endpoint, store, max_jobs …; and of the run: ``limit`` (so many items),
            ``seed``, ``budget`` in credits, ``on_event``.

    Returns:
        ``counts`` by outcome, ``jobs`` paid, ``cost`` in credits, ``manifest`` and ``run_id``.

    Raises:
        RecipeError: the recipe is wrong.
        RunStopped: the key was refused, no credits, no server; jobs in flight were collected. Run it again to go on.
    """
    return asyncio.run(arun_recipe(recipe, **settings))
