"""How each step is written in Python, worked out from the catalogue and the operations; and the stub for editors.

The types say what type checkers can know: numbers and texts may be templates; for one of several words (``mode``) a
template is written ``Template("{{ mode }}")``, so that a word that does not exist is found.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from flux_tasks import catalog, signatures
from flux_tasks.masks import Mask
from flux_tasks.signatures import UNSET, Parameter
from pipelines.expect import Expect
from pipelines.local_step import Slot
from pipelines.ops import OPERATIONS
from pipelines.parts import pictures_of
from pipelines.schema_steps import words_of

__all__ = ["BESIDE", "FOR_RECIPES", "STEPS", "docstring", "main_names", "parameters", "signature", "stub"]

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
    slots = OPERATIONS[name].inputs if tool is None else pictures_of(tool, name)
    main = [slot for slot, found in slots.items() if found.main]
    return tuple(dict.fromkeys((*main, *([tool.image_field] if main and tool and tool.image_field else []))))


def _of_task(task: str) -> Iterable[Parameter]:
    tool = signatures.tools_of(task)[0]
    slots = pictures_of(tool, task)
    described = {name: info.description or "" for name, info in tool.request.model_fields.items()}
    for found in signatures.parameters(task):
        if found.name in main_names(task):
            continue
        slot = slots.get(found.name)
        if found.annotation.startswith(("ImageLike", "Sequence[ImageLike]", "MaskLike")):
            slot = slot or Slot("image", required=False)
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
        if not slot.main:
            yield Parameter(picture, _picture(slot), words_of(picture, slot))
    for field, info in operation.parameters.model_fields.items():
        yield Parameter(field, _source(info.annotation), info.description or "")


def _picture(slot: Slot) -> str:
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
        return_annotation="Draft",
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


_HEAD = '''"""Written by `python -m pipelines.steps` from the catalogue and the operations; a test keeps it fresh."""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, TypedDict

from flux_tasks.masks import Mask
from pipelines.drafts import Draft as Draft
from pipelines.drafts import Ref as Ref
from pipelines.drafts import Template as Template
from pipelines.drafts import step as step
from pipelines.expect import Expect
from pipelines.recipe import Recipe

__all__: list[str]

_Picture = str | PathLike[str] | Draft | Ref
_From = str | Draft | Ref | Sequence[str | Draft | Ref]
'''


def stub() -> str:
    """The text of ``steps.pyi``: every step with its types and words, for editors and type checkers."""
    mask = {name: _of_mask(info.annotation, name) for name, info in Mask.model_fields.items()}
    expect = {name: _without_none(_plain(info.annotation)) for name, info in Expect.model_fields.items()}
    failure = {"retry_with": "Mapping[str, Any] | Sequence[Mapping[str, Any]]", "then": "Literal['fail', 'keep']"}
    head = (
        _HEAD
        + _mapping("_Mask", {**mask, "step": "str"})
        + "\n_MaskLike = _Picture | Mask | _Mask\n"
        + _mapping("_Expect", expect)
        + _mapping("_OnFailure", failure)
        + _mapping("_Preserve", {"feather": "float"})
    )
    call = _stub_of(
        "call",
        ["function: str | Callable[..., Any]", "with_: Mapping[str, Any] = ...", *_arguments(BESIDE), "**further: Any"],
        'A function of your own as a step: itself, or ``"package.module:function"``.\n\nArgs:\n'
        "    further: what the function is given besides its picture.\n"
        "    with_: the same, for names that mean something else here, such as ``id``.",
    )
    recipe = _stub_of(
        "recipe",
        [
            "recipe: Recipe | str | PathLike[str]",
            "with_: Mapping[str, Any] = ...",
            *_arguments(p for p in BESIDE if p.name in FOR_RECIPES),
        ],
        "Another recipe, or the file of one, as a step: its steps are done.\n\nArgs:\n"
        "    with_: values for its ``vars``.",
    )
    steps = (_stub_of(n, _arguments((*parameters(n), *BESIDE)), docstring(n), starred=False) for n in STEPS)
    return head + call + recipe + "".join(steps)


def _without_none(annotation: str) -> str:
    return annotation.removesuffix(" | None")


def _of_mask(annotation: Any, name: str) -> str:
    return "str | PathLike[str]" if name == "file" else _source(annotation)


def _mapping(name: str, entries: Mapping[str, str]) -> str:
    lines = "".join(f"    {entry}: {annotation}\n" for entry, annotation in entries.items())
    return f"\nclass {name}(TypedDict, total=False):\n{lines}"


def _arguments(found: Iterable[Parameter]) -> list[str]:
    return [f"{p.name}: {p.annotation} = ..." for p in found]


def _stub_of(name: str, arguments: list[str], words: str, *, starred: bool = True) -> str:
    """One function; its first argument may be given without its name if it is ``starred``."""
    arguments = [*arguments[:1], "*", *arguments[1:]] if starred else ["*", *arguments]
    body = "".join(f"    {argument},\n" for argument in arguments).replace(
        "    **further: Any,\n", "    **further: Any\n"
    )
    text = "\n".join(f"    {line}".rstrip() for line in words.splitlines())
    return f'\ndef {name}(\n{body}) -> Draft:\n    """{text.strip()}\n    """\n'
