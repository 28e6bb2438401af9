"""Serve recipes from this process on a Prefect server, or register them there for the workers of a pool."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Self
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.flow_runs import wait_for_flow_run
from prefect.runner import Runner, _starter_engine
from prefect.utilities.urls import url_for

from flux_tasks.errors import EndpointUnreachable, cut
from flux_tasks.store.records import Store
from pipelines.flows.deployed import settings_with_key
from pipelines.flows.publishing import is_over
from pipelines.flows.served.deployment import Deployment, check_pool, check_server
from pipelines.flows.served.watch import End, Start, watch
from pipelines.flows.stopping import shorten_tracebacks, tied_to_this_process

__all__ = ["register", "serve"]


async def serve(
    deployments: Sequence[Deployment],
    tell: Callable[[str], None],
    places: Sequence[str] = (),
    *,
    pause: float = 30.0,
) -> None:
    """Run recipes as their schedules say, each run in a process of its own, until Ctrl-C or SIGTERM.

    At the end no process is left: runs in work are cancelled, and what they have submitted is collected by the next
    run. The schedules are paused until the recipes are served again.

    Args:
        tell: called with lines for a person.
        places: folders and buckets; new pictures in one of them start a run of each recipe.
        pause: seconds between two looks at these.

    Raises:
        RunStopped: no Prefect server answers, or there is no key; nothing was registered.
    """
    await check_server()
    await _check_shards(deployments)
    stores = []
    for one in deployments:
        given = one.options
        settings = await settings_with_key(*(given.get(name) or "" for name in ("endpoint", "store", "key_block")))
        settings.require_key()
        stores.append(Store(settings.store))
    runner = _Runner(name="flux-pipelines", limit=None)
    watching = []
    for one, store in zip(deployments, stores, strict=True):
        made = one.to_prefect()
        made.work_pool_name = made.work_queue_name = None  # of an earlier deployment of this name
        number = await runner.aadd_deployment(made)
        tell(f"serving {made.full_name}: {one.timing}; {url_for('deployment', obj_id=number)}")
        watching += [watch(place, one.name, store, _starter(number, tell), tell, pause=pause) for place in places]
    tell("Ctrl-C ends it, and pauses the schedules until the next time")
    shorten_tracebacks()
    os.environ |= tied_to_this_process()  # the runner hands its environment on
    watchers = asyncio.gather(*watching)
    try:
        with _own_sessions():
            await _run_until_signal(runner, tell)
    finally:
        for name in tied_to_this_process():
            os.environ.pop(name, None)
        watchers.cancel()
        with suppress(asyncio.CancelledError):
            await watchers


class _Runner(Runner):
    """Prefect's, without its temporary folder, which a kill would leave: no code is fetched, runs start in this one."""

    async def __aenter__(self) -> Self:
        entered = await super().__aenter__()
        with suppress(OSError):  # another runner has its own beside it
            self._tmp_dir.rmdir()
            self._tmp_dir.parent.rmdir()
        return entered


@contextmanager
def _own_sessions() -> Iterator[None]:
    """Let each run that Prefect starts have a session of its own, so that Ctrl-C reaches it by way of this process.

    A terminal sends it to all processes, and one that imports Prefect just then would end with a traceback of that.
    """
    starter: Any = _starter_engine  # which says that this function is to be replaced there
    run_process = starter.run_process
    starter.run_process = partial(run_process, start_new_session=True)
    try:
        yield
    finally:
        starter.run_process = run_process


_GONE = "the Prefect server does not answer any more: start it, and serve again, which collects what was submitted"

GRACE = 30.0
"""Seconds that runs in work have for their end after a signal."""

LAST_WORDS = 10.0
"""Seconds that the server has for each thing that it is told at the end."""


