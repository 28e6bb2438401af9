"""The types of ``pipelines.steps`` for editors and type checkers: writes ``steps.pyi``."""

from collections.abc import Iterable, Mapping

from flux_tasks.catalog.signatures import Parameter
from flux_tasks.images.masks import Mask
from pipelines.language.document.fields import parts_in
from pipelines.language.document.options import StepOptions
from pipelines.language.python.signatures import (
    OPTIONS,
    OPTIONS_OF_RECIPES,
    STEPS,
    docstring,
    field_type,
    parameters,
    source_of,
)

_HEAD = '''"""Written by `make stubs` from the catalogue and the operations; a test keeps it fresh."""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, TypedDict

from flux_tasks.catalog.boxes import Box
from flux_tasks.images.masks import Mask
from pipelines.language.python.step_spec import Ref as Ref, StepSpec as StepSpec, Template as Template, step as step
PARTSfrom pipelines.recipe import Recipe

__all__: list[str]

_Picture = str | PathLike[str] | StepSpec | Ref
_From = str | StepSpec | Ref | Sequence[str | StepSpec | Ref]
'''


def stub() -> str:
    """Return the text of ``steps.pyi``: every step with its types and words, for editors and type checkers."""
    mask = {name: source_of(info.annotation) for name, info in Mask.model_fields.items()}
    mask |= {"file": "str | PathLike[str]", "step": "str", "annotations": "str | Sequence[str] | Mapping[str, Any]"}
    parts = {part.__name__: part for info in StepOptions.fields().values() for part in parts_in(info.annotation)}
    head = _HEAD.replace("PARTS", "".join(f"from {part.__module__} import {name}\n" for name, part in parts.items()))
    head += _mapping("_Mask", mask) + "\n_MaskLike = _Picture | Mask | _Mask\n"
    for name, part in parts.items():
        head += _mapping(f"_{name}", {key: field_type(info) for key, info in part.fields().items()})
    with_ = "with_: Mapping[str, Any] = ..."
    call = _stub_of(
        "call",
        ["function: str | Callable[..., Any]", with_, *_arguments(OPTIONS), "**further: Any"],
        'A function of your own as a step: itself, or ``"package.module:function"``.\n\nArgs:\n'
        "    further: what the function is given besides its picture.\n"
        "    with_: the same, for names that mean something else here, such as ``id``.",
    )
    recipe = _stub_of(
        "recipe",
        ["recipe: Recipe | str | PathLike[str]", with_, *_arguments(OPTIONS_OF_RECIPES)],
        "Another recipe, or the file of one, as a step: its steps are done.\n\nArgs:\n"
        "    with_: values for its ``vars``.",
    )
    steps = (_stub_of(n, _arguments((*parameters(n), *OPTIONS)), docstring(n), starred=False) for n in STEPS)
    return head + call + recipe + "".join(steps)


def _mapping(name: str, entries: Mapping[str, str]) -> str:
    lines = "".join(f"    {entry}: {annotation}\n" for entry, annotation in entries.items())
    return f"\nclass {name}(TypedDict, total=False):\n{lines}"


def _arguments(found: Iterable[Parameter]) -> list[str]:
    return [f"{p.name}: {p.annotation} = ..." for p in found]


def _stub_of(name: str, arguments: list[str], words: str, *, starred: bool = True) -> str:
    """One function; its first argument may be given without its name if it is ``starred``."""
    arguments = [*arguments[:1], "*", *arguments[1:]] if starred else ["*", *arguments]
    body = "".join(f"    {argument},\n" for argument in arguments).replace("**further: Any,\n", "**further: Any\n")
    text = "\n".join(f"    {line}".rstrip() for line in words.splitlines())
    return f'\ndef {name}(\n{body}) -> StepSpec:\n    """{text.strip()}\n    """\n'


if __name__ == "__main__":
    from pathlib import Path

    Path(__file__).parents[2].joinpath("steps.pyi").write_text(stub(), encoding="utf-8")
