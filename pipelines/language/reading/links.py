"""Connect steps: where each one's pictures come from, and which steps give images and which give masks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from flux_tasks.catalog import Tool
from flux_tasks.errors import nearest
from pipelines.language.actions import image_inputs
from pipelines.language.document.options import OnFailure
from pipelines.language.graph import cycle, dependencies_of
from pipelines.language.model import Step
from pipelines.language.names import SOURCE
from pipelines.language.reading.includes import GATE
from pipelines.language.reading.problems import Path, ProblemCollector
from pipelines.language.reading.steps import ParsedStep, ParsedSteps
from pipelines.operations.base import ImageInput, ImageKind, primary_of

_FAIL = OnFailure.expand("fail")


@dataclass(frozen=True)
class LinkedStep:
    """A step with its inputs, and how it was written."""

    parsed: ParsedStep
    step: Step


@dataclass(frozen=True)
class Links:
    """All steps, connected.

    Attributes:
        kinds: what each step gives, by its id, and ``source``.
        is_circular: some steps need each other's results.
    """

    parsed: ParsedSteps
    problems: ProblemCollector
    steps: tuple[LinkedStep, ...] = ()
    kinds: Mapping[str, ImageKind] = field(default_factory=lambda: {SOURCE: "image"})
    is_circular: bool = False

    @cached_property
    def by_id(self) -> dict[str, Step]:
        """The steps by their ids."""
        return {linked.step.id: linked.step for linked in self.steps}

    @property
    def is_whole(self) -> bool:
        """Whether every step and every id is understood, so that steps without an output can be reported."""
        return self.parsed.is_whole and all("" not in dependencies_of(linked.step) for linked in self.steps)

    def find(self, name: str, path: Path) -> str:
        """Return the id of the step that ``name`` means; an unknown name is a problem, and gives an empty string."""
        stands_for = self.parsed.stands_for or {}
        known = {step.id for step in self.parsed.steps} | {SOURCE}
        meant = stands_for.get(name, name)
        if meant in known:
            return meant
        ids = sorted((known | stands_for.keys()) - {SOURCE})
        hint = nearest(name, ids) or f"; there are {', '.join((*ids, SOURCE))}"
        if name not in self.parsed.broken:
            self.problems.add(path, f"there is no step '{name}'{hint}")
        return ""


def link_steps(parsed: ParsedSteps, problems: ProblemCollector) -> Links:
    """Connect the steps with one another."""
    kinds: dict[str, ImageKind] = {SOURCE: "image", **_kinds(parsed)}
    linker = _Linker(parsed.steps, kinds, Links(parsed, problems))
    steps = tuple(linker.link(number) for number in range(len(parsed.steps)))
    circle = cycle([linked.step for linked in steps])
    if circle:
        way = " → ".join(step.id for step in (*circle, circle[0]))
        at = next(linked.parsed.path for linked in steps if linked.step is circle[0])
        what = f"these steps wait for each other, {way}: change from or a parameter of one of them"
        alone = f"'{circle[0].id}' cannot take its own result: name another step, or source"
        problems.add(at, what if len(circle) > 1 else alone)
    return Links(parsed, problems, steps, kinds, bool(circle))


class _Linker:
    def __init__(self, steps: Sequence[ParsedStep], kinds: Mapping[str, ImageKind], links: Links) -> None:
        self._steps = steps
        self._kinds = kinds
        self._links = links
        self._problems = links.problems
        self._gates: dict[str, str] = {}
        """What each recipe in the place of a step gets without ``from``."""

    def link(self, number: int) -> LinkedStep:
        """Connect a step with those before it, or those that it names."""
        parsed = self._steps[number]
        if parsed.included_by and parsed.included_by not in self._gates:
            self._gates[parsed.included_by] = self._default(number, ImageInput("image"))[0]
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
            action = action.for_role("mask" if fed and self._kinds.get(fed[0]) == "mask" else "image")
        filled = {
            "id": parsed.id,
            "inputs": fed,
            "on_failure": parsed.options.on_failure or _FAIL,
            "arguments": {},
            "task": parsed.task,
            "action": action,
            "parameters": parameters,
            "position": number,
        }
        return LinkedStep(parsed, Step.model_construct(**{**dict(parsed.options), **filled}))

    def _refs(self, value: Any, path: Path) -> Any:
        """Return ``value`` with the id of a step in every ``{step: id}``."""
        if isinstance(value, list):
            return [self._refs(inner, (*path, index)) for index, inner in enumerate(value)]
        if not isinstance(value, dict) or "step" not in value:
            return value
        return {**value, "step": self._find(value["step"], (*path, "step"))}

    def _find(self, name: Any, path: Path) -> str:
        if isinstance(name, str) and name.startswith(GATE):
            return self._gates.get(name.removeprefix(GATE), SOURCE)
        return self._links.find(name if isinstance(name, str) else repr(name), path)

    def _default(self, number: int, primary: ImageInput) -> tuple[str, ...]:
        """Return the nearest step before that gives what is needed, else the source."""
        if primary.many:
            return ()
        for parsed in reversed(self._steps[:number]):
            if primary.role in ("any", self._kinds[parsed.id]):
                return (parsed.id,)
        return (SOURCE,)

    def _named(
        self, parsed: ParsedStep, primary: ImageInput | None, inputs: Mapping[str, ImageInput]
    ) -> tuple[str, ...]:
        """Return the steps that ``from`` names."""
        at = (*parsed.path, "from")
        found = tuple(self._find(name, at) for name in parsed.options.inputs or ())
        if primary is None:
            if found:
                self._problems.add(at, f"{parsed.name} takes no picture of another step: leave from out")
            return ()
        free = [name for name, one in inputs.items() if not one.is_primary and name not in parsed.parameters]
        is_open = primary.many or "references" in inputs
        if not found and primary.required:
            self._problems.add(at, f"is empty, but {parsed.name} needs a picture: write the id of a step, or source")
        elif len(found) > 1 and not is_open and len(found) - 1 > len(free):
            self._problems.add(at, f"{len(found)} pictures, but {parsed.name} takes {1 + len(free)}: leave some out")
        return found


def _kinds(parsed: ParsedSteps) -> dict[str, ImageKind]:
    """Return what each step gives; one that gives what it gets may stand before the step that feeds it."""
    numbers = {step.id: number for number, step in enumerate(parsed.steps)}
    found: dict[int, ImageKind] = {-1: "image"}

    def fed_by(number: int) -> int:
        """Return the number of the step that feeds a step; -1 for the source."""
        named = parsed.steps[number].options.inputs
        if named is None:
            return number - 1
        return numbers.get((parsed.stands_for or {}).get(named[0], named[0]), -1) if named else -1

    for number in range(len(parsed.steps)):
        way = [number]
        while (last := way[-1]) not in found:
            action = parsed.steps[last].action
            if isinstance(action, Tool) or action.output_kind != "same":
                found[last] = "image" if isinstance(action, Tool) or action.output_kind != "mask" else "mask"
                break
            fed = fed_by(last)
            way.append(-1 if fed in way else fed)
        for passed in way:
            found.setdefault(passed, found[way[-1]])
    return {step.id: found[number] for number, step in enumerate(parsed.steps)}
