"""One item of a plan: the answers to its walk without paying, with placeholders for what is not made yet."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from PIL import Image

from flux_tasks import background
from flux_tasks.catalog import Tool
from flux_tasks.errors import FluxError, InvalidRequest, Moderated, SubmissionUncertain
from flux_tasks.images.reference import ImageRef
from flux_tasks.jobs.call import Call
from flux_tasks.jobs.known import is_repair, lookup
from flux_tasks.jobs.result import is_loss, losses
from flux_tasks.store.journal import Standing
from pipelines.data.items import Item
from pipelines.data.manifest import StepOutcome, error_row
from pipelines.execution import local_steps
from pipelines.execution.answers import Attempt, InVain, Outcome, Place
from pipelines.execution.expectations import wrong_size
from pipelines.execution.local_steps import LocalResult, Restored
from pipelines.execution.placeholders import Placeholder, is_mask_unknown
from pipelines.execution.walk import walk
from pipelines.language.graph import Node
from pipelines.plan.tally import Tally

_OUTCOMES = {
    Standing.PAID: StepOutcome.COLLECTED,
    Standing.HELD: StepOutcome.HELD,
    Standing.DROPPED: StepOutcome.HELD,
    Standing.FREE: StepOutcome.DONE,
}
"""What a run would make of a job that the journal knows."""

T = TypeVar("T")


class ItemPlan:
    """One item of a plan. Implements ``NodeAnswers``: pays for nothing, writes nothing, counts."""

    is_parallel = False

    def __init__(self, item: Item, tally: Tally) -> None:
        self.facts = tally.facts
        self.outputs = tally.outputs
        self._item = item
        self._tally = tally
        self._ends: dict[str, float] = {}
        """Seconds until each node is done, if nothing had to wait for a slot."""

    def run(self) -> float:
        """Take the item through the recipe; returns the seconds that it would take if nothing had to wait."""
        if self._item.duplicate_of or self._is_settled():
            return 0.0
        _complete(walk(self._item, self._tally.recipe, self))
        return max(self._ends.values(), default=0.0)

    def _is_settled(self) -> bool:
        """Check whether a run has settled the item, and count what it has noted if so."""
        tally = self._tally
        if not tally.settled:
            return False
        try:
            names = {**tally.recipe.constants, **self._item.context}
            paths = self.outputs.claim(tally.recipe.graph.targets, names, self._item.index)
        except InvalidRequest:
            return False
        found = tally.settled.find(self._item, [path for _, path in paths])
        if found is not None:
            tally.add_settled(self._item.stem, found)
        return found is not None

    # -- answers to the walk --------------------------------------------------------------------------------------

    async def off_loop(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function here: a plan has no event loop that it could hold up."""
        return function(*arguments)

    async def paid(self, attempt: Attempt) -> Outcome:
        """Return what the store has, or a placeholder; raise Moderated where a run would not try again, or InVain."""
        call, tally = attempt.call, self._tally
        if call is None:
            if await attempt.is_in_vain():
                raise InVain
            parts = (attempt.node.id, attempt.image)
            return Outcome(StepOutcome.DONE, Placeholder.made_of(*parts, size=None, name=self._item.stem))
        try:
            found = background.run(lookup(call, tally.settings))
        except SubmissionUncertain as damage:
            self.fail(attempt.node, damage)
            image = Placeholder.made_of(call.key(tally.engine), size=call.output_size, name=call.name)
            return Outcome(StepOutcome.HELD, image)
        if found is not None:
            return Outcome(StepOutcome.CACHED, found.image, warnings=tuple(w for w in found.warnings if is_repair(w)))
        if not is_mask_unknown(call) and call.is_noop():
            return Outcome(StepOutcome.UNCHANGED, attempt.image)
        keys = call.identity(tally.engine).keys
        key = keys[0]
        image = Placeholder.made_of(key, size=call.output_size, name=call.name)
        entry = next((tally.journal[one] for one in keys if one in tally.journal), None)
        standing = Standing.FREE if entry is None else entry.standing(tally.settings)
        if tally.is_planned(key) and _OUTCOMES[standing] is not StepOutcome.HELD:
            return Outcome(StepOutcome.SHARED, image)
        if standing is Standing.FREE and await attempt.is_in_vain():
            raise InVain
        tally.add_planned(key)
        for remark in call.tool.remarks(call.parameters):
            tally.remark(attempt.node, remark)
        return Outcome(
            _OUTCOMES[standing], image, warnings=(*_foreseen_losses(call), *_foreseen_failures(attempt, image))
        )

    async def local(self, attempt: Attempt) -> Outcome:
        """Return the result, worked out in memory where all pictures are there, or a placeholder."""
        image = attempt.image
        is_open = any(isinstance(picture, Placeholder) for picture in attempt.pictures)
        result = LocalResult(self._local_placeholder(attempt)) if is_open else self._operate(attempt, image)
        if image is not None and result.image.digest == image.digest:
            return Outcome(StepOutcome.UNCHANGED, image)
        return Outcome(StepOutcome.DONE, result.image, warnings=result.warnings)

    def _operate(self, attempt: Attempt, image: ImageRef | None) -> LocalResult:
        return local_steps.operate(attempt.node, attempt.arguments, image, self._tally.store, write=False)

    def _local_placeholder(self, attempt: Attempt) -> ImageRef:
        """Return what stands for the result of an operation on a picture that is not made yet."""
        action, image, main = attempt.node.action, attempt.image, attempt.pictures[0]
        assert not isinstance(action, Tool)  # noqa: S101 - the walk has looked
        parameters = {name: value for name, value in attempt.arguments.items() if name not in action.inputs}
        known = main.known_size if isinstance(main, Placeholder) else main.upright_size
        size = action.output_size(parameters, known) if known else None
        if image is not None and size == image.upright_size and action.keeps_when_same_size:
            return image
        if known and not action.needs_pixels:
            return self._operate(attempt, ImageRef.of(Image.new("1", known), name=main.name)).image
        parts = (attempt.node.step.id, repr(sorted(parameters.items(), key=str)), *attempt.pictures)
        return Placeholder.made_of(*parts, size=size, name=main.name)

    async def restore(self, attempt: Attempt, image: ImageRef) -> Restored:
        """Put right in memory what the step says."""
        call, before = attempt.call, attempt.image
        assert call is not None and before is not None, attempt.node.id  # noqa: S101, PT018 - the walk has looked
        return local_steps.restore(attempt.node.step, call, before, image, self._tally.store, write=False)

    async def retry(self, attempt: Attempt) -> None:
        """Count a job that comes on top if the result before it is not as expected."""
        call, is_stored = attempt.call, False
        try:
            is_stored = call is not None and background.run(lookup(call, self._tally.settings)) is not None
        except Moderated:  # refused earlier, and free
            return
        except FluxError:
            call = None
        if not is_stored:
            self._tally.step(attempt.node).retries.add(self._tally.estimate(call))

    async def note(self, attempt: Attempt, outcome: Outcome) -> None:
        """Count the attempt, and the time that its job would take."""
        node, call, kind = attempt.node, attempt.call, outcome.kind
        step = self._tally.step(node)
        for warning in outcome.warnings:
            self._tally.plan.add_warning(f"{self._item.stem}: {node.id}: {warning}")
        is_new = node.is_paid and kind in (StepOutcome.DONE, StepOutcome.COLLECTED, StepOutcome.HELD)
        if kind is not StepOutcome.BLOCKED:
            begin = max((self._ends.get(name, 0.0) for name in node.dependencies), default=0.0)
            self._ends.setdefault(node.id, begin)
        is_certain = attempt.is_decided and call is not None and not is_mask_unknown(call)
        if is_new:
            self._ends[node.id] += self._tally.add_job(node, call, is_certain=is_certain)
        if kind is not StepOutcome.DONE:
            step.count(kind)
        elif node.is_paid:
            (step.paid if is_certain else step.undecided).add(self._tally.estimate(call))
        else:
            step.local += 1

    def fail(self, place: Place, problem: Exception) -> None:
        """Count what is wrong with the item."""
        if isinstance(place, Node) and isinstance(problem, Moderated):
            self._tally.step(place).moderated += 1
            return
        where = f"{place.id}: " if isinstance(place, Node) else ""
        self._tally.plan.add_problem(f"{self._item.stem}: {where}{error_row('', problem)['message']}")


def _foreseen_losses(call: Call) -> list[str]:
    """Return what the result will lack of its input; nothing where that is not made yet, or cannot be read."""
    found = [warning.removeprefix(f"{call.name}: ") for warning in call.warnings if is_loss(warning)]
    try:
        return found if isinstance(call.main, Placeholder) else [*found, *losses(call, None)]
    except (FluxError, OSError):
        return found


def _foreseen_failures(attempt: Attempt, result: Placeholder) -> Iterator[str]:
    """Yield what of a step's expectations the size of its result will not fulfil, where both are known exactly."""
    expect, before = attempt.node.step.expect, attempt.image
    is_guess = attempt.node.tool.sizes.is_about or not result.is_sized
    if expect is not None and not is_guess and (not isinstance(before, Placeholder) or before.is_sized):
        yield from (f"the result will not be as expected: {what}" for what in wrong_size(expect, before, result))


def _complete(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; nothing that a plan awaits ever waits, so it needs no event loop."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("a plan has waited for something")
