"""The flow of a recipe that any process can start by its name: what deployments run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeAlias

from prefect import flow, get_client
from prefect.blocks.system import Secret
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.states import Failed
from pydantic import Field

from flux_tasks.api.telemetry.exporters import exporting
from flux_tasks.errors import DatasetBusy, FluxError, KeyRefused, Problem, RecipeError, quote
from flux_tasks.settings import Settings, from_environment, use
from flux_tasks.store.records import Store
from flux_tasks.units import escape_controls
from pipelines.flows.attempt import Attempt
from pipelines.flows.publishing import end_of, line_of, published
from pipelines.flows.recipe_flow import NAME, call_task
from pipelines.flows.stopping import end_with_parent, shorten_tracebacks
from pipelines.language.compiled import CompiledRecipe
from pipelines.language.places import in_places_of
from pipelines.language.reading import loader
from pipelines.report.ending import Ending
from pipelines.report.of_run import write_run_report
from pipelines.run.run import Run
from pipelines.run.shard import MOST_SHARDS, Shard

KEY_BLOCK = "bfl-api-key"
"""The Prefect ``Secret`` block that has the key where the worker's environment has none."""

_Name = Annotated[Literal["bfl", "eu", "us", "local"], Field(title="name")]
_Address = Annotated[str, Field(title="address")]

_log = logging.getLogger("flux_tasks.flows")

Work: TypeAlias = Callable[[Run], Coroutine[Any, Any, None]]
"""Works on the items of a run, which is entered."""


@dataclass(frozen=True)
class Shards:
    """How the items of a run are to be divided.

    Attributes:
        count: into so many shards; None if that is not said.
        on: where they run; empty for processes of this machine.
        part: the part that this run is to work on itself; empty for all.
        key_block: the ``Secret`` block that has the key for workers elsewhere; empty for theirs.
    """

    count: int | None
    on: str
    part: str
    key_block: str


Divide: TypeAlias = Callable[[CompiledRecipe, Settings, Shards], Work]
"""Returns what works on a run in shards."""

_dividers: list[Divide] = []


def divide_by(divide: Divide) -> None:
    """Let runs be divided; ``pipelines.shards.deployed`` calls it, as that package is a layer above this one."""
    _dividers[:] = [divide]


@flow(name=NAME)
async def deployed_recipe(
    recipe: str,
    variables: dict[str, Any] = {},  # noqa: B006 - never changed; Prefect shows it as the default
    limit: Annotated[int, Field(ge=1)] | None = None,
    budget: Annotated[float, Field(ge=0)] | None = None,
    endpoint: _Name | _Address | None = None,
    store: str | None = None,
    key_block: str | None = None,
    shards: Annotated[int, Field(ge=1, le=MOST_SHARDS)] | None = None,
    on: str | None = None,
    shard: Annotated[str, Field(pattern=r"^\d{1,4}/\d{1,4}$")] | None = None,
    part_of: str | None = None,
) -> dict[str, int] | State[Any]:
    """Run a recipe over its images. What is in the store already is taken from there, and costs nothing.

    The flow run ends as Failed when items did not end well or the run was stopped; its message says which. No parameter
    has the key: that is in the worker's environment (``BFL_API_KEY``), or in a Prefect ``Secret`` block.

    Args:
        recipe: The recipe: its YAML text, or the path or URL of its file.
        variables: Values for the recipe's own variables (vars), in place of those in its text.
        limit: Take the first so many items only.
        budget: The most to spend in credits (1 credit is 0.01 USD), in place of the recipe's own budget.
        endpoint: Who makes the jobs: bfl, eu, us, local, or the address of a server that speaks the API. If left out,
            FLUX_ENDPOINT of the worker, else bfl.
        store: Where results are stored: a folder, or an fsspec URL such as s3://bucket/store. If left out, FLUX_STORE
            of the worker.
        key_block: The name of the Prefect Secret block with the key. If left out, BFL_API_KEY of the worker, else the
            block bfl-api-key.
        shards: Work on the items in so many parts at a time, each in a process of its own. If left out, in one process.
        on: Where these parts run: processes (of this worker's machine, if left out), prefect:POOL (flow runs on the
            workers of a work pool), dask, dask:ADDRESS, ray or ray:ADDRESS.
        shard: Work on one part of the items only: its number from 1 and how many there are, such as 2/4. Datasets and
            labels need all items: a run without this writes them when all parts have ended.
        part_of: Set by flux-pipelines run --on prefect: the id of the run that has divided itself.
    """
    is_served = end_with_parent()
    shorten_tracebacks()
    name = NAME

    def tell(line: str) -> None:
        if is_served:  # who watches the terminal of ``serve``, which passes it on, sees no log of the server
            print(escape_controls(line), flush=True)

    try:
        async with AsyncExitStack() as stack:
            # Of a run that has divided itself, people are told by the process that has done that.
            ending = None if part_of else await stack.enter_async_context(Ending(NAME))
            loaded = await asyncio.to_thread(read_recipe, recipe, variables)
            name = loaded.name
            part = Shard.parse(shard, part_of or "") if shard else None
            await _call_flow_run(f"{loaded.name} {part}" if part else loaded.name)
            if ending is not None:
                ending.recipe = loaded
            settings = await settings_with_key(endpoint or "", store or "", key_block or "")
            settings.require_key()
            with in_places_of(loaded, settings) as chosen, exporting():
                if ending is None and part is not None:
                    run = await _work_on(Attempt(Store(chosen.store), part), loaded, chosen)
                else:
                    options: dict[str, Any] = {"limit": limit, "budget": budget}
                    work: Work = _in_one_process
                    if shards is not None or on:
                        divided = Shards(shards, on or "", shard or "", key_block or "")
                        work = await asyncio.to_thread(_in_shards, loaded, chosen, divided)
                    run = Run(loaded, chosen, shard=part, **options)
                    if ending is not None:
                        ending.run = run
                    await _finish(run, work)
    except DatasetBusy as error:
        tell(f"{name}: busy: {error}")
        return Failed(name="Busy", message=str(error))
    except FluxError as error:  # it says what to do: a traceback would say nothing more
        tell(f"{name}: stopped: {error}")
        return Failed(message=str(error))
    except BaseException as error:
        tell(f"{name}: broken off ({type(error).__name__}): the next run collects what was submitted")
        raise
    tell(line_of(run.summary))
    return end_of(run.summary)


