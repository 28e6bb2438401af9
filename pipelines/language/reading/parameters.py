"""Whether steps will do, once it is known what feeds them: parameters, pictures, names, matrices."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from math import prod
from typing import Any

from pydantic import ValidationError

from flux_tasks.catalog import Tool
from flux_tasks.errors import InvalidRequest, nearest
from flux_tasks.images.masks import Mask
from flux_tasks.jobs.call import mask_problems
from pipelines.language import templates
from pipelines.language.actions import image_inputs, parameter_types, tool_for
from pipelines.language.graph import ancestors, dependencies_of, is_parameter
from pipelines.language.model import Source, Step
from pipelines.language.names import IMAGE_FACTS, SOURCE
from pipelines.language.reading.parsed_step import ParsedStep
from pipelines.language.reading.problems import Path, ProblemCollector
from pipelines.operations.base import ImageInput

__all__ = ["MAX_NODES", "StepChecks"]

MAX_NODES = 10_000
"""Combinations that the matrices of one recipe may make of its steps."""

_MASK_OPTIONS = ("invert", "dilate", "resize")
_STAND_INS = {"file": "-", "alpha": True, "boxes": [(0, 0, 1, 1)]}  # for what only the item tells


class StepChecks:
    """Checks steps that have been read and connected; what is wrong goes to the findings.

    Args:
        names: what every template of an item knows.
    """

    def __init__(self, findings: ProblemCollector, names: set[str], source: Source | None) -> None:
        self._findings = findings
        self._say = findings.say
        self._names = names
        self._source = source
        self._ids: Collection[str] = ()

    def check(self, draft: ParsedStep, steps: Mapping[str, Step], gives: Mapping[str, str]) -> None:
        """One step, with its neighbours known; ``gives`` says which of them give masks."""
        self._ids = steps.keys()
        self._types(draft, gives)
        self._check(draft, steps)

    def path(self, text: str, path: Path) -> None:
        """Whether ``text`` will do as the path of results."""
        if text.startswith("file://"):
            self._say(path, "write a plain path, without file://")
        if not templates.is_template(text):
            self._say(path, f"'{text}' is one file for all items: write a template such as '{{{{ stem }}}}'")
        extension = text.rsplit(".", 1)[-1].lower() if "." in text.rsplit("/", 1)[-1] else ""
        if extension not in ("png", "jpg", "jpeg", "webp"):
            self._say(path, f"'{text}' must end in .png, .jpg, .jpeg or .webp")

    def _types(self, draft: ParsedStep, gives: Mapping[str, str]) -> None:
        """Whether masks come where masks are due, and pictures where pictures are."""
        step = draft.step
        slots = image_inputs(step.action, step.task)
        main = next((slot for slot in slots.values() if slot.is_primary), None)
        due: list[tuple[str, ImageInput, Path]] = []
        if main is not None:
            at = (*draft.path, "from") if "from" in draft.data else draft.path
            others = [s for n, s in slots.items() if not s.is_primary and n not in step.parameters]
            further = [main] * len(step.inputs) if main.many else [main, *others]
            if "references" in slots:
                further = [main] + [slots["references"]] * len(step.inputs)
            due += [(name, slot, at) for name, slot in zip(step.inputs, further, strict=False)]
        for name, value in step.parameters.items():
            for inner in value if isinstance(value, list) else (value,):
                if name in slots and isinstance(inner, dict) and "step" in inner:
                    due.append((inner["step"], slots[name], (*draft.at, name)))
        for name, slot, at in due:
            if name not in gives:  # told as unknown
                continue
            kind = gives[name]
            if name == SOURCE and self._source is not None and not self._source.has_pictures:
                self._say(at, f"{draft.name} needs a picture, but the source's rows have none: write source.image")
            elif slot.role == "mask" and kind == "image":
                what = "the source" if name == SOURCE else f"'{name}'"
                remedy = "make one of it with mask_from_alpha, mask_from_color or mask_from_boxes"
                self._say(at, f"{what} gives an image where a mask is due: {remedy}")
            elif slot.role == "image" and kind == "mask":
                remedy = "write the id of a step that gives an image"
                self._say(at, f"'{name}' gives a mask where an image is due: {remedy}")

    # -- parameters -----------------------------------------------------------------------------------------------

    def _check(self, draft: ParsedStep, steps: Mapping[str, Step]) -> None:
        step, path = draft.step, draft.path
        names = self._names | set(step.vars)
        for name in (step.id, *ancestors(step.id, steps)):
            names |= steps[name].matrix.keys() if name in steps else set()
        names.add("variant")
        self._findings.templates_within(dict(step.vars), (*path, "vars"), self._names)
        self._findings.templates_within({n: list(v) for n, v in step.matrix.items()}, (*path, "matrix"), names)
        if step.save:
            if any(other.save == step.save and other.position < step.position for other in steps.values()):
                self._say((*path, "save"), f"'{step.save}' is where an earlier step is saved, too: choose another path")
            self._findings.template(step.save, (*path, "save"), names)
            self.path(step.save, (*path, "save"))
            axes = [n for i in (step.id, *ancestors(step.id, steps)) if i in steps for n in steps[i].matrix]
            self.covers(step.save, axes, (*path, "save"))
        slots = image_inputs(step.action, step.task)
        self._parameters(draft, slots, names)
        facts = {*names, *IMAGE_FACTS, *(f"{name}_{fact}" for name in names for fact in ("exists", "coverage"))}
        if any(slot.role == "mask" for slot in slots.values()):
            facts |= {"mask_exists", "mask_coverage"}
        when = self._findings.expression(draft.data.get("when"), (*path, "when"), facts)
        draft.step = replace(step, when=when)
        has_mask = isinstance(step.action, Tool) and any(slot.role == "mask" for slot in slots.values())
        if step.preserve is not None and not has_mask:
            self._say((*path, "preserve"), f"{draft.name} has no mask: leave preserve out")
        if step.expect is not None and step.expect.needs_mask and not has_mask:
            self._say((*path, "expect"), f"{draft.name} has no mask: leave drift and changed out")
        if step.expect is not None and step.expect.needs_before and not step.inputs:
            self._say((*path, "expect"), f"{draft.name} has no input to compare its result with")

    def _parameters(self, draft: ParsedStep, slots: Mapping[str, ImageInput], names: set[str]) -> None:
        step, at = draft.step, draft.at
        action = step.action
        parameters = dict(step.parameters)
        for name, value in parameters.items():
            self._findings.templates_within(value, (*at, name), names)
        varied = {name: values for name, values in step.matrix.items() if is_parameter(step, name)}
        for name in varied:
            if name in parameters and name != "model":
                self._say((*draft.path, "matrix", name), f"is written below {draft.name}, too: keep one")
        main = next((name for name, slot in slots.items() if slot.is_primary), None)
        fixed: dict[str, Any] = {}
        for name, value in {**parameters, **{n: v[0] for n, v in varied.items()}}.items():
            if name in ("webhook_url", "webhook_secret"):
                self._say((*at, name), "a recipe waits for its jobs: leave the webhook out")
            elif name == main or (isinstance(action, Tool) and name in ("image", action.image_field)):
                self._say((*at, name), "comes from the step before: leave it out, or write from: beside the step")
            elif name in slots:
                self._picture(value, slots[name], (*at, name))
            elif name not in ("fit", "variant", "model") or not isinstance(action, Tool):
                fixed[name] = self._findings.constant(value, step.vars)
        self._missing(draft, slots, {*parameters, *varied})
        if "references" in slots and isinstance(action, Tool):
            self._count(draft, [action] if "model" not in varied else self._tools(step, varied["model"]))
        self._values(draft, fixed, parameters)
        for name, values in varied.items():
            if name in slots:
                for index, value in enumerate(values):
                    self._picture(value, slots[name], (*draft.path, "matrix", name, index))
            elif name == "model":
                self._models(step, values, (*draft.path, "matrix", "model"))
            else:
                for index, value in enumerate(values):
                    changed = {**fixed, name: self._findings.constant(value, step.vars)}
                    self._changed(step, changed, {name: (*draft.path, "matrix", name, index)})
        for index, tried in enumerate(step.on_failure.retries):
            where = (*draft.path, "on_failure", "retry_with")
            where = (*where, index) if isinstance(draft.data["on_failure"].get("retry_with"), list) else where
            self._findings.templates_within(dict(tried), where, names)
            known = {n: self._findings.constant(v, step.vars) for n, v in tried.items()}
            places = {name: (*where, name) for name in tried}
            for name in set(tried) & {*slots, "model"}:
                self._say(places[name], "cannot be changed on a retry: change parameters such as seed or mode")
            self._changed(step, {**fixed, **{n: v for n, v in known.items() if n not in (*slots, "model")}}, places)

    def _count(self, draft: ParsedStep, tools: Sequence[Tool]) -> None:
        """Whether there are not more pictures than the tools take."""
        step, listed = draft.step, draft.step.parameters.get("references", [])
        if templates.is_template(listed):
            return
        named = sum(name in step.parameters for name in step.tool.image_fields)
        count = len(step.inputs) + named + (len(listed) if isinstance(listed, list) else 1)
        at = (*draft.at, "references") if "references" in step.parameters else (*draft.path, "from")
        for tool in tools:
            most = sum(mark.role != "mask" for mark in tool.image_fields.values())
            if count > most:
                self._say(at, f"{count} pictures in all, but {tool.name} takes {most}")

    def _tools(self, step: Step, models: Sequence[Any]) -> list[Tool]:
        found: list[Tool] = []
        for model in models:
            with suppress(InvalidRequest):  # told elsewhere
                found.append(tool_for(step.task, {"model": model}))
        return found

    def _models(self, step: Step, values: Sequence[Any], at: Path) -> None:
        for index, value in enumerate(values):
            try:
                tool = tool_for(step.task, {"model": value})
            except InvalidRequest as error:
                for problem in error.problems:
                    self._say((*at, index), problem.what)
                continue
            known = {"fit", "variant", "model", *tool.parameters, *image_inputs(tool, step.task)}
            for name in step.parameters.keys() - known:
                self._say((*at, index), f"{tool.name} has no parameter {name}, which this step is given")

    def _missing(self, draft: ParsedStep, slots: Mapping[str, ImageInput], given: set[str]) -> None:
        """Whether every picture that is needed is said."""
        step = draft.step
        action = step.action
        fed = len(step.inputs) - 1 if step.inputs else 0
        free = [name for name, slot in slots.items() if not slot.is_primary and name not in given]
        given = given | set(free[: max(fed, 0)])
        at = draft.at if step.parameters or draft.data.get(draft.name) is not None else draft.path
        if isinstance(action, Tool):
            at = (*draft.path, draft.name)
        for name, slot in slots.items():
            if slot.is_primary or name in given:
                continue
            if isinstance(action, Tool) and slot.role == "mask":
                alpha = "" if slot.required else ", or {alpha: true} for the transparent part of the image"
                self._say(at, f"needs {name}: write the path of a mask{alpha}")
            elif slot.required:
                kind = "a mask" if slot.role == "mask" else "an image"
                self._say(at, f"needs {name}: write the path of {kind}, or {{step: id}}")
        main = next((name for name, slot in slots.items() if slot.is_primary and slot.many), None)
        if main and len(step.inputs) < 2:
            self._say(draft.path, f"needs two or more {main}: write their ids, from: [one, other]")

    def _values(self, draft: ParsedStep, fixed: dict[str, Any], parameters: Mapping[str, Any]) -> None:
        """Whether the values of parameters will do, as far as they are known."""
        action, at = draft.step.action, draft.at
        where = ".".join(map(str, at))
        if isinstance(action, Tool):
            shapes = {"width", "height"} if action.options.model_fields else set()
            has_canvas = bool(shapes & fixed.keys()) or any(n in fixed for n in ("aspect_ratio", "expand"))
            if shapes and not has_canvas:
                self._say(at, "says no canvas: write aspect_ratio, expand, or width and height")
            missing_canvas = shapes if not shapes & fixed.keys() else set()
            variant = parameters.get("variant", 0)
            if not templates.is_template(variant) and (isinstance(variant, bool) or not isinstance(variant, int)):
                self._say((*at, "variant"), f"{variant!r} is not a whole number")
            fit = parameters.get("fit", "error")
            if fit not in ("error", "downscale") and not templates.is_template(fit):
                self._say((*at, "fit"), f"{fit!r} is not one of error, downscale")
        else:
            missing_canvas = set()
        known = parameter_types(action)
        for problem in action.check(fixed, where=where):
            rest = problem.where.removeprefix(where).strip(".").split(".")
            name = rest[0]
            is_open = name in fixed and name in known and _is_open(fixed[name], rest[1:])
            is_left_out = name in missing_canvas and name not in fixed
            if not is_open and not is_left_out:
                self._say((*at, *rest) if name else at, problem.what)

    def _changed(self, step: Step, parameters: Mapping[str, Any], places: Mapping[str, Path]) -> None:
        """Whether changed values will do; what is wrong with the others has been told."""
        known = parameter_types(step.action)
        for problem in step.action.check(parameters, where="x"):
            name = problem.where.removeprefix("x.").split(".")[0]
            rest = problem.where.removeprefix("x.").split(".")[1:]
            if name in places and not (name in known and _is_open(parameters.get(name), rest)):
                self._say(places[name], problem.what)

    def _picture(self, value: Any, slot: ImageInput, path: Path) -> None:
        """Whether ``value`` will do as a picture: a path, ``{step: id}``, or the description of a mask."""
        if slot.many and isinstance(value, list):
            for index, inner in enumerate(value):
                self._picture(inner, replace(slot, many=False), (*path, index))
        elif isinstance(value, dict) and "step" in value:
            self._findings.mapping(value, path, ("step", *(_MASK_OPTIONS if slot.role == "mask" else ())))
            if slot.role == "mask":
                self._mask({**{n: v for n, v in value.items() if n in _MASK_OPTIONS}, "file": "-"}, path)
        elif slot.role == "mask" and isinstance(value, dict):
            self._mask(value, path)
        elif not isinstance(value, str) or not value:
            self._say(path, f"{value!r} is not a picture: write a path, or {{step: id}} for another step's result")
        elif value in self._ids:
            self._say(
                path, f"'{value}' is the id of a step: write {{step: {value}}} for its result, or ./{value} for a file"
            )

    def _mask(self, data: dict[str, Any], path: Path) -> None:
        known = {name: _STAND_INS.get(name) if _has_template(value) else value for name, value in data.items()}
        try:
            Mask.of({name: value for name, value in known.items() if value is not None or data[name] is None})
        except ValidationError as error:
            where = ".".join(map(str, path))
            for problem in mask_problems(error, where):
                rest = problem.where.removeprefix(where).strip(".").split(".")
                self._say((*path, *rest), problem.what, problem.where)

    # -- matrices -------------------------------------------------------------------------------------------------

    def axes(self, drafts: Sequence[ParsedStep]) -> None:
        """Whether no name is varied twice on one way, and whether there are not too many combinations."""
        steps = {d.step.id: d.step for d in drafts}
        total = 0
        for draft in drafts:
            lineage = {draft.step.id, *ancestors(draft.step.id, steps)}
            by_name: dict[str, list[str]] = {}
            for other in drafts:
                if other.step.id in lineage:
                    for name in other.step.matrix:
                        by_name.setdefault(name, []).append(other.step.id)
            before = [{fed, *ancestors(fed, steps)} for fed in dependencies_of(draft.step)]
            for name, ids in by_name.items():
                if len(ids) > 1 and not any(len(set(ids) & way) > 1 for way in before):  # told where they meet
                    self._say(
                        (*draft.path, "matrix", name) if name in draft.step.matrix else draft.path,
                        f"'{name}' is varied by {' and '.join(ids)}: call one of them otherwise, "
                        f'such as take: […] with {name}: "{{{{ take }}}}"',
                    )
            count = prod(len(values) for o in drafts if o.step.id in lineage for values in o.step.matrix.values())
            total += count
            if total > MAX_NODES:
                self._say(draft.path, f"the matrices make more than {MAX_NODES:,} combinations of steps: vary less")
                return

    def unused(self, drafts: Sequence[ParsedStep], outputs: Sequence[str]) -> None:
        """Tell of steps that lead to none of ``outputs`` and are not saved."""
        by_id = {draft.step.id: draft.step for draft in drafts}
        used: set[str] = set()
        for end in (*outputs, *(step.id for step in by_id.values() if step.save)):
            used |= {end, *ancestors(end, by_id)}
        for draft in drafts:
            if draft.step.id not in used:
                remedy = "name it in output, in another step's from, or save it"
                self._say(draft.path, f"'{draft.step.id}' leads to no output: {remedy}")

    def idle(self, drafts: Sequence[ParsedStep]) -> None:
        """Tell of names that are varied and that neither a parameter nor a template has: each value is the same job."""
        for draft in drafts:
            for name in draft.step.matrix:
                if name not in self._findings.used and not is_parameter(draft.step, name):
                    hint = nearest(name, parameter_types(draft.step.action))
                    what = f"is no parameter of {draft.name}, and no template uses it{hint}: every value gives the same"
                    self._say((*draft.path, "matrix", name), what)

    def covers(self, template: str, axes: Sequence[str], path: Path) -> None:
        """Whether a path is another one for every combination of what is varied."""
        if templates.syntax_problem(template, "") is not None:
            return
        used = templates.names_in(template)
        missing = sorted(set(axes) - used)
        if missing and "variant" not in used:
            what = f"'{template}' is one file for every {', '.join(missing)}: write {{{{ variant }}}} into it"
            self._say(path, what)


def _is_open(value: Any, way: Sequence[str]) -> bool:
    """Whether what a problem is about is not known yet: there is a template in the part of ``value`` it leads to."""
    for key in way:
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            break
    return _has_template(value)


def _has_template(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_template, value.values()))
    if isinstance(value, list):
        return any(map(_has_template, value))
    return templates.is_template(value)
