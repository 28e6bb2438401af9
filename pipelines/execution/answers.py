"""What a walk asks at each node, and what it is answered: the values that pass between it, runs and plans."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

from flux_tasks.images.reference import ImageRef
from flux_tasks.jobs.call import Call
from flux_tasks.jobs.result import JobResult
from pipelines.data.manifest import StepOutcome
from pipelines.data.outputs import Outputs
from pipelines.execution.facts import Facts
from pipelines.execution.local_steps import Restored
from pipelines.execution.placeholders import pictures_in
from pipelines.language.graph import Node

T = TypeVar("T")

Place: TypeAlias = 'Node | Literal["source", "input", "output"]'
"""Where something failed: at a node, at the item's row, at its picture, or at its outputs."""


class NeedsJob(Exception):
    """The store has no answer for a step, and this is not the time to pay for one."""


class InVain(Exception):
    """A job is not begun, because its result would be written nowhere, and leads only to nodes that fail."""


async def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a node.

    Attributes:
        arguments: with templates filled in and pictures in their places, the main picture (``image``) aside.
        call: of a node that calls a tool; None while it depends on pictures that are not made yet.
        is_decided: whether the node certainly applies; a condition may depend on such pictures.
        notes: why it is tried again.
        started: by ``time.monotonic``.
        is_in_vain: looks ahead whether a job for it would be ``InVain``.
    """

    node: Node
    arguments: Mapping[str, Any] = field(default_factory=dict)
    image: ImageRef | None = None
    call: Call | None = None
    is_decided: bool = True
    notes: tuple[str, ...] = ()
    started: float = field(default_factory=time.monotonic)
    is_in_vain: Callable[[], Awaitable[bool]] = field(default=_never, compare=False, repr=False)

    @property
    def pictures(self) -> list[ImageRef]:
        """All pictures that it works with, the main one first."""
        return [*([self.image] if self.image is not None else []), *pictures_in(self.arguments)]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended, and its result: the input where that is unchanged, None where there is no picture.

    ``reason`` is why it is skipped or unchanged, ``call`` the one that was made if it is not the attempt's own.
    """

    kind: StepOutcome
    image: ImageRef | None = None
    reason: str = ""
    warnings: tuple[str, ...] = ()
    call: Call | None = None
    job: JobResult | None = None


class NodeAnswers(Protocol):
    """What a run and a plan do differently. Nodes that do not wait for one another are ``is_parallel`` or in turn."""

    facts: Facts
    outputs: Outputs

    @property
    def is_parallel(self) -> bool: ...

    async def off_loop(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function that blocks."""

    async def paid(self, attempt: Attempt) -> Outcome:
        """Answer a node that calls a tool; may raise NeedsJob, which ends the walk, or InVain for a new job."""

    async def local(self, attempt: Attempt) -> Outcome:
        """Answer a node that costs nothing."""

    async def restore(self, attempt: Attempt, image: ImageRef) -> Restored:
        """Return a result with what the step says put right: place, colours, untouched pixels."""

    async def retry(self, attempt: Attempt) -> None:
        """Note a job that may follow: the result before it is a placeholder, which cannot be judged."""

    async def note(self, attempt: Attempt, outcome: Outcome) -> None:
        """Note how an attempt ended."""

    def fail(self, place: Place, problem: Exception) -> None:
        """Note what is wrong; whatever needs the result of this place is blocked."""
