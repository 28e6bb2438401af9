"""The walk: a run, a plan and whoever else answers it are asked the same questions in the same order."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from recipes import HEAD, OUTPUT, Painter, Place, perform, place, recipes

from flux_tasks.images.reference import ImageRef
from flux_tasks.store.records import Store
from pipelines.data.items import Item
from pipelines.data.manifest import StepOutcome
from pipelines.data.outputs import Outputs
from pipelines.execution import local_steps
from pipelines.execution.answers import Attempt, InVain, NodeAnswers, Outcome
from pipelines.execution.answers import Place as Where
from pipelines.execution.facts import Facts
from pipelines.execution.precheck import items
from pipelines.execution.walk import WalkResult, walk
from pipelines.language.compiled import CompiledRecipe
from pipelines.plan.planner import plan
from pipelines.recipe import Recipe

T = TypeVar("T")

NOT_ANSWERED = (StepOutcome.SKIPPED, StepOutcome.BLOCKED)


@dataclass
class Questions:
    """What was asked, by item: each question with the rank of its node."""

    asked: dict[int, list[tuple[int, str]]] = field(default_factory=dict)

    def in_order(self, without: str = "-") -> dict[int, list[str]]:
        """As they were asked; ``without`` leaves out those that begin so."""
        return {n: [text for _, text in asked if not text.startswith(without)] for n, asked in self.asked.items()}

    def by_rank(self) -> dict[int, list[str]]:
        """Node by node, for branches that went side by side."""
        return {n: [text for _, text in sorted(asked, key=lambda a: a[0])] for n, asked in self.asked.items()}


class Listening:
    """Hands every question on to the answers, and writes it down."""

    def __init__(self, answers: NodeAnswers, asked: list[tuple[int, str]]) -> None:
        self._answers = answers
        self._asked = asked
        self.facts, self.outputs = answers.facts, answers.outputs

    @property
    def is_parallel(self) -> bool:
        return self._answers.is_parallel

    def _ask(self, kind: str, attempt: Attempt) -> None:
        plain = {n: v for n, v in sorted(attempt.arguments.items()) if isinstance(v, (str, int, float, bool))}
        pictures = len(attempt.pictures)
        self._asked.append((attempt.node.rank, f"{kind} {attempt.node.id} {plain} with {pictures} pictures"))

    async def off_loop(self, function: Callable[..., T], *arguments: Any) -> T:
        return await self._answers.off_loop(function, *arguments)

    async def paid(self, attempt: Attempt) -> Outcome:
        self._ask("paid", attempt)
        return await self._answers.paid(attempt)

    async def local(self, attempt: Attempt) -> Outcome:
        self._ask("local", attempt)
        return await self._answers.local(attempt)

    async def restore(self, attempt: Attempt, image: ImageRef) -> local_steps.Restored:
        return await self._answers.restore(attempt, image)

    async def retry(self, attempt: Attempt) -> None:
        self._ask("retry", attempt)
        await self._answers.retry(attempt)

    async def note(self, attempt: Attempt, outcome: Outcome) -> None:
        is_unpaid = attempt.node.is_paid and outcome.kind is StepOutcome.UNCHANGED
        kind = outcome.kind if outcome.kind in NOT_ANSWERED or is_unpaid else "answered"
        self._asked.append((attempt.node.rank, f"note {attempt.node.id} {kind}"))
        await self._answers.note(attempt, outcome)

    def fail(self, where: Where, problem: Exception) -> None:
        at = (-1, where) if isinstance(where, str) else (where.rank, where.id)
        self._asked.append((at[0], f"fail {at[1]} {type(problem).__name__}"))
        self._answers.fail(where, problem)


@contextmanager
def listening() -> Iterator[Questions]:
    """Write down what runs and plans are asked in the block."""
    found = Questions()

    async def heard(item: Item, recipe: CompiledRecipe, answers: NodeAnswers) -> WalkResult:
        asked = found.asked[item.index] = []  # a walk that ended for want of a job begins anew
        return await walk(item, recipe, Listening(answers, asked))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.run.item.walk", heard)
        patch.setattr("pipelines.plan.dry_run.walk", heard)
        yield found


class Paper:
    """A third way to answer: every job gives a picture of the expected size, painted here."""

    is_parallel = False

    def __init__(self, store: Store) -> None:
        self.facts = Facts(None)
        self.outputs = Outputs()
        self._store = store
        self._made: set[str] = set()

    async def off_loop(self, function: Callable[..., T], *arguments: Any) -> T:
        return function(*arguments)

    async def paid(self, attempt: Attempt) -> Outcome:
        call = attempt.call
        assert call is not None
        if call.is_noop():
            return Outcome(StepOutcome.UNCHANGED, attempt.image)
        key = call.key("paper")
        if key not in self._made and await attempt.is_in_vain():
            raise InVain
        self._made.add(key)
        colour = tuple(hashlib.sha256(key.encode()).digest()[:3])
        return Outcome(StepOutcome.DONE, ImageRef.of(Image.new("RGB", call.output_size or (64, 64), colour)))

    async def local(self, attempt: Attempt) -> Outcome:
        image = attempt.image
        result = local_steps.operate(attempt.node, attempt.arguments, image, self._store, write=False).image
        is_same = image is not None and image.digest == result.digest
        return Outcome(StepOutcome.UNCHANGED if is_same else StepOutcome.DONE, image if is_same else result)

    async def restore(self, attempt: Attempt, image: ImageRef) -> local_steps.Restored:
        assert attempt.call is not None
        assert attempt.image is not None
        return local_steps.restore(attempt.node.step, attempt.call, attempt.image, image, self._store, write=False)

    async def retry(self, attempt: Attempt) -> None:
        raise AssertionError("every picture is there, so that each can be judged")

    async def note(self, attempt: Attempt, outcome: Outcome) -> None: ...

    def fail(self, where: Where, problem: Exception) -> None: ...


def on_paper(here: Place, recipe: Recipe) -> Questions:
    found = Questions()
    paper = Paper(Store(str(here.folder / "paper")))
    for item in items(recipe.compiled):
        asked = found.asked[item.index] = []
        asyncio.run(walk(item, recipe.compiled, Listening(paper, asked)))
    return found


def asked_of(here: Place, recipe: Recipe) -> tuple[Questions, Questions, Questions, Questions]:
    """What is asked of a plan, of the run that pays, and of a plan and a run that find everything in the store."""
    with listening() as first_plan:
        plan(recipe.compiled, settings=here.settings)
    with listening() as paying:
        perform(recipe, here.settings)
    # Without verify, nothing is asked of items that are settled, as far as their files are old enough.
    with listening() as second_plan:
        plan(recipe.compiled, settings=here.settings, verify=True)
    with listening() as settled:
        perform(recipe, here.settings, verify=True)
    return first_plan, paying, second_plan, settled


@pytest.fixture
def here(here: Place) -> Place:
    """With a file that is no picture among the pictures."""
    (here.folder / "photos" / "p9.png").write_bytes(b"hello")
    return here


def parsed(here: Place, steps: str) -> Recipe:
    return Recipe.parse(f"{HEAD}{steps}\noutput: {OUTPUT}".replace("FOLDER", str(here.folder)))


PICTURES = 3
CHAIN = "  - deblur: {}\n  - erase: {mask: '{{ mask }}'}\n    when: mask_exists\n  - resize: {max_side: 40}"
BRANCHES = """\
  - deblur: {}
  - resize: {width: 60, height: 60, fit: stretch}
    id: small
    from: source
  - outpaint: {expand: {left: 16}}
    from: deblur
  - edit: {prompt: "one over the other", model: flux-2-pro}
    from: [deblur, small, outpaint]"""
MATRIX = """\
  - edit: {prompt: "a {{ style }}", model: flux-2-pro}
    matrix: {style: [lake, wood], seed: [1, 2]}
  - auto_orient: {}
  - fill: {mask: {boxes: [[1, 1, 9, 9]]}, prompt: "sky {{ style }}"}
    preserve: {feather: 2}"""
MISSING = """\
  - generate: {prompt: a lake, width: 64, height: 64}
    id: lake
    when: index == 0
  - edit: {prompt: both, model: flux-2-pro}
    from: [source, lake]
    save: "FOLDER/both/{{ stem }}.png"
  - erase: {mask: {boxes: [[1, 1, 900, 9]]}}
    from: source
  - deblur: {}
    from: erase"""
BLACK = """\
  - mask_from_boxes: {boxes: [[1, 1, 9, 9]]}
  - mask_dilate: {pixels: -20}
  - erase: {mask: {step: mask_dilate}}"""
RETRIES = """\
  - deblur: {seed: 1}
    expect: {min_side: SIDE}
    on_failure: {retry_with: [{seed: 2}, {seed: 3}], then: THEN}
  - outpaint: {expand: {left: 16}}"""


@pytest.mark.parametrize(
    "steps", [CHAIN, BRANCHES, MATRIX, MISSING, BLACK], ids=["chain", "branches", "matrix", "missing", "black"]
)
def test_a_run_a_plan_and_a_third_are_asked_the_same_in_the_same_order(here: Place, steps: str) -> None:
    recipe = parsed(here, steps)
    expected = on_paper(here, recipe)
    first_plan, paying, second_plan, settled = asked_of(here, recipe)
    assert expected.in_order() == first_plan.in_order() == second_plan.in_order() == settled.in_order()
    assert paying.by_rank() == expected.by_rank()
    assert set(expected.asked) == {0, 1, 2, 3}
    assert all(expected.asked.values())


@pytest.mark.parametrize("then", ["keep", "fail"])
@pytest.mark.parametrize("side", [8, 4000])
def test_further_tries_are_asked_for_when_a_result_is_not_as_expected(here: Place, then: str, side: int) -> None:
    recipe = parsed(here, RETRIES.replace("SIDE", str(side)).replace("THEN", then))
    expected = on_paper(here, recipe).in_order()
    first_plan, paying, second_plan, settled = asked_of(here, recipe)
    assert expected == paying.in_order() == second_plan.in_order() == settled.in_order()
    assert sum(text.startswith("paid deblur") for text in expected[0]) == (3 if side > 8 else 1)
    tries = [text.removeprefix("retry") for text in first_plan.in_order()[0] if text.startswith("retry")]
    assert [text.split(" with ")[0] for text in tries] == [" deblur {'seed': 2}", " deblur {'seed': 3}"]
    if side == 8:  # a plan does not know yet that they are not needed
        assert first_plan.in_order(without="retry") == expected


@given(recipes(), st.integers(1, 3))
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_of_any_recipe_a_run_a_plan_and_a_third_are_asked_the_same(
    shared_painter: Painter, data: dict[str, Any], pictures: int
) -> None:
    with place(shared_painter, pictures) as here:
        recipe = here.recipe(data)
        expected = on_paper(here, recipe)
        first_plan, paying, second_plan, settled = asked_of(here, recipe)
        assert expected.in_order() == first_plan.in_order() == second_plan.in_order() == settled.in_order()
        assert paying.by_rank() == expected.by_rank()
