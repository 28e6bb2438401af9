"""Shards as tasks of Dask, on a cluster that is there, or on one of this machine that ends with the run."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Self

from flux_tasks.errors import RunStopped
from pipelines.run.context import Event
from pipelines.shards.child import work_in_child
from pipelines.shards.engines.base import Engine, unreachable
from pipelines.shards.scratch import scratch
from pipelines.shards.task import ShardTask

__all__ = ["Dask"]


_PATIENCE = 30
"""Seconds to wait for the scheduler."""


class Dask(Engine):
    """A task for each shard. Dask itself gives the task of a worker that is lost to another one.

    Args:
        address: of the scheduler, such as ``tcp://10.0.0.5:8786``; empty for a cluster of this machine.
        count: how many shards there are: the workers of that cluster.
    """

    def __init__(self, address: str, count: int) -> None:
        self.is_elsewhere = bool(address)
        self._address, self._count = address, count
        self._stack = AsyncExitStack()
        self._client: Any = None

    async def __aenter__(self) -> Self:
        import dask.config
        import distributed

        library: Any = distributed  # without types
        cluster: Any = self._address
        try:
            if not self._address:
                # Dask would leave a folder with locks beside all temporary files, and more of it after a kill.
                place = self._stack.enter_context(scratch())
                self._stack.enter_context(dask.config.set({"temporary-directory": place}))
                options = {"n_workers": self._count, "threads_per_worker": 1, "dashboard_address": None}
                cluster = await self._stack.enter_async_context(library.LocalCluster(**options, asynchronous=True))
            self._client = await self._stack.enter_async_context(
                library.Client(cluster, asynchronous=True, timeout=_PATIENCE)
            )
        except Exception as error:  # of Dask, or of the network
            await self._stack.aclose()
            raise RunStopped(unreachable("Dask", self._address, "dask scheduler", error)) from error
        return self

    async def run(self, task: ShardTask, on_event: Callable[[Event], None]) -> str:
        """See ``Engine.run``."""
        key = f"flux-shard-{task.shard.number}-{secrets.token_hex(8)}"
        future = self._client.submit(work_in_child, task, key=key, pure=False)
        try:
            return str(await future)
        except Exception as error:  # of Dask, whatever has become of the worker
            return f"{type(error).__name__}: {error}"

    async def __aexit__(self, *error: object) -> None:
        """End the cluster of this machine, and what its workers do still."""
        await self._stack.aclose()
