"""Connect steps: where each one's pictures come from; and check what holds for all steps together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any

from flux_tasks.catalog import Tool
from flux_tasks.errors import cut, listed, nearest, quote, shown
from pipelines.language.document.options import OnFailure
from pipelines.language.graph import cycle, dependencies_of, is_parameter, lineages
from pipelines.language.model import Step, image_inputs, parameter_types
from pipelines.language.names import SOURCE
from pipelines.language.reading.includes import GATE
from pipelines.language.reading.problems import Path, ProblemCollector
from pipelines.language.reading.steps import ParsedStep, ParsedSteps
from pipelines.operations.base import ImageInput, ImageKind, primary_of

MAX_NODES = 10_000
"""Combinations that the matrices of one recipe may make of its steps."""

_FAIL = OnFailure.expand("fail")


@dataclass(frozen=True)
class LinkedStep:
    """A step with its inputs, and how it was written."""

    parsed: ParsedStep
    step: Step


@dataclass(frozen=True)
class Links:
    """All steps, connected, and what each gives, by its id; ``is_circular`` if some need each other's results."""

    parsed: ParsedSteps
    problems: ProblemCollector
    kinds: Mapping[str, ImageKind]
    steps: tuple[LinkedStep, ...] = ()
    is_circular: bool = False

    @cached_property
    def by_id(self) -> dict[str, Step]:
        """The steps by their ids."""
        return {linked.step.id: linked.step for linked in self.steps}

    @cached_property
    def lineages(self) -> dict[str, set[str]]:
        """By the id of a step, that id and those of all steps that feed it."""
        return lineages([*self.by_id.values()])

    @cached_property
    def varied(self) -> list[Step]:
        """The steps with a matrix."""
        return [step for step in self.by_id.values() if step.matrix]

    @property
    def is_whole(self) -> bool:
        """Whether every step and every id is understood, so that steps without an output can be reported."""
        return self.parsed.is_whole and all("" not in dependencies_of(linked.step) for linked in self.steps)

    def find(self, name: str, path: Path) -> str:
        """Return the id of the step that ``name`` means; an unknown name is a problem, and gives an empty string."""
        stands_for = self.parsed.stands_for
        meant = stands_for.get(name, name)
        if meant in self.kinds:
            return meant
        ids = sorted((self.kinds.keys() | stands_for.keys()) - {SOURCE})
        hint = nearest(name, ids) or f"; there are {listed((*ids, SOURCE))}"
        if name not in self.parsed.broken:
            self.problems.add(path, f"there is no step {quote(name)}{hint}")
        return ""


def link_steps(parsed: ParsedSteps, problems: ProblemCollector) -> Links:
    """Connect the steps with one another."""
    links = Links(parsed, problems, _kinds(parsed))
    linker = _Linker(links, parsed.steps)
    steps = tuple(linker.link(number) for number in range(len(parsed.steps)))
    circle = cycle([linked.step for linked in steps])
    if circle:
        way = " → ".join(step.id for step in (*circle, circle[0]))
        at = next(linked.parsed.path for linked in steps if linked.step is circle[0])
        what = f"these steps wait for each other, {cut(way, 200)}: change from or a parameter of one of them"
        alone = f"{quote(circle[0].id)} cannot take its own result: name another step, or source"
        problems.add(at, what if len(circle) > 1 else alone)
    return replace(links, steps=steps, is_circular=bool(circle))


