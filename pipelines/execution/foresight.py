"""What is certain to fail in an item, so that no job is paid for whose result leads to nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from flux_tasks.errors import InvalidImage, InvalidRequest
from flux_tasks.images.reference import ImageRef
from pipelines.data.manifest import StepOutcome
from pipelines.execution.answers import Attempt, NodeAnswers, Outcome, Place
from pipelines.execution.conditions import Undecided
from pipelines.execution.local_steps import Restored
from pipelines.execution.placeholders import Placeholder, is_mask_unknown
from pipelines.language.graph import Graph, Node
from pipelines.language.names import SOURCE

T = TypeVar("T")


def leads_nowhere(graph: Graph, foreseen: Mapping[str, Exception]) -> frozenset[str]:
    """Return the nodes whose results would be written nowhere, and lead only to nodes that fail."""
    if not foreseen:
        return frozenset()
    lost = set(foreseen)
    for node in graph.nodes:
        if lost.intersection(node.dependencies):
            lost.add(node.id)
    useful = {target.node for target in graph.targets} - lost
    before_lost: set[str] = set()
    for node in reversed(graph.nodes):
        if node.id in useful:
            useful.update(node.dependencies)
        if node.id in lost or node.id in before_lost:
            before_lost.update(node.dependencies)
    return frozenset(before_lost - useful - lost - {SOURCE})


class Foresight:
    """Implements ``NodeAnswers``: makes nothing, looks nothing up. A placeholder stands for every result.

    ``problems`` are, by node, what is wrong whatever the pictures will look like; nothing of a node behind a condition
    that depends on one.
    """

    is_parallel = False

    def __init__(self, answers: NodeAnswers) -> None:
        self.facts = answers.facts
        self.outputs = answers.outputs
        self.problems: dict[str, Exception] = {}
        self._answers = answers
        self._uncertain: set[str] = set()

    async def off_loop(self, function: Callable[..., T], *arguments: Any) -> T:
        try:
            return await self._answers.off_loop(function, *arguments)
        except Undecided:
            self._uncertain.update(argument.id for argument in arguments if isinstance(argument, Node))
            raise

    async def paid(self, attempt: Attempt) -> Outcome:
        """Return a placeholder of the size that the catalogue promises, if it promises one."""
        call = attempt.call
        if call is None:
            return self._placeholder(attempt, None)
        is_read = call.mask is not None and not is_mask_unknown(call)
        if await self.off_loop(call.is_noop) if is_read else not call.mask and call.is_noop():  # it reads the mask
            return Outcome(StepOutcome.UNCHANGED, attempt.image)
        return self._placeholder(attempt, None if call.tool.sizes.is_about else call.output_size)

    async def local(self, attempt: Attempt) -> Outcome:
        """Return a placeholder whose size nobody knows: to work it out would be done twice."""
        return self._placeholder(attempt, None)

    def _placeholder(self, attempt: Attempt, size: tuple[int, int] | None) -> Outcome:
        name = attempt.image.name if attempt.image is not None else attempt.node.id
        return Outcome(StepOutcome.DONE, Placeholder.made_of(attempt.node.id, *attempt.pictures, size=size, name=name))

    async def restore(self, attempt: Attempt, image: ImageRef) -> Restored:
        """Return the result as it is: it keeps its size."""
        return Restored(image, is_preserved=True)

    async def retry(self, attempt: Attempt) -> None:
        """Do nothing."""

    async def note(self, attempt: Attempt, outcome: Outcome) -> None:
        """Remember that what follows an uncertain node is uncertain, too."""
        if self._uncertain & {*attempt.node.dependencies}:
            self._uncertain.add(attempt.node.id)

    def fail(self, place: Place, problem: Exception) -> None:
        """Keep what is wrong with the item itself, and certain."""
        if not isinstance(place, Node) or not isinstance(problem, (InvalidRequest, InvalidImage)):
            return
        if self._uncertain.isdisjoint({place.id, *place.dependencies}):
            self.problems[place.id] = problem
