"""The steps of a document: read one by one, then connected with what feeds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from flux_tasks import catalog
from flux_tasks.catalog import Tool
from flux_tasks.errors import InvalidRequest, Problem, nearest
from pipelines.language.actions import Action, image_inputs
from pipelines.language.expect import Expect
from pipelines.language.graph import cycle
from pipelines.language.model import Source, Step
from pipelines.language.names import RESERVED, SOURCE
from pipelines.language.options import OnFailure, Preserve
from pipelines.language.reading.includes import GATE, Include, expanded
from pipelines.language.reading.parameters import StepChecks
from pipelines.language.reading.parsed_step import ParsedStep
from pipelines.language.reading.problems import Path, ProblemCollector
from pipelines.operations import user_function
from pipelines.operations.base import ImageInput
from pipelines.operations.registry import OPERATIONS

__all__ = ["STEP_KEYS", "StepReader"]

STEP_KEYS = ("id", "from", "when", "matrix", "vars", "expect", "on_failure", "preserve", "save", "with")
"""What stands beside a step's name and parameters."""


class StepReader:
    """Reads the list of steps.

    Args:
        names: what every template of an item knows.
        include: reads another recipe, for ``recipe:``.
    """

    def __init__(self, findings: ProblemCollector, names: set[str], source: Source | None, include: Include) -> None:
        self._say = findings.say
        self._findings = findings
        self._names = names
        self._include = include
        self.checks = StepChecks(findings, names, source)
        self._stands_for: dict[str, str] = {}
        self._drafts: list[ParsedStep] = []
        self._broken: set[str] = set()
        """Ids of steps that are not understood."""
        self.is_whole = True
        """Whether every step and every id was understood, so that it can be told which steps lead nowhere."""

    def steps(self, data: Any) -> tuple[Step, ...]:
        """The steps; what is wrong with them is in the findings."""
        if not isinstance(data, list) or not data:
            self._say(("steps",), "is not a list of steps: write '- deblur: {}' and so on")
            return ()
        expansion = expanded(data, self._include, self._findings)
        self._stands_for = expansion.stands_for
        self._broken = set(expansion.broken)
        self.is_whole = not self._broken
        drafts = self._drafts
        for given, path, comes_from in expansion.steps:
            draft = self._draft(given, path, drafts)
            if draft is None:
                self.is_whole = False
                self._broken |= {str(given["id"])} if isinstance(given, dict) and "id" in given else set()
                continue
            draft.comes_from = comes_from
            drafts.append(draft)
        gives = self._connect(drafts)
        circle = cycle([d.step for d in drafts])
        if circle:
            way = " → ".join((*(s.id for s in circle), circle[0].id))
            at = next(d.path for d in drafts if d.step is circle[0])
            what = f"goes round in a circle, {way}: take one of these out of the other's from or parameters"
            alone = f"'{circle[0].id}' feeds itself: name another step, or source"
            self._say(at, what if len(circle) > 1 else alone)
        for draft in drafts:
            self.checks.check(draft, {d.step.id: d.step for d in drafts}, gives)
        if not circle:
            self.checks.axes(drafts)
        return tuple(d.step for d in drafts)

    def unused(self, outputs: Sequence[str]) -> None:
        """Tell of steps that lead to no output."""
        if self.is_whole:
            self.checks.unused(self._drafts, outputs)

    def idle(self) -> None:
        """Tell of names that are varied and change nothing."""
        self.checks.idle(self._drafts)

    # -- one step by itself ---------------------------------------------------------------------------------------

    def _draft(self, data: Any, path: Path, earlier: Sequence[ParsedStep]) -> ParsedStep | None:
        if isinstance(data, str):
            data = {data: {}}
        names = [key for key in data if key not in STEP_KEYS] if isinstance(data, dict) else []
        if not isinstance(data, dict) or not names:
            self._say(path, f"{data!r} is not a step: write a tool and its parameters, such as 'deblur: {{}}'")
            return None
        name, extra = str(names[0]), names[1:]
        for key in extra:
            hint = nearest(str(key), STEP_KEYS)
            beside = ", ".join(STEP_KEYS)
            self._say((*path, key), f"a step has one tool, and beside it {beside}{hint}; indent parameters below it")
        taken = {d.step.id for d in earlier}
        if name == "call":
            found = self._call(data, path)
        else:
            if "with" in data:
                self._say((*path, "with"), f"belongs to call: write what {name} is given below it")
            found = self._named(name, data[names[0]], data, path)
        if found is None:
            return None
        task, action, parameters = found
        step = Step(
            self._id(data, task, action, path, taken),
            task,
            action,
            parameters,
            matrix=self._matrix(data.get("matrix"), path),
            vars=self._vars(data.get("vars"), path),
            expect=self._expect(data, path),
            on_failure=self._on_failure(data, path),
            preserve=self._preserve(data.get("preserve"), path),
            save=self._save(data.get("save"), path),
            position=len(earlier),
        )
        return ParsedStep(data, name, path, step)

    def _named(
        self, name: str, given: Any, data: Mapping[str, Any], path: Path
    ) -> tuple[str, Action, dict[str, Any]] | None:
        given = given if given is not None else {}
        if not isinstance(given, dict):
            self._say((*path, name), f"{given!r} is not a mapping of parameters")
            return None
        word = name.replace("-", "_")
        if word in OPERATIONS:
            return word, OPERATIONS[word], dict(given)
        parameters = dict(given)
        varied = data.get("matrix")
        models = varied.get("model") if isinstance(varied, dict) else None
        model = models[0] if isinstance(models, list) and models else parameters.get("model")
        try:
            tool = catalog.tool(name, model, where=".".join(map(str, (*path, name))))
        except InvalidRequest as error:
            for problem in error.problems:
                at = (*path, name)
                if problem.where.endswith(".model"):
                    at = (*path, "matrix", "model", 0) if isinstance(models, list) and models else (*at, "model")
                close = nearest(word, OPERATIONS)
                there = f"; there are {', '.join((*catalog.TASKS, *OPERATIONS, 'call, recipe'))}"
                is_told = "did you mean" in problem.what or problem.where.endswith(".model")
                self._say(at, problem.what + ("" if is_told else close or there))
            if word not in catalog.MODELS:
                return None
            tool = catalog.tool(word)  # so that what else is wrong is told, too
            varied = {**(varied or {}), "model": [tool.name]} if models else varied
        task = word if word in catalog.TASKS else tool.task
        if task in catalog.MODELS and "model" not in (varied or {}):
            parameters["model"] = tool.name
        return task, tool, parameters

    def _call(self, data: Mapping[str, Any], path: Path) -> tuple[str, Action, dict[str, Any]] | None:
        given = data.get("with") or {}
        if not isinstance(given, dict):
            self._say((*path, "with"), f"{given!r} is not a mapping of parameters")
            given = {}
        reference = self._findings.text(data["call"], (*path, "call"), "package.module:function")
        if not reference:
            return None
        try:
            return "call", user_function.load(reference), dict(given)
        except InvalidRequest as error:
            for problem in error.problems or (Problem("", str(error)),):
                self._say((*path, "call"), problem.what)
            return None

    def _id(self, data: Mapping[str, Any], task: str, action: Action, path: Path, taken: set[str]) -> str:
        base = action.reference.rpartition(":")[2].rpartition(".")[2] if task == "call" else task  # type: ignore[union-attr]
        chosen = data.get("id")
        if chosen is None:
            number = 2
            name = base
            while name in taken or name == SOURCE:
                name, number = f"{base}_{number}", number + 1
            return name
        if not isinstance(chosen, str) or not chosen.replace("-", "_").isidentifier():
            self._say((*path, "id"), f"{chosen!r} is not an id: write a plain word")
        elif chosen == SOURCE:
            self._say((*path, "id"), "'source' is what the item's own picture is called: choose another id")
        elif chosen in taken or chosen in self._stands_for:
            self._say((*path, "id"), f"'{chosen}' is the id of an earlier step, too: choose another")
        else:
            return chosen
        return f"{base}_{path[-1]}"

    def _matrix(self, data: Any, path: Path) -> dict[str, tuple[Any, ...]]:
        if data is None:
            return {}
        at = (*path, "matrix")
        if not isinstance(data, dict) or not data:
            self._say(at, f"{data!r} is not a mapping of names to lists: write, for one, {{seed: [1, 2, 3]}}")
            return {}
        found: dict[str, tuple[Any, ...]] = {}
        for name, values in data.items():
            if not str(name).isidentifier() or name in self._names or name in RESERVED:
                self._say((*at, name), f"'{name}' is taken, or not a plain word: call what is varied otherwise")
            elif not isinstance(values, list) or not values:
                what = "is empty" if values == [] else f"{values!r} is not a list of values"
                self._say((*at, name), f"{what}: write its values, such as [1, 2, 3]")
            elif len({repr(value) for value in values}) != len(values):
                self._say((*at, name), "has a value twice, and each would be paid for: keep one")
            else:
                found[str(name)] = tuple(values)
        return found

    def _vars(self, data: Any, path: Path) -> dict[str, Any]:
        if data is None:
            return {}
        if not isinstance(data, dict):
            self._say((*path, "vars"), f"{data!r} is not a mapping of names to values")
            return {}
        return {str(name): value for name, value in data.items()}

    def _expect(self, data: Mapping[str, Any], path: Path) -> Expect | None:
        if data.get("expect") is None:
            return None
        found, problems = Expect.read(data["expect"], where=".".join(map(str, (*path, "expect"))))
        self._findings.say_all(problems)
        return found

    def _on_failure(self, data: Mapping[str, Any], path: Path) -> OnFailure:
        given, at = data.get("on_failure"), (*path, "on_failure")
        if given is None:
            return OnFailure()
        if data.get("expect") is None:
            self._say(at, "belongs to expect, which is not there: say what is expected of the result")
        if given in ("fail", "keep"):
            return OnFailure(then=given)
        if not isinstance(given, dict):
            self._say(at, f"{given!r} is not one of fail, keep, or {{retry_with: {{seed: 2}}}}")
            return OnFailure()
        self._findings.mapping(given, at, ("retry_with", "then"))
        tries = given.get("retry_with")
        tries = [tries] if isinstance(tries, dict) else tries
        if not isinstance(tries, list) or not tries or not all(isinstance(t, dict) and t for t in tries):
            self._say((*at, "retry_with"), f"{tries!r} is not changed parameters: write {{seed: 2}}, or a list of such")
            tries = []
        if len(tries) > 10:
            self._say((*at, "retry_with"), f"{len(tries)} further tries; each may be paid for: write at most 10")
        then = given.get("then", "fail")
        if then not in ("fail", "keep"):
            self._say((*at, "then"), f"{then!r} is not one of fail, keep")
            then = "fail"
        return OnFailure(tuple(tries), then)

    def _preserve(self, data: Any, path: Path) -> Preserve | None:
        if data is None or data is False:
            return None
        if data is True:
            return Preserve()
        at = (*path, "preserve")
        if not isinstance(data, dict):
            self._say(at, f"{data!r} is neither true nor {{feather: 2}}: write one of these")
            return None
        feather = self._findings.mapping(data, at, ("feather",)).get("feather", 0)
        if isinstance(feather, bool) or not isinstance(feather, (int, float)) or not 0 <= feather <= 100:
            self._say((*at, "feather"), f"{feather!r} is not a number of pixels from 0 to 100")
            feather = 0
        return Preserve(float(feather))

    def _save(self, data: Any, path: Path) -> str:
        if data is None:
            return ""
        return self._findings.text(data, (*path, "save"), "a template such as 'out/sharp/{{ stem }}.png'")

    # -- the steps together ---------------------------------------------------------------------------------------

    def _connect(self, drafts: Sequence[ParsedStep]) -> dict[str, str]:
        """Fill in where each step's pictures come from; returns which steps give masks, and which give images."""
        known = {d.step.id for d in drafts} | {SOURCE}
        gives: dict[str, str] = {SOURCE: "image", **self._roles(drafts)}
        gates: dict[str, str] = {}
        for index, draft in enumerate(drafts):
            if draft.comes_from and draft.comes_from not in gates:
                gates[draft.comes_from] = self._default(drafts[:index], ImageInput("image"), gives)[0]
            step = draft.step
            slots = image_inputs(step.action, step.task)
            main = next((slot for slot in slots.values() if slot.is_primary), None)
            fed = {name: self._refs(value, (*draft.at, name), known, gates) for name, value in step.parameters.items()}
            given = draft.data.get("from")
            if given is None:
                inputs = () if main is None else self._default(drafts[:index], main, gives)
            else:
                inputs = self._from(given, draft, main, slots, known, gates)
            draft.step = replace(step, parameters=fed, inputs=inputs)
            if not isinstance(step.action, Tool):
                action = step.action.for_role("mask" if inputs and gives.get(inputs[0]) == "mask" else "image")
                draft.step = replace(draft.step, action=action)
        return gives

    def _roles(self, drafts: Sequence[ParsedStep]) -> dict[str, str]:
        """Which steps give images and which masks; one that gives what it gets may stand before what feeds it."""
        by_id = {draft.step.id: number for number, draft in enumerate(drafts)}
        roles: dict[int, Literal["image", "mask"]] = {-1: "image"}
        for number in range(len(drafts)):
            way = [number]
            while (last := way[-1]) not in roles:
                action = drafts[last].step.action
                if isinstance(action, Tool) or action.output_kind != "same":
                    roles[last] = "image" if isinstance(action, Tool) or action.output_kind != "mask" else "mask"
                    break
                fed = self._fed(last, drafts, by_id)
                way.append(-1 if fed in way else fed)
            for passed in way:
                roles.setdefault(passed, roles[way[-1]])
        return {draft.step.id: roles[number] for number, draft in enumerate(drafts)}

    def _fed(self, number: int, drafts: Sequence[ParsedStep], by_id: Mapping[str, int]) -> int:
        """The number of the step whose picture a step gets; -1 for the source."""
        given = drafts[number].data.get("from")
        first = given[0] if isinstance(given, list) and given else given
        if first is None:
            return number - 1
        return by_id.get(self._stands_for.get(first, first), -1) if isinstance(first, str) else -1

    def _refs(self, value: Any, path: Path, known: set[str], gates: Mapping[str, str]) -> Any:
        """``value`` with the ids of recipes that are used as steps replaced; unknown ids are told."""
        if isinstance(value, list):
            return [self._refs(inner, (*path, index), known, gates) for index, inner in enumerate(value)]
        if not isinstance(value, dict) or "step" not in value:
            return value
        return {**value, "step": self.known_id(value["step"], (*path, "step"), known, gates)}

    def known_id(self, name: Any, path: Path, known: set[str], gates: Mapping[str, str] | None = None) -> str:
        """The id that ``name`` means; an unknown one is told."""
        if isinstance(name, str):
            if gates and name.startswith(GATE):
                return gates.get(name.removeprefix(GATE), SOURCE)
            meant = self._stands_for.get(name, name)
            if meant in known:
                return meant
        name = name if isinstance(name, str) else repr(name)
        ids = sorted((known | self._stands_for.keys()) - {SOURCE})
        hint = nearest(name, ids) or f"; there are {', '.join((*ids, SOURCE))}"
        self.is_whole = False
        if name not in self._broken:
            self._say(path, f"there is no step '{name}'{hint}")
        return ""

    def _default(self, earlier: Sequence[ParsedStep], main: ImageInput, gives: Mapping[str, str]) -> tuple[str, ...]:
        """Without ``from``: the nearest step before that gives what is due, else the source."""
        if main.many:
            return ()
        for draft in reversed(earlier):
            if main.role in ("any", gives[draft.step.id]):
                return (draft.step.id,)
        return (SOURCE,)

    def _from(
        self,
        given: Any,
        draft: ParsedStep,
        main: ImageInput | None,
        slots: Mapping[str, ImageInput],
        known: set[str],
        gates: Mapping[str, str],
    ) -> tuple[str, ...]:
        at = (*draft.path, "from")
        names = given if isinstance(given, list) else [given]
        found = tuple(self.known_id(name, at, known, gates) for name in names)
        if main is None:
            if found:
                self._say(at, f"{draft.name} takes no picture of another step: leave from out")
            return ()
        free = [n for n, s in slots.items() if not s.is_primary and n not in draft.step.parameters]
        if not found and main.required:
            self._say(at, f"is empty, but {draft.name} needs a picture: write the id of a step, or source")
        elif len(found) > 1 and not main.many and "references" not in slots and len(found) - 1 > len(free):
            self._say(at, f"{len(found)} pictures, but {draft.name} takes {1 + len(free)}")
        return found
