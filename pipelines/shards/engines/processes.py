"""Shards as processes of this machine, which end with this one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ClassVar, Self

from pipelines.run.context import Event
from pipelines.shards.child import Child
from pipelines.shards.engines.base import Engine
from pipelines.shards.task import ShardTask

__all__ = ["Processes"]


class Processes(Engine):
    """A process for each shard, all at once.

    Args:
        count: how many shards there are.
    """

    tells_events: ClassVar[bool] = True
    has_secrets: ClassVar[bool] = True  # a task goes through a pipe

    def __init__(self, count: int) -> None:
        self._count = count
        self._children: set[Child] = set()

    async def __aenter__(self) -> Self:
        self._threads = ThreadPoolExecutor(self._count, thread_name_prefix="shard")
        return self

    async def run(self, task: ShardTask, on_event: Callable[[Event], None]) -> str:
        """See ``Engine.run``."""
        child = Child()
        self._children.add(child)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, partial(child.run, task, on_event))
        finally:
            child.end()  # nobody waits for it any more, as where the run is cancelled
            self._children.discard(child)

    def stop(self, why: str) -> None:
        """See ``Engine.stop``."""
        for child in self._children:
            child.stop(why)

    async def __aexit__(self, *_: object) -> None:
        """End what runs still."""
        for child in self._children:
            child.end()
        self._threads.shutdown(wait=False)