@dataclass(frozen=True)
class _Linker:
    links: Links
    steps: Sequence[ParsedStep]
    gates: dict[str, str] = field(default_factory=dict)
    """What each recipe in the place of a step gets without ``from``."""

    def link(self, number: int) -> LinkedStep:
        """Connect a step with those before it, or those that it names."""
        parsed = self.steps[number]
        if parsed.included_by and parsed.included_by not in self.gates:
            self.gates[parsed.included_by] = self._default(number, ImageInput("image"))[0]
        inputs = image_inputs(parsed.action, parsed.task)
        primary = inputs.get(primary_of(inputs) or "")
        parameters = {name: self._refs(value, (*parsed.at, name)) for name, value in parsed.parameters.items()}
        fed: tuple[str, ...] = ()
        if parsed.options.inputs is not None:
            fed = self._named(parsed, primary, inputs)
        elif primary is not None:
            fed = self._default(number, primary)
        action = parsed.action
        if not isinstance(action, Tool):
            action = action.for_role(self.links.kinds.get(fed[0], "image") if fed else "image")
        filled = dict(
            parsed.options,
            id=parsed.id,
            inputs=fed,
            on_failure=parsed.options.on_failure or _FAIL,
            arguments={},
            task=parsed.task,
            action=action,
            parameters=parameters,
            position=number,
        )
        return LinkedStep(parsed, Step.model_construct(**filled))

    def _refs(self, value: Any, path: Path) -> Any:
        """Return ``value`` with the id of a step in every ``{step: id}``."""
        if isinstance(value, list):
            return [self._refs(inner, (*path, index)) for index, inner in enumerate(value)]
        if not isinstance(value, dict) or "step" not in value:
            return value
        return {**value, "step": self._find(value["step"], (*path, "step"))}

    def _find(self, name: Any, path: Path) -> str:
        if isinstance(name, str) and name.startswith(GATE):
            return self.gates.get(name.removeprefix(GATE), SOURCE)
        return self.links.find(name if isinstance(name, str) else shown(name), path)

    def _default(self, number: int, primary: ImageInput) -> tuple[str, ...]:
        """Return the nearest step before that gives what is needed, else the source."""
        if primary.many:
            return ()
        before = (step.id for step in reversed(self.steps[:number]))
        return (next((step for step in before if primary.role in ("any", self.links.kinds[step])), SOURCE),)

    def _named(
        self, parsed: ParsedStep, primary: ImageInput | None, inputs: Mapping[str, ImageInput]
    ) -> tuple[str, ...]:
        """Return the steps that ``from`` names."""
        at = (*parsed.path, "from")
        found = tuple(self._find(name, at) for name in parsed.options.inputs or ())
        if primary is None:
            if found:
                self.links.problems.add(at, f"{parsed.name} takes no picture of another step: leave from out")
            return ()
        free = [name for name, one in inputs.items() if not one.is_primary and name not in parsed.parameters]
        is_open = primary.many or "references" in inputs
        if not found and primary.required:
            what = f"is empty, but {parsed.name} needs a picture: write the id of a step, or source"
            self.links.problems.add(at, what)
        elif len(found) > 1 and not is_open and len(found) - 1 > len(free):
            what = f"{len(found)} pictures, but {parsed.name} takes {1 + len(free)}: leave some out"
            self.links.problems.add(at, what)
        return found


def _kinds(parsed: ParsedSteps) -> dict[str, ImageKind]:
    """Return what each step gives; one that gives what it gets may stand before the step that feeds it."""
    kinds: dict[str, ImageKind] = {SOURCE: "image"}
    fed_by: dict[str, str] = {}
    before = SOURCE
    for step in parsed.steps:
        kind = "image" if isinstance(step.action, Tool) else step.action.output_kind
        if kind == "same":
            named = (before,) if step.options.inputs is None else step.options.inputs or (SOURCE,)
            fed_by[step.id] = parsed.stands_for.get(named[0], named[0])
        else:
            kinds[step.id] = kind
        before = step.id
    for step_id in fed_by:
        way = [step_id]
        while way[-1] not in kinds and (fed := fed_by.get(way[-1])) and fed not in way:
            way.append(fed)
        kinds[step_id] = kinds.get(way[-1], "image")
    return kinds


def axes_of(step: str, links: Links) -> list[str]:
    """Return the names that are varied by a step, and then by all steps that feed it."""
    lineage = links.lineages.get(step, ())
    varying = sorted((other for other in links.varied if other.id in lineage), key=lambda other: other.id != step)
    return [name for other in varying for name in other.matrix]


def check_matrices(links: Links) -> None:
    """Check that no name is varied twice on one way, and that there are not too many combinations."""
    total = 0
    for linked in links.steps:
        step, path = linked.step, linked.parsed.path
        varying = [other for other in links.varied if other.id in links.lineages[step.id]]
        before = [links.lineages.get(fed, {fed}) for fed in dependencies_of(step)]
        for name in dict.fromkeys(name for other in varying for name in other.matrix):
            ids = [other.id for other in varying if name in other.matrix]
            if len(ids) > 1 and not any(len(set(ids) & way) > 1 for way in before):  # reported where they meet
                what = f"{quote(name)} is varied by {cut(' and '.join(ids), 200)}: give one of them another name, "
                example = f'such as matrix: {{take: […]}} and the parameter {cut(name)}: "{{{{ take }}}}"'
                links.problems.add((*path, "matrix", name) if name in step.matrix else path, what + example)
        total += prod(len(values) for other in varying for values in other.matrix.values())
        if total > MAX_NODES:
            what = f"the matrices make more than {MAX_NODES:,} combinations of steps: shorten their lists"
            links.problems.add(path, what)
            break


def check_unused(links: Links, outputs: Sequence[str]) -> None:
    """Check that every step leads to one of ``outputs``, or is saved, and that every name that is varied is used."""
    steps = links.by_id
    used: set[str] = set()
    for end in (*outputs, *(step.id for step in steps.values() if step.save)):
        used |= links.lineages.get(end, {end})
    for linked in links.steps:
        step, path = linked.step, linked.parsed.path
        if step.id not in used and links.is_whole and all(outputs):
            remedy = "name it in output, in another step's from, or save it"
            links.problems.add(path, f"{quote(step.id)} is used by no output: {remedy}")
        for name in step.matrix:
            if name not in links.problems.used and not is_parameter(step, name):
                hint = nearest(name, parameter_types(step.action))
                what = f"is no parameter of {linked.parsed.name}, and no template uses it{hint}"
                links.problems.add((*path, "matrix", name), f"{what}: every value would give the same result")
