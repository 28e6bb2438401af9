"""Serve recipes from this process on a Prefect server, or register them there for the workers of a pool."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence

from prefect import get_client
from prefect.runner import Runner
from prefect.utilities.urls import url_for

from pipelines.flows.deployed import settings_with_key
from pipelines.flows.deployment import Deployment, check_pool, check_server

__all__ = ["register", "serve"]


async def serve(deployments: Sequence[Deployment], tell: Callable[[str], None]) -> None:
    """Run recipes as their schedules say, each run in a process of its own, until Ctrl-C or SIGTERM.

    At the end no process is left: runs in work are cancelled, and what they have submitted is collected by the next
    run. The schedules are paused until the recipes are served again.

    Args:
        tell: called with lines for a person.

    Raises:
        RunStopped: no Prefect server answers, or there is no key; nothing was registered.
    """
    await check_server()
    for one in deployments:
        given = one.options
        settings = await settings_with_key(*(given.get(name) or "" for name in ("endpoint", "store", "key_block")))
        settings.require_key()
    runner = Runner(name="flux-pipelines", limit=None)
    for one in deployments:
        made = one.to_prefect()
        made.work_pool_name = made.work_queue_name = None  # of an earlier deployment of this name
        address = url_for("deployment", obj_id=await runner.aadd_deployment(made))
        tell(f"serving {made.full_name}: {one.timing}; {address}")
    tell("Ctrl-C ends it, and pauses the schedules until the next time")
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, runner.handle_sigterm)
    await runner.start()


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
    for one in deployments:
        made = one.to_prefect()
        made.work_pool_name = pool
        address = url_for("deployment", obj_id=await made.aapply(work_pool_name=pool))
        tell(f"deployed {made.full_name} to {pool}: {one.timing}; {address}")
        tell(f"to run it once: prefect deployment run '{made.full_name}'")
