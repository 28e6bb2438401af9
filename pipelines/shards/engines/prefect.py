"""Shards as flow runs of a deployment, on the workers of a Prefect work pool."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Self
from uuid import UUID

from prefect import get_client
from prefect.states import Cancelling
from prefect.utilities.urls import url_for

from flux_tasks.settings import Settings
from pipelines.flows.served.deployment import Deployment, check_pool, check_server
from pipelines.language.compiled import CompiledRecipe
from pipelines.run.context import Event
from pipelines.shards.engines.base import Engine
from pipelines.shards.task import ShardTask

__all__ = ["PrefectPool"]

_log = logging.getLogger("pipelines.run.items")

_PAUSE = 2.0
"""Seconds between two looks at a flow run."""


class PrefectPool(Engine):
    """A flow run for each shard; its deployment is created, or brought up to date, as ``deploy`` does it.

    Args:
        pool: the name of the work pool.
        key_block: the ``Secret`` block that has the key for its workers, if one was named.
    """

    is_elsewhere = True

    def __init__(self, pool: str, recipe: CompiledRecipe, settings: Settings, key_block: str = "") -> None:
        self._pool, self._recipe = pool, recipe
        self._options = {"endpoint": settings.endpoint, "store": settings.store, "key_block": key_block}
        self._parameters: dict[str, Any] = {}
        self._stack = AsyncExitStack()
        self._client: Any = None
        self._deployment: UUID | None = None
        self._waiting: set[UUID] = set()

    async def __aenter__(self) -> Self:
        await check_server()
        self._client = await self._stack.enter_async_context(get_client())
        await check_pool(self._client, self._pool, self.folder)
        name = f"{re.sub(r'[/%&<>]+', '-', self._recipe.name)} in shards"
        deployment = Deployment(name, self._recipe, options=self._options, folder=self.folder)
        self._parameters, made = deployment.parameters, deployment.to_prefect()
        made.work_pool_name = self._pool
        self._deployment = await made.aapply(work_pool_name=self._pool)
        return self

    async def run(self, task: ShardTask, on_event: Callable[[Event], None]) -> str:
        """See ``Engine.run``."""
        shard = task.shard
        parameters = {**self._parameters, "shard": str(shard), "part_of": shard.of}
        run = await self._client.create_flow_run_from_deployment(
            self._deployment, parameters=parameters, name=f"{self._recipe.name} {shard}"
        )
        self._waiting.add(run.id)
        _log.info("shard %s: %s", shard, url_for("flow-run", obj_id=run.id))
        try:
            while True:
                await asyncio.sleep(_PAUSE)
                state = await self._state(run.id)
                if state is not None and state.is_final():
                    self._waiting.discard(run.id)
                    return "" if state.is_completed() else str(state.message or state.name)
        finally:
            await self._cancel(run.id)

    async def _state(self, run: UUID) -> Any:
        """Return the state of a flow run; None if the server does not answer at the moment."""
        try:
            return (await self._client.read_flow_run(run)).state
        except Exception:  # whatever Prefect raises: the shard goes on, and the store tells of its end
            return None

    async def _cancel(self, run: UUID) -> None:
        """Have a flow run end that nobody waits for any more."""
        if run in self._waiting:
            self._waiting.discard(run)
            try:
                await self._client.set_flow_run_state(run, Cancelling())
            except Exception:  # it ends when the store says so
                return

    async def __aexit__(self, *error: object) -> None:
        """Have what nobody waits for any more end."""
        for run in [*self._waiting]:
            await self._cancel(run)
        await self._stack.aclose()
