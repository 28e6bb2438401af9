"""What every engine does: have a worker work on a shard, and say when that is over."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Self

from flux_tasks.errors import cut
from pipelines.run.context import Event
from pipelines.shards.task import ShardTask

__all__ = ["Engine", "unreachable"]


class Engine(ABC):
    """Has workers work on shards. Use it as a context manager: leaving it ends all that it has started.

    Attributes:
        is_elsewhere: its workers may be on other machines, with other files and another environment.
        tells_events: it passes on what happens while it happens.
        has_secrets: its workers get key and accounts from the run, and not from an environment of their own.
        folder: where relative paths start on its workers; empty for their current folder.
    """

    is_elsewhere: bool = False
    tells_events: ClassVar[bool] = False
    has_secrets: ClassVar[bool] = False
    folder: str = ""

    @abstractmethod
    async def run(self, task: ShardTask, on_event: Callable[[Event], None]) -> str:
        """Have a worker work on a shard until it has ended, or is lost.

        How it has ended is in the store. If nothing is, the worker was lost; a reason may be returned.
        """

    def stop(self, why: str) -> None:  # noqa: B027 - the store says it to every worker, a little later
        """Tell the workers that the run is to end, if there is a quick way to."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:  # noqa: B027 - there may be nothing to end
        """End what was started."""


def unreachable(name: str, address: str, start: str, error: Exception) -> str:
    """Return what to say of a cluster that does not answer, or of one of this machine that cannot be started.

    Args:
        start: the command that starts one.
    """
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    if not address:
        return f"a cluster of {name} could not be started on this machine: {cut(reason)}; run again"
    return f"no cluster of {name} answers at {address}: {cut(reason)}. Start one with `{start}`, or correct the address"
