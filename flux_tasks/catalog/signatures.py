"""The signature of each task, derived from the catalogue: for Python, type checkers, recipes and docs."""

import enum
import inspect
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from flux_tasks import catalog
from flux_tasks.catalog import Tool
from flux_tasks.catalog.boxes import Box
from flux_tasks.catalog.fields import WEBHOOK_FIELDS, Request

__all__ = ["CALL_OPTIONS", "UNSET", "Parameter", "Unset", "parameters", "signature", "source_of", "stub", "tools_of"]


class Unset(enum.Enum):
    """The default of every optional parameter: it is not sent, so that the service's own default holds."""

    UNSET = "unset"

    def __repr__(self) -> str:
        return "UNSET"

    def __bool__(self) -> bool:
        return False


UNSET = Unset.UNSET

CALL_OPTIONS = ("fit", "variant", "model")
"""Parameters of a task that no tool has: they say which call is made, and are not sent."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a task.

    Attributes:
        annotation: its type as Python source.
        required: it has no default.
        keyword: it must be named.
    """

    name: str
    annotation: str
    description: str
    required: bool = False
    keyword: bool = True


def tools_of(task: str) -> tuple[Tool, ...]:
    """Return the tools that ``task`` may call, its default first."""
    names = catalog.MODELS.get(task)
    if names is None:
        return tuple(t for t in catalog.TOOLS.values() if t.task == task)
    default = catalog.DEFAULT_MODELS[task]
    return tuple(catalog.TOOLS[name] for name in (default, *(n for n in names if n != default)))


@cache
def parameters(task: str) -> tuple[Parameter, ...]:
    """Return the parameters of ``task``: pictures first, then what is required, then the rest by name."""
    found: dict[str, Parameter] = {p.name: p for p in _pictures(task)}
    tools = tools_of(task)
    bodies = [tool.request.model_fields for tool in tools]
    for tool in tools:
        for name, info in tool.parameters.items():
            if name in found or name in WEBHOOK_FIELDS:  # a task waits for its result
                continue
            required = all(name in body and body[name].is_required() for body in bodies)
            required = required and not (tool.has_canvas and name in ("width", "height"))
            required = required or (name == "prompt" and task in catalog.MODELS)
            found[name] = Parameter(name, source_of(info.annotation), info.description or "", required, not required)
    if task in catalog.MODELS:
        names = ", ".join(repr(t.name) for t in tools)
        found["model"] = Parameter("model", f"Literal[{names}]", f"Which tool; {tools[0].name} by default.")
    found["variant"] = Parameter("variant", "int", "Another result for the same request: a new job, which is paid for.")
    if any(p.annotation.startswith(("ImageLike", "Sequence[ImageLike]")) for p in found.values()):
        what = "error refuses a picture that does not suit the tool; downscale makes it suit."
        found["fit"] = Parameter("fit", "Literal['error', 'downscale']", what)
    return tuple(sorted(found.values(), key=lambda p: (p.keyword, not p.required)))


def _pictures(task: str) -> Iterator[Parameter]:
    tool = tools_of(task)[0]
    if task == "generate":
        yield Parameter("image_prompt", "ImageLike | None", "A picture to go by (FLUX 1.1 models).")
        yield Parameter("images", "Sequence[ImageLike]", "Pictures to go by (FLUX 3).")
        return
    for name, mark in tool.image_fields.items():
        info = tool.request.model_fields[name]
        description = info.description or ""
        required = info.is_required()
        if mark.role == "mask":
            yield Parameter(name, "MaskLike" if required else "MaskLike | None", description, required, not required)
        elif name == tool.image_field or mark.role == "image":
            shown = "image" if name.startswith("input_image") else name
            yield Parameter(shown, "ImageLike", "The picture to work on.", required=True, keyword=False)
        elif required:
            yield Parameter(name, "ImageLike", description, required=True, keyword=False)
    if task == "edit":
        yield Parameter("references", "Sequence[ImageLike]", "Further pictures to go by, in the prompt's order.")


@cache
def signature(task: str) -> inspect.Signature:
    """Return the Python signature of ``task``. Every optional parameter has the default ``UNSET``."""
    return inspect.Signature(
        [
            inspect.Parameter(
                p.name,
                inspect.Parameter.KEYWORD_ONLY if p.keyword else inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=inspect.Parameter.empty if p.required else UNSET,
                annotation=p.annotation,
            )
            for p in parameters(task)
        ],
        return_annotation="ImageRef",
    )


def source_of(annotation: Any) -> str:
    """Return a type as Python source, as a person would write it."""
    if annotation is type(None):
        return "None"
    origin = get_origin(annotation)
    if origin is Annotated:
        return source_of(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return " | ".join(source_of(a) for a in get_args(annotation))
    if origin is list:
        return f"Sequence[{source_of(get_args(annotation)[0])}]"
    if annotation is Box:
        return "Box | Mapping[str, Any]"
    if origin is Literal:
        return f"Literal[{', '.join(repr(a) for a in get_args(annotation))}]"
    if isinstance(annotation, type) and issubclass(annotation, Request):
        return "Mapping[str, int]"
    return str(annotation.__name__)


def docstring(task: str) -> str:
    """Return the docstring of ``task``."""
    tools = tools_of(task)
    lines = [tools[0].summary if len(tools) == 1 else f"{tools[0].summary} ({len(tools)} models, see ``model``)"]
    lines += ["", "Args:", *(f"    {p.name}: {p.description}" for p in parameters(task)), ""]
    lines += ["Returns:", "    A reference to the result in the store.", ""]
    lines += ["Raises:", "    FluxError: see ``flux_tasks.errors``; bad input is found before anything is spent."]
    return "\n".join(lines)


def stub() -> str:
    """Return the text of ``tasks/__init__.pyi``: every task with its types, for editors and type checkers."""
    head = (
        '"""Written by `python -m flux_tasks.catalog.signatures` from the catalogue; a test keeps it fresh."""\n\n'
        "from collections.abc import Mapping, Sequence\n"
        "from typing import Any, Literal\n\n"
        "from prefect import task\n\n"
        "from flux_tasks.catalog.boxes import Box\n"
        "from flux_tasks.images import ImageLike, ImageRef\n"
        "from flux_tasks.images.masks import Mask\n\n"
        "MaskLike = Mask | ImageLike | dict[str, Any]\n\n"
        "__all__: list[str]\n"
    )
    return head + "".join(_stub_of(task, prefix) for task in catalog.TASKS for prefix in ("", "a"))


def _stub_of(task: str, prefix: str) -> str:
    lines = [(p.keyword, f"    {p.name}: {p.annotation}{'' if p.required else ' = ...'},") for p in parameters(task)]
    positional = [line for is_named, line in lines if not is_named]
    body = "\n".join([*positional, "    *,", *(line for is_named, line in lines if is_named)])
    return f"\n@task\n{'async ' if prefix else ''}def {prefix}{task}(\n{body}\n) -> ImageRef: ...\n"


if __name__ == "__main__":
    from pathlib import Path

    Path(__file__).parents[1].joinpath("tasks", "__init__.pyi").write_text(stub(), encoding="utf-8")