async def _work_on(attempt: Attempt, recipe: CompiledRecipe, settings: Settings) -> Run:
    """Work on a shard of a run that has divided itself, and note how that ends.

    Raises:
        RunStopped: no job was begun.
    """
    try:
        with use(await asyncio.to_thread(attempt.settings, settings)) as chosen:
            run = await asyncio.to_thread(attempt.run, recipe, chosen)
            async with attempt.following(run):
                await _finish(run)
    except FluxError as error:
        await asyncio.to_thread(attempt.end, error)
        raise
    await asyncio.to_thread(attempt.end, run.stopped)
    return run


def _in_shards(recipe: CompiledRecipe, settings: Settings, shards: Shards) -> Work:
    """Return what works on a run in shards.

    Raises:
        RecipeError: it cannot be divided so.
    """
    if not _dividers:
        what = "needs the entrypoint pipelines.shards.deployed.deployed_recipe: deploy the recipe again"
        raise RecipeError([Problem("shards", what)])
    return _dividers[0](recipe, settings, shards)


async def _in_one_process(run: Run) -> None:
    if not await run.answer_from_store():
        await run.prepare_to_pay()
        await run.run_remaining(call_task)


async def _finish(run: Run, work: Work = _in_one_process) -> None:
    """Work on every item, and write the report; that of a shard is written by the run that it is part of.

    Raises:
        RunStopped: no job was begun, because something that all of them need is not there.
    """
    run.summary.report = "" if run.is_part else f"{run.folder}/report.html"
    async with published(run):
        with run:
            await work(run)
        if run.summary.report and (problem := await asyncio.to_thread(write_run_report, run)):
            _log.warning("%s", problem)


def read_recipe(recipe: str, variables: Mapping[str, Any]) -> CompiledRecipe:
    """Return a recipe that is given by its text, or by the location of its file.

    Raises:
        RecipeError: with every problem, its line and what to write instead.
    """
    is_text = "\n" in recipe.strip() or recipe.lstrip().startswith("{")
    return loader.parse(recipe, variables=variables) if is_text else loader.load(recipe, variables)


async def settings_with_key(endpoint: str, store: str, key_block: str) -> Settings:
    """Return the settings of the environment with these changes, and with the key if the endpoint asks for one.

    Raises:
        RecipeError: a value cannot be used.
        KeyRefused: there is no key.
    """
    found = from_environment()
    settings = replace(found, endpoint=endpoint or found.endpoint, store=store or found.store)
    if key_block or (settings.is_bfl and not settings.key):
        settings = replace(settings, key=await _key_in(key_block or KEY_BLOCK))
    return settings


async def _key_in(block: str) -> str:
    """Return the key in a Prefect ``Secret`` block.

    Raises:
        KeyRefused: there is no such block, or it has no key.
    """
    try:
        found: Secret[Any] = await Secret.aload(block)
        value = found.get()
    except ValueError:  # whatever it says, it may hold what the block holds
        what = f"there is no Prefect Secret block {quote(block)}"
    else:
        if isinstance(value, str) and value.strip():
            return value
        what = f"the Prefect Secret block {quote(block)} holds no text"
    raise KeyRefused(
        f"no key for BFL: {what}: set BFL_API_KEY where the flow runs, save the key in that block, or choose the "
        "endpoint local for a preview made there"
    )


async def _call_flow_run(name: str) -> None:
    """Name the flow run as a run by the command line would be: after its recipe."""
    context = FlowRunContext.get()
    if context is not None and context.flow_run is not None:
        async with get_client() as client:
            await client.update_flow_run(context.flow_run.id, name=name)