async def _run_until_signal(runner: Runner, tell: Callable[[str], None]) -> None:
    """Run what the server starts until Ctrl-C or SIGTERM; then end within ``GRACE`` and a few times ``LAST_WORDS``.

    The second signal leaves runs in work no time.
    """
    loop, ending, hurry = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

    def note() -> None:
        (hurry if ending.is_set() else ending).set()

    running = asyncio.ensure_future(runner.start())
    signalled = asyncio.ensure_future(ending.wait())
    await asyncio.sleep(0)  # its own handler, which would wait for the server for minutes, is set by now
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, note)
    try:
        await asyncio.wait({running, signalled}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():  # the server has answered before, when it was given the deployments
            await _end_processes(runner, GRACE)
            error = running.exception()
            if isinstance(error, Exception):
                raise EndpointUnreachable(f"{_GONE} ({type(error).__name__}: {cut(str(error))})")
            await running
            return
        count = len(runner._process_manager.flow_run_ids()) if runner.started else 0
        runs = "1 run in work is" if count == 1 else f"{count} runs in work are"
        tell(f"ending: {runs} cancelled; once more does not wait for them")
        await _within(GRACE + LAST_WORDS, runner.astop(), hurry)
        await _end_processes(runner, 0.0 if hurry.is_set() else GRACE)
        if not await _within(LAST_WORDS, running) or running.cancelled() or running.exception() is not None:
            what = "schedules may go on, and their runs wait for the next time"
            tell(f"the Prefect server did not take all of it: {what}")
    finally:
        signalled.cancel()
        running.cancel()
        await asyncio.wait({running}, timeout=LAST_WORDS)


async def _within(seconds: float, work: Awaitable[object], hurry: asyncio.Event | None = None) -> bool:
    """Wait for something for a while, or until there is a hurry; whether it has come to its end, in whatever way."""
    task = asyncio.ensure_future(work)
    pressed = asyncio.ensure_future((hurry or asyncio.Event()).wait())
    await asyncio.wait({task, pressed}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    pressed.cancel()
    return task.done()


async def _end_processes(runner: Runner, grace: float) -> None:
    """End the processes of runs that are still there, which Prefect does only where its server answers."""
    if runner.started or runner.stopping:
        processes = runner._process_manager
        ends = [processes.kill(run, grace, force=not grace) for run in processes.flow_run_ids()]
        await asyncio.gather(*ends, return_exceptions=True)


def _starter(deployment: UUID, tell: Callable[[str], None]) -> Start:
    """Return what starts a run of a deployment; asked twice for one listing, the server starts one."""

    told = set[str]()
    ended = set[UUID]()
    this_process = secrets.token_hex(8)  # a restart may have to start the same again

    async def start(digest: str, why: str) -> End:
        key = f"{deployment}-{this_process}-{len(ended)}-{digest}"
        async with get_client() as client:
            run = await client.create_flow_run_from_deployment(deployment, idempotency_key=key)
        if key not in told:
            tell(f"{why}: {url_for('flow-run', obj_id=run.id)}")
            told.add(key)
        last: FlowRun = await wait_for_flow_run(run.id, timeout=None)
        state = last.state
        ended.add(run.id)
        if state is None or state.is_cancelled():
            return End.CANCELLED
        return End.OVER if is_over(state) else End.BROKEN_OFF

    return start


async def _check_shards(deployments: Sequence[Deployment]) -> None:
    """Check the pools that the runs of deployments give their shards to.

    Raises:
        RecipeError: there is no such pool, or it cannot start in a folder that was named.
    """
    async with get_client() as client:
        for one in deployments:
            engine, _, pool = str(one.options.get("on") or "").partition(":")
            if engine == "prefect":
                await check_pool(client, pool, one.folder, place="--on")


async def register(deployments: Sequence[Deployment], pool: str, tell: Callable[[str], None]) -> None:
    """Register recipes for the workers of a pool.

    Args:
        tell: called with lines for a person.

    Raises:
        RunStopped: no Prefect server answers.
        RecipeError: there is no such pool, or it cannot start in a folder that was named. Nothing was registered.
    """
    await check_server()
    async with get_client() as client:
        for one in deployments:
            await check_pool(client, pool, one.folder)
    await _check_shards(deployments)
    for one in deployments:
        made = one.to_prefect()
        made.work_pool_name = pool
        address = url_for("deployment", obj_id=await made.aapply(work_pool_name=pool))
        tell(f"deployed {made.full_name} to {pool}: {one.timing}; {address}")
        tell(f"to run it once: prefect deployment run '{made.full_name}'")
