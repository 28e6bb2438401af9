"""Check steps, once it is known what feeds them: parameters, pictures, names, options that do not suit a step."""

import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from flux_tasks.catalog import Tool
from flux_tasks.catalog.fields import EXTENSIONS, WEBHOOK_FIELDS
from flux_tasks.catalog.signatures import CALL_OPTIONS
from flux_tasks.errors import InvalidRequest, listed, quote, shown
from flux_tasks.images.masks import Mask, mask_problems
from pipelines.language import templates
from pipelines.language.document.annotations import MaskLabels
from pipelines.language.document.fields import as_tuple
from pipelines.language.document.recipe import Source
from pipelines.language.graph import is_parameter
from pipelines.language.model import image_inputs, parameter_types, tool_for
from pipelines.language.names import IMAGE_FACTS, MASK_FACTS, SOURCE
from pipelines.language.reading.links import LinkedStep, Links, axes_of
from pipelines.language.reading.problems import Path, ProblemCollector, check_keys, read_part
from pipelines.language.reading.scope import Scope, check_condition, check_template, check_templates
from pipelines.operations.base import ImageInput, primary_of

_SAME_PLACES = ("deblur", "erase", "fill", "fill_finetuned", "edit")  # their results show what the input shows
_MASK_OPTIONS = ("invert", "dilate", "resize")
_EXAMPLES = {"file": "-", "alpha": True, "boxes": [(0, 0, 1, 1)]}  # in the place of what only the item tells


def check_step(linked: LinkedStep, links: Links, scope: Scope, source: Source | None) -> None:
    """Check one step, with its neighbours known; ``scope`` is what every template of an item knows."""
    check = _StepCheck(linked, links, scope)
    check.inputs(source)
    check.templates()
    check.options()
    check.parameters()
    check.condition()


def check_path(text: str, path: Path, problems: ProblemCollector) -> None:
    """Check whether ``text`` can be the path of results."""
    if text.startswith("file://"):
        problems.add(path, "write a plain path, without file://")
    if not templates.is_template(text):
        problems.add(path, f"{quote(text)} is one file for all items: write a template such as '{{{{ stem }}}}'")
    extension = text.rsplit(".", 1)[-1].lower() if "." in text.rsplit("/", 1)[-1] else ""
    if extension not in EXTENSIONS:
        *others, last = (f".{name}" for name in EXTENSIONS)
        problems.add(path, f"{quote(text)} must end in {', '.join(others)} or {last}")


def check_variants(template: str, axes: Collection[str], path: Path, problems: ProblemCollector) -> None:
    """Check that a path is another one for every combination of what is varied."""
    if templates.syntax_problem(template, "") is not None:
        return
    used = templates.names_in(template)
    missing = sorted(set(axes) - used)
    if missing and "variant" not in used:
        what = f"{quote(template)} is one file for every {listed(missing)}: write {{{{ variant }}}} into it"
        problems.add(path, what)


class _WrittenMask(Mask):
    """A mask as a recipe has it: a number in quotes is a mistake there, as it is for parameters."""

    model_config = ConfigDict(strict=True)

    @field_validator("boxes", mode="before")
    @classmethod
    def _as_boxes(cls, value: Any) -> Any:
        return tuple(map(as_tuple, value)) if isinstance(value, list) else value


