"""How each step is written in Python, from the catalogue, the operations and the options of a step.

The types say what type checkers can know: numbers and texts may be templates; for one of several words (``mode``) a
template is written ``Template("{{ mode }}")``, so that a word that does not exist is found.
"""

import inspect
import keyword
import types
from collections.abc import Iterable
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from flux_tasks import catalog
from flux_tasks.catalog import signatures
from flux_tasks.catalog.signatures import UNSET, Parameter
from pipelines.language.document.fields import Part, PythonType
from pipelines.language.document.options import RecipeStep, StepOptions
from pipelines.language.model import image_inputs
from pipelines.operations.base import ImageInput
from pipelines.operations.registry import OPERATIONS

STEPS: tuple[str, ...] = (*catalog.TASKS, *OPERATIONS)
"""Every step that has a function of its own."""


def _python_name(key: str) -> str:
    """Return what Python calls an option: ``from`` is no name there."""
    return f"{key}_" if keyword.iskeyword(key) else key


def field_type(info: FieldInfo) -> str:
    """Return how Python writes an option, or a field of one, as the source of a type."""
    return _marked_type(info.annotation, info.metadata, is_option=True)


def source_of(annotation: Any) -> str:
    """Return a type as source, where every value in it may also be a template."""
    return _open(_type(annotation))


def _open(annotation: str) -> str:
    """Return the source of a type that may also be a template."""
    further = "Template" if annotation.startswith("Literal[") else "str"
    if "str" in annotation.split(" | "):
        return annotation
    if annotation.endswith(" | None"):
        return f"{annotation.removesuffix(' | None')} | {further} | None"
    return f"{annotation} | {further}"


def _type(annotation: Any, *, is_option: bool = False) -> str:
    """Return a type as source; an option is never None, and there are no templates in it."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _marked_type(inner[0], inner[1:], is_option=is_option)
    if origin in (Union, types.UnionType):
        kinds = (one for one in inner if not is_option or one is not type(None))
        return " | ".join(dict.fromkeys(_in_order(one, is_option=is_option) for one in kinds))
    if origin in (tuple, list):
        kinds = (one for one in inner if one is not Ellipsis)
        shown = (_type(one, is_option=True) if is_option else source_of(one) for one in kinds)
        return f"Sequence[{' | '.join(dict.fromkeys(shown))}]"
    if origin is dict:
        return f"Mapping[{', '.join(_type(one, is_option=is_option) for one in inner)}]"
    if isinstance(annotation, type) and issubclass(annotation, Part):
        short = [] if annotation.short is None else [_type(annotation.short, is_option=True)]
        return " | ".join((*short, f"_{annotation.__name__}", annotation.__name__))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "Mapping[str, int | str]"
    return signatures.source_of(annotation)


def _marked_type(annotation: Any, marks: Iterable[Any], *, is_option: bool) -> str:
    """Return the type of a field as source; its marks may say that it is written in another way."""
    for mark in marks:
        if isinstance(mark, PythonType):
            return mark.source
        if isinstance(mark, BeforeValidator) and mark.json_schema_input_type is not PydanticUndefined:
            annotation = mark.json_schema_input_type
    return _type(annotation, is_option=is_option)


def _in_order(annotation: Any, *, is_option: bool) -> str:
    """Return one type of a union; typing keeps no order of ``Literal | None``."""
    if get_origin(annotation) is Literal:
        return f"Literal[{', '.join(map(repr, sorted(get_args(annotation), key=str)))}]"
    return _type(annotation, is_option=is_option)


OPTIONS = tuple(
    Parameter(_python_name(key), field_type(info), info.description or "")
    for key, info in StepOptions.fields().items()
    if key != "with"
)
"""What every step may be given besides its own parameters; ``with`` is written in other ways."""

OPTIONS_OF_RECIPES = tuple(p for p in OPTIONS if p.name in map(_python_name, RecipeStep.fields()))
"""What a recipe in the place of a step may be given."""


@cache
def parameters(name: str) -> tuple[Parameter, ...]:
    """Return the parameters of the step ``name``: pictures other than the primary one first, then the rest."""
    return tuple(_of_operation(name) if name in OPERATIONS else _of_task(name))


@cache
def primary_names(name: str) -> tuple[str, ...]:
    """Return what the picture is called that the step ``name`` works on: it is no parameter."""
    tool = None if name in OPERATIONS else signatures.tools_of(name)[0]
    inputs = OPERATIONS[name].inputs if tool is None else image_inputs(tool, name)
    primary = [picture for picture, found in inputs.items() if found.is_primary]
    return tuple(dict.fromkeys((*primary, *([tool.image_field] if primary and tool and tool.image_field else []))))


def _of_task(task: str) -> Iterable[Parameter]:
    tool = signatures.tools_of(task)[0]
    inputs = image_inputs(tool, task)
    for found in signatures.parameters(task):
        if found.name in primary_names(task):
            continue
        info = tool.options.model_fields.get(found.name) or tool.parameters.get(found.name)
        if found.annotation.startswith(("ImageLike", "Sequence[ImageLike]", "MaskLike")):
            is_list = found.annotation.startswith("Sequence")
            picture = inputs.get(found.name) or ImageInput("image", many=is_list, description=found.description)
            yield Parameter(found.name, _picture(picture), picture.description)
        elif info is not None:
            yield Parameter(found.name, source_of(info.annotation), info.description or found.description)
        else:
            yield Parameter(found.name, _open(found.annotation), found.description)


def _of_operation(name: str) -> Iterable[Parameter]:
    operation = OPERATIONS[name]
    for picture, found in operation.inputs.items():
        if not found.is_primary:
            yield Parameter(picture, _picture(found), found.description)
    for field, info in operation.parameters.model_fields.items():
        yield Parameter(field, source_of(info.annotation), info.description or "")


def _picture(found: ImageInput) -> str:
    one = "_MaskLike" if found.role == "mask" else "_Picture"
    return f"Sequence[{one}]" if found.many else one


@cache
def signature(name: str) -> inspect.Signature:
    """Return the Python signature of the step ``name``: every parameter has a name, and may be left out."""
    keyword_only = inspect.Parameter.KEYWORD_ONLY
    found = (*parameters(name), *OPTIONS)
    taken = [inspect.Parameter(p.name, keyword_only, default=UNSET, annotation=p.annotation) for p in found]
    return inspect.Signature(taken, return_annotation="StepSpec")


def docstring(name: str) -> str:
    """Return the docstring of the step ``name``."""
    if name in OPERATIONS:
        summary = OPERATIONS[name].summary
    else:
        tools = signatures.tools_of(name)
        summary = tools[0].summary if len(tools) == 1 else f"{tools[0].summary} ({len(tools)} models, see ``model``)"
    lines = [summary, "", "Args:", *(f"    {p.name}: {p.description}" for p in (*parameters(name), *OPTIONS))]
    wrong = "    InvalidRequest: there is no such parameter; the check of the recipe finds what else is wrong."
    return "\n".join([*lines, "", "Raises:", wrong])
