"""The types of ``pipelines.steps`` for editors and type checkers: writes ``steps.pyi``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flux_tasks.catalog.signatures import Parameter
from flux_tasks.images.masks import Mask
from pipelines.language.expect import Expect
from pipelines.language.python.signatures import BESIDE, FOR_RECIPES, STEPS, _plain, _source, docstring, parameters

__all__ = ["stub"]


_HEAD = '''"""Written by `make stubs` from the catalogue and the operations; a test keeps it fresh."""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, TypedDict

from flux_tasks.images.masks import Mask
from pipelines.language.python.draft import StepSpec as StepSpec
from pipelines.language.python.draft import Ref as Ref
from pipelines.language.python.draft import Template as Template
from pipelines.language.python.draft import step as step
from pipelines.language.expect import Expect
from pipelines.recipe import Recipe

__all__: list[str]

_Picture = str | PathLike[str] | StepSpec | Ref
_From = str | StepSpec | Ref | Sequence[str | StepSpec | Ref]
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
    return f'\ndef {name}(\n{body}) -> StepSpec:\n    """{text.strip()}\n    """\n'


if __name__ == "__main__":
    from pathlib import Path

    Path(__file__).parents[2].joinpath("steps.pyi").write_text(stub(), encoding="utf-8")
