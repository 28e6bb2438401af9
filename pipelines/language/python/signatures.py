"""How each step is written in Python, worked out from the catalogue and the operations; and the stub for editors.

The types say what type checkers can know: numbers and texts may be templates; for one of several words (``mode``) a
template is written ``Template("{{ mode }}")``, so that a word that does not exist is found.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterable
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from flux_tasks import catalog
from flux_tasks.catalog import signatures
from flux_tasks.catalog.signatures import UNSET, Parameter
from pipelines.language.actions import image_inputs
from pipelines.language.schema.steps import words_of
from pipelines.operations.base import ImageInput
from pipelines.operations.registry import OPERATIONS

__all__ = ["BESIDE", "FOR_RECIPES", "STEPS", "docstring", "main_names", "parameters", "signature"]

STEPS: tuple[str, ...] = (*catalog.TASKS, *OPERATIONS)
"""Every step that has a function of its own."""

BESIDE: tuple[Parameter, ...] = (
    Parameter("id", "str", "What other steps call it; the name of the function if left out."),
    Parameter("from_", "_From", "The step, or steps, whose picture it gets; the step before if left out."),
    Parameter("when", "str | bool", "A condition, such as 'sharpness < 120'; where it is false, the step is skipped."),
    Parameter("matrix", "Mapping[str, Sequence[Any]]", "Lists of values; the step runs for every combination."),
    Parameter("vars", "Mapping[str, Any]", "Names for the templates of this step."),
    Parameter("expect", "_Expect | Expect", "What the result has to be."),
    Parameter("on_failure", "Literal['fail', 'keep'] | _OnFailure", "What is done with a result that is not so."),
    Parameter("preserve", "bool | _Preserve", "Put the pixels outside the mask back."),
    Parameter("save", "str | PathLike[str]", "Where to write the result, too, such as 'out/sharp/{{ stem }}.png'."),
)
"""What every step may be given besides its own parameters, by its name in Python."""

FOR_RECIPES = ("id", "from_")
"""What stands beside a recipe that is a step."""


@cache
def parameters(name: str) -> tuple[Parameter, ...]:
    """The parameters of the step ``name``: pictures other than the main one first, then the rest."""
    return tuple(_of_operation(name) if name in OPERATIONS else _of_task(name))


@cache
def main_names(name: str) -> tuple[str, ...]:
    """What the picture is called that the step ``name`` works on: it is no parameter."""
    tool = None if name in OPERATIONS else signatures.tools_of(name)[0]
    slots = OPERATIONS[name].inputs if tool is None else image_inputs(tool, name)
    main = [slot for slot, found in slots.items() if found.is_primary]
    return tuple(dict.fromkeys((*main, *([tool.image_field] if main and tool and tool.image_field else []))))


def _of_task(task: str) -> Iterable[Parameter]:
    tool = signatures.tools_of(task)[0]
    slots = image_inputs(tool, task)
    described = {name: info.description or "" for name, info in tool.request.model_fields.items()}
    for found in signatures.parameters(task):
        if found.name in main_names(task):
            continue
        slot = slots.get(found.name)
        if found.annotation.startswith(("ImageLike", "Sequence[ImageLike]", "MaskLike")):
            slot = slot or ImageInput("image", required=False)
            text = found.description.partition(", as base64")[0].rstrip(".") + "."
            yield Parameter(found.name, _picture(slot), text)
        elif found.name in tool.options.model_fields:
            info = tool.options.model_fields[found.name]
            yield Parameter(found.name, _source(info.annotation), found.description)
        else:
            annotation = tool.parameters[found.name].annotation if found.name in tool.parameters else None
            shown = _source(annotation) if annotation is not None else _open(found.annotation)
            yield Parameter(found.name, shown, described.get(found.name) or found.description)


def _of_operation(name: str) -> Iterable[Parameter]:
    operation = OPERATIONS[name]
    for picture, slot in operation.inputs.items():
        if not slot.is_primary:
            yield Parameter(picture, _picture(slot), words_of(picture, slot))
    for field, info in operation.parameters.model_fields.items():
        yield Parameter(field, _source(info.annotation), info.description or "")


def _picture(slot: ImageInput) -> str:
    one = "_MaskLike" if slot.role == "mask" else "_Picture"
    return f"Sequence[{one}]" if slot.many else one


def _open(annotation: str) -> str:
    """A type as source that may also be a template."""
    further = "Template" if annotation.startswith("Literal[") else "str"
    if "str" in annotation.split(" | "):
        return annotation
    if annotation.endswith(" | None"):
        return f"{annotation.removesuffix(' | None')} | {further} | None"
    return f"{annotation} | {further}"


def _source(annotation: Any) -> str:
    """A type as source, where every value in it may also be a template."""
    return _open(_plain(annotation))


def _plain(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _plain(inner[0])
    if origin in (Union, types.UnionType):
        return " | ".join(dict.fromkeys(_in_order(one) for one in inner))
    if origin is tuple:
        return f"Sequence[{' | '.join(dict.fromkeys(_source(one) for one in inner if one is not Ellipsis))}]"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "Mapping[str, int | str]"
    return signatures.source_of(annotation)


def _in_order(annotation: Any) -> str:
    """One type of a union; typing keeps no order of ``Literal | None``."""
    if get_origin(annotation) is Literal:
        return f"Literal[{', '.join(map(repr, sorted(get_args(annotation), key=str)))}]"
    return _plain(annotation)


@cache
def signature(name: str) -> inspect.Signature:
    """The Python signature of the step ``name``. Everything is named, and left out unless it is given."""
    return inspect.Signature(
        [
            inspect.Parameter(p.name, inspect.Parameter.KEYWORD_ONLY, default=UNSET, annotation=p.annotation)
            for p in (*parameters(name), *BESIDE)
        ],
        return_annotation="StepSpec",
    )


def docstring(name: str) -> str:
    """The docstring of the step ``name``."""
    if name in OPERATIONS:
        summary = OPERATIONS[name].summary
    else:
        tools = signatures.tools_of(name)
        summary = tools[0].summary if len(tools) == 1 else f"{tools[0].summary} ({len(tools)} models, see ``model``)"
    lines = [summary, "", "Args:", *(f"    {p.name}: {p.description}" for p in (*parameters(name), *BESIDE))]
    wrong = "    InvalidRequest: a parameter that there is not; the recipe's own check tells what else is wrong."
    return "\n".join([*lines, "", "Raises:", wrong])