class _StepCheck:
    def __init__(self, linked: LinkedStep, links: Links, scope: Scope) -> None:
        self._parsed = linked.parsed
        self._step = step = linked.step
        self._path, self._at = linked.parsed.path, linked.parsed.at
        self._problems, self._add = links.problems, links.problems.add
        self._kinds, self._steps = links.kinds, links.by_id
        self._outer = scope
        self._axes = axes_of(step.id, links)
        self._scope = scope.plus((*step.vars, *self._axes, "variant"))
        self._inputs = image_inputs(step.action, step.task)
        self._primary = primary_of(self._inputs)
        self._has_mask = any(one.role == "mask" for one in self._inputs.values())
        self._varied = {name: values for name, values in step.matrix.items() if is_parameter(step, name)}

    def inputs(self, source: Source | None) -> None:
        """Check whether the step gets masks where it needs masks, and images where it needs images."""
        name = self._parsed.name
        for fed, needed, at in self._fed():
            kind = self._kinds.get(fed)  # None for an id that is not known, which has been reported
            if kind is not None and fed == SOURCE and source is not None and not source.has_pictures:
                self._add(at, f"{name} needs a picture, but the source's rows have none: write source.image")
            elif needed.role == "mask" and kind == "image":
                what = "the source" if fed == SOURCE else quote(fed)
                remedy = "make a mask of it with mask_from_alpha, mask_from_color or mask_from_boxes"
                self._add(at, f"{what} gives an image where a mask is needed: {remedy}")
            elif needed.role == "image" and kind == "mask":
                remedy = "write the id of a step that gives an image"
                self._add(at, f"{quote(fed)} gives a mask where an image is needed: {remedy}")

    def _fed(self) -> Iterator[tuple[str, ImageInput, Path]]:
        """Yield each step that feeds this one, what is needed of it, and where that is written."""
        step = self._step
        if self._primary is not None:
            primary = self._inputs[self._primary]
            at = (*self._path, "from") if self._parsed.options.inputs is not None else self._path
            others = [one for name, one in self._inputs.items() if not one.is_primary and name not in step.parameters]
            needed = [primary] * len(step.inputs) if primary.many else [primary, *others]
            if "references" in self._inputs:
                needed = [primary] + [self._inputs["references"]] * len(step.inputs)
            yield from ((name, one, at) for name, one in zip(step.inputs, needed, strict=False))
        for name, value in step.parameters.items():
            for inner in value if isinstance(value, list) else (value,):
                if name in self._inputs and isinstance(inner, dict) and "step" in inner:
                    yield inner["step"], self._inputs[name], (*self._at, name)

    def templates(self) -> None:
        """Check the templates of options and parameters."""
        step = self._step
        check_templates(step.vars, (*self._path, "vars"), self._outer, self._problems)
        check_templates(step.matrix, (*self._path, "matrix"), self._scope, self._problems)
        for name, value in step.parameters.items():
            check_templates(value, (*self._at, name), self._scope, self._problems)

    def options(self) -> None:
        """Check whether the options suit the step."""
        step, name, path = self._step, self._parsed.name, self._path
        if step.save:
            at = (*path, "save")
            if any(other.save == step.save and other.position < step.position for other in self._steps.values()):
                self._add(at, f"{quote(step.save)} is where an earlier step is saved, too: choose another path")
            check_template(step.save, at, self._scope, self._problems)
            check_path(step.save, at, self._problems)
            check_variants(step.save, self._axes, at, self._problems)
        if step.require_mask and not self._has_mask:
            self._add((*path, "require_mask"), f"{name} has no mask: leave require_mask out")
        expect, is_masked = step.expect, self._has_mask and step.is_paid
        has_canvas = isinstance(step.action, Tool) and step.action.has_canvas
        if step.preserve is not None and not is_masked and not has_canvas:
            self._add((*path, "preserve"), f"{name} has no mask: leave preserve out")
        if step.match_colour and not is_masked:
            self._add((*path, "match_colour"), f"{name} has no mask: leave match_colour out")
        if step.transport and not step.is_paid:
            self._add((*path, "transport"), f"{name} sends no pictures: leave transport out")
        elif step.transport == "url" and not any(one.url for one in step.tool.image_fields.values()):
            self._add((*path, "transport"), f"{name} takes pictures as bytes only: leave transport out")
        compared = {"align": step.align, "shift": expect is not None and expect.shift is not None}
        for what in (what for what, is_asked in compared.items() if is_asked and step.task not in _SAME_PLACES):
            where = (*path, "expect") if what == "shift" else (*path, what)
            self._add(where, f"what {name} makes is not where it was in its input: leave {what} out")
        if expect is not None and expect.needs_mask and not is_masked:
            self._add((*path, "expect"), f"{name} has no mask: leave drift and changed out")
        if expect is not None and expect.needs_before and not step.inputs:
            what = f"{name} has no input picture to compare its result with: leave such expectations out"
            self._add((*path, "expect"), what)

    def condition(self) -> None:
        """Check conditions, which know more than templates: facts of pictures and masks."""
        masks = [*self._scope.names, *(("mask",) if self._has_mask else ())]
        facts = [f"{name}_{fact}" for name in masks for fact in MASK_FACTS]
        scope = self._scope.plus((*IMAGE_FACTS, *facts))
        for name, text in (("when", self._step.when), ("require_mask", self._step.require_mask)):
            if text:
                check_condition(text, (*self._path, name), scope, self._problems)

    def parameters(self) -> None:
        """Check the parameters, as far as they are known now; also those of a matrix and of further tries."""
        step, at = self._step, self._at
        for name in self._varied:
            if name in step.parameters and name != "model":
                self._add((*self._path, "matrix", name), f"is written below {self._parsed.name}, too: keep one")
        primaries: tuple[str | None, ...] = (self._primary,)
        if (
            isinstance(step.action, Tool) and self._primary is not None
        ):  # not of generate, whose pictures are parameters
            primaries = ("image", step.action.image_field)
        fixed: dict[str, Any] = {}
        for name, value in {**step.parameters, **{n: v[0] for n, v in self._varied.items()}}.items():
            if name in WEBHOOK_FIELDS:
                self._add((*at, name), "a recipe waits for its jobs: leave the webhook out")
            elif name in primaries:
                self._add((*at, name), "comes from the step before: leave it out, or write from: beside the step")
            elif name in self._inputs:
                self._picture(value, self._inputs[name], (*at, name))
            elif name not in CALL_OPTIONS or not step.is_paid:
                fixed[name] = self._scope.filled(value, step.vars)
        self._missing()
        self._count()
        self._values(fixed)
        self._matrix(fixed)
        self._tries(fixed)

    def _missing(self) -> None:
        """Check whether every picture that is needed is given."""
        step, at = self._step, self._at
        given = {*step.parameters, *self._varied}
        free = [name for name, one in self._inputs.items() if not one.is_primary and name not in given]
        given |= {*free[: max(len(step.inputs) - 1, 0)]}
        if not step.is_paid and not step.parameters and self._parsed.data.get(self._parsed.name) is None:
            at = self._path
        for name, one in self._inputs.items():
            if one.is_primary or name in given:
                continue
            if step.is_paid and one.role == "mask":
                alpha = "" if one.required else ", or {alpha: true} for the transparent part of the image"
                self._add(at, f"needs {name}: write the path of a mask{alpha}")
            elif one.required:
                kind = "a mask" if one.role == "mask" else "an image"
                self._add(at, f"needs {name}: write the path of {kind}, or {{step: id}}")
        is_short = self._primary and self._inputs[self._primary].many and len(step.inputs) < 2
        if is_short and (*self._path, "from") not in self._problems.paths:
            self._add(self._path, f"needs two or more {self._primary}: write their ids, from: [one, other]")

    def _count(self) -> None:
        """Check whether there are not more pictures than the tools take."""
        step = self._step
        many = [name for name, one in self._inputs.items() if one.many and step.is_paid]
        given = (
            {name: step.parameters[name] for name in (*many, *step.tool.image_fields) if name in step.parameters}
            if many
            else {}
        )
        if not many or any(map(templates.is_template, given.values())):
            return
        count = len(step.inputs) + sum(len(one) if isinstance(one, list) else 1 for one in given.values())
        named = next((name for name in many if name in given), None)
        at = (*self._at, named) if named else (*self._path, "from")
        for tool in self._tools():
            most = sum(mark.role != "mask" for mark in tool.image_slots.values())
            if count > most:
                self._add(at, f"{count} pictures in all, but {tool.name} takes {most}: leave some out")

    def _tools(self) -> Iterator[Tool]:
        if "model" not in self._varied:
            yield self._step.tool
        for model in self._varied.get("model", ()):
            with suppress(InvalidRequest):  # reported by _models
                yield tool_for(self._step.task, {"model": model})

    def _values(self, fixed: dict[str, Any]) -> None:
        """Check the values of parameters, as far as they are known."""
        step, at = self._step, self._at
        missing_canvas: set[str] = set()
        if isinstance(step.action, Tool):
            shapes = {"width", "height"} if step.action.has_canvas else set()
            if shapes and not any(name in fixed for name in (*shapes, "aspect_ratio", "expand")):
                self._add(at, "has no canvas: write aspect_ratio, expand, or width and height")
            missing_canvas = set() if shapes & fixed.keys() else shapes
            variant, fit = step.parameters.get("variant", 0), step.parameters.get("fit", "error")
            if not templates.is_template(variant) and (isinstance(variant, bool) or not isinstance(variant, int)):
                self._add((*at, "variant"), f"{shown(variant)} is not a whole number")
            if fit not in ("error", "downscale") and not templates.is_template(fit):
                self._add((*at, "fit"), f"{shown(fit)} is not one of error, downscale")
        for way, what in self._wrong(fixed):
            if not way or way[0] not in missing_canvas:
                self._add((*at, *way), what)

    def _matrix(self, fixed: Mapping[str, Any]) -> None:
        """Check each value of a parameter that is varied."""
        for name, values in self._varied.items():
            at = (*self._path, "matrix", name)
            if name == "model":
                self._models(values, at)
                continue
            for index, value in enumerate(values):
                if name in self._inputs:
                    self._picture(value, self._inputs[name], (*at, index))
                else:
                    changed = {**fixed, name: self._scope.filled(value, self._step.vars)}
                    self._changed(changed, {name: (*at, index)})

    def _models(self, values: Sequence[Any], at: Path) -> None:
        step = self._step
        for index, value in enumerate(values):
            try:
                tool = tool_for(step.task, {"model": value})
            except InvalidRequest as error:
                for problem in error.problems:
                    self._add((*at, index), problem.what)
                continue
            known = {*CALL_OPTIONS, *tool.parameters, *image_inputs(tool, step.task)}
            for name in step.parameters.keys() - known:
                what = f"{tool.name} has no parameter {name}, which this step sets: leave one of them out"
                self._add((*at, index), what)

    def _tries(self, fixed: Mapping[str, Any]) -> None:
        """Check the parameters of further tries."""
        retry_with = self._step.on_failure.retry_with
        is_list = retry_with and isinstance(self._parsed.data["on_failure"]["retry_with"], list)
        for index, changes in enumerate(retry_with):
            at: Path = (*self._path, "on_failure", "retry_with", *((index,) if is_list else ()))
            check_templates(changes, at, self._scope, self._problems)
            places = {name: (*at, name) for name in changes}
            unchangeable = {*self._inputs, "model"}
            for name in changes.keys() & unchangeable:
                self._add(places[name], "cannot be changed on a retry: change parameters such as seed or mode")
            filled = {n: self._scope.filled(v, self._step.vars) for n, v in changes.items() if n not in unchangeable}
            self._changed({**fixed, **filled}, places)

    def _changed(self, parameters: Mapping[str, Any], places: Mapping[str, Path]) -> None:
        """Check changed values; what is wrong with the others has been reported."""
        for way, what in self._wrong(parameters):
            if way and way[0] in places:
                self._add(places[way[0]], what)

    def _wrong(self, parameters: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yield what is wrong with parameters and the way to it, unless a template there is not filled in yet."""
        known = parameter_types(self._step.action)
        for problem in self._step.action.check(parameters, where="x"):
            name, *rest = way = tuple(problem.where.removeprefix("x").strip(".").split("."))
            is_known = name in parameters and name in known
            if not is_known or not _is_open(parameters[name], rest, known[name]):
                yield (way if name else ()), problem.what

    def _picture(self, value: Any, needed: ImageInput, path: Path) -> None:
        """Check whether ``value`` can be a picture: a path, ``{step: id}``, or the description of a mask."""
        is_mask = needed.role == "mask"
        if needed.many and isinstance(value, list):
            for index, inner in enumerate(value):
                self._picture(inner, replace(needed, many=False), (*path, index))
        elif isinstance(value, dict) and "step" in value:
            check_keys(value, ("step", *(_MASK_OPTIONS if is_mask else ())), path, self._problems)
            if is_mask:
                self._mask({**{n: v for n, v in value.items() if n in _MASK_OPTIONS}, "file": "-"}, path)
        elif is_mask and isinstance(value, dict) and "annotations" in value:
            self._labels(value, path)
        elif is_mask and isinstance(value, dict):
            self._mask(value, path)
        elif not isinstance(value, str) or not value:
            self._add(path, f"{shown(value)} is not a picture: write a path, or {{step: id}} for another step's result")
        elif value in self._steps:
            remedy = f"write {{step: {value}}} for its result, or ./{value} for a file"
            self._add(path, f"{quote(value)} is the id of a step: {remedy}")

    def _labels(self, data: dict[str, Any], path: Path) -> None:
        """Check the description of a mask that is made of labels."""
        given, at = data["annotations"], (*path, "annotations")
        if not self._scope.has_labels:
            what = "the source has no annotations: write source.annotations, the path of its labels"
            self._add(at, what)
        if self._primary is None or not self._step.inputs:
            self._add(at, f"{self._parsed.name} has no picture that labels could belong to: give it a mask file")
        if others := [name for name in _EXAMPLES if data.get(name) is not None]:
            self._add(path, f"has annotations and {listed(others)}: keep one of them")
        check_keys(data, ("annotations", "invert", "dilate", *others), path, self._problems)
        self._mask({**{n: v for n, v in data.items() if n in ("invert", "dilate")}, "file": "-"}, path)
        if not _has_template(given):
            read_part(MaskLabels, given if given is not None else {}, at, self._problems)

    def _mask(self, data: dict[str, Any], path: Path) -> None:
        """Check the description of a mask, with examples in the place of what only the item tells."""
        if data.get("file") is not None and not (isinstance(data["file"], str) and data["file"]):
            self._add((*path, "file"), f"{shown(data['file'])} is not a picture: write a path")
            return
        known = {name: _EXAMPLES.get(name) if _has_template(value) else value for name, value in data.items()}
        try:
            _WrittenMask.model_validate({n: v for n, v in known.items() if v is not None or data[n] is None})
        except ValidationError as error:
            where = ".".join(map(str, path))
            for problem in mask_problems(error, where):
                rest = problem.where.removeprefix(where).strip(".").split(".")
                self._problems.add((*path, *rest), problem.what, problem.where)


def _is_open(value: Any, way: Sequence[str], annotation: Any) -> bool:
    """Whether a template is still to be filled in where ``way`` leads, so that nothing can be said of it yet."""
    for key in way:
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            break
    return templates.is_template(value) or (_has_template(value) and _takes_containers(annotation))


def _takes_containers(annotation: Any) -> bool:
    """Whether a value of this type can be a list or a mapping."""
    origin = get_origin(annotation)
    if origin in (Annotated, Union, types.UnionType):
        return any(map(_takes_containers, get_args(annotation)))
    kind = origin or annotation
    return kind is Any or (isinstance(kind, type) and issubclass(kind, (list, tuple, dict, Mapping, BaseModel)))


def _has_template(value: Any) -> bool:
    if isinstance(value, (dict, list)):
        return any(map(_has_template, value.values() if isinstance(value, dict) else value))
    return templates.is_template(value)
