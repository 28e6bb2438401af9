"""Shards as tasks of Ray, on a cluster that is there, or on one of this machine that ends with the run."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Self

from flux_tasks.errors import RunStopped, cut
from pipelines.run.context import Event
from pipelines.shards.child import work_in_child
from pipelines.shards.engines.base import Engine, unreachable
from pipelines.shards.scratch import scratch
from pipelines.shards.task import ShardTask

__all__ = ["Ray"]

_MEMORY = 100_000_000
"""Bytes of shared memory for a cluster of this machine: tasks and their answers are small."""


_LONGEST = 43
"""Bytes of a folder's path in which Ray can have its sockets: their paths have 107 at most."""


class Ray(Engine):
    """A task for each shard. Ray itself gives the task of a worker that is lost to another one.

    Args:
        address: of the cluster, such as ``auto``, ``10.0.0.5:6379`` or ``ray://head:10001``; empty for a cluster of
            this machine.
        count: how many shards there are: the workers of that cluster.
    """

    def __init__(self, address: str, count: int) -> None:
        self.is_elsewhere = bool(address)
        self._address, self._count = address, count
        self._work: Any = None
        self._stack = ExitStack()
        self._place = ""
        """Where a cluster of this machine writes its logs, which Ray would leave."""

    async def __aenter__(self) -> Self:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else a cluster of this machine reports to its makers
        self._lock = asyncio.Lock()
        try:
            await self._connect()
        except RunStopped:
            self._stack.close()
            raise
        return self

    async def _connect(self) -> None:
        """Connect to the cluster, or start one.

        Raises:
            RunStopped: that does not work.
        """
        import ray

        def begin() -> None:
            options: dict[str, Any] = {"address": self._address}
            if not self._address:
                # Else Ray kills the process of a shard just when that looks after what a killed run has left.
                os.environ.setdefault("RAY_kill_child_processes_on_worker_exit", "false")
                self._place = self._place or self._stack.enter_context(scratch())
                options = {"address": "local", "num_cpus": self._count, "object_store_memory": _MEMORY}
                options["include_dashboard"] = False
                if len(os.fsencode(self._place)) <= _LONGEST:  # else they are where Ray has them by itself, and stay
                    options["_temp_dir"] = self._place
            ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)

        try:
            await asyncio.to_thread(begin)
        except Exception as error:  # of Ray, or of the network
            raise RunStopped(unreachable("Ray", self._address, "ray start --head", error)) from error
        self._work = ray.remote(work_in_child)

    async def run(self, task: ShardTask, on_event: Callable[[Event], None]) -> str:
        """See ``Engine.run``."""
        import ray

        async with self._lock:
            work = self._work
        try:
            return str(await work.options(name=f"shard {task.shard}").remote(task))
        except ray.exceptions.RayTaskError as error:
            return _reason(error)
        except Exception as error:  # of Ray, whatever has become of the worker
            async with self._lock:
                if work is self._work and not isinstance(error, ray.exceptions.WorkerCrashedError):
                    await asyncio.to_thread(ray.shutdown)  # the cluster itself has failed
                    await self._connect()
            return _reason(error)

    async def __aexit__(self, *error: object) -> None:
        """Leave the cluster; one of this machine ends, with what its workers do still."""
        import ray

        await asyncio.to_thread(ray.shutdown)
        self._stack.close()


def _reason(error: Exception) -> str:
    return cut(f"{type(error).__name__}: {' '.join(str(error).split())}")
