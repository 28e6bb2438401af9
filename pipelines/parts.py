"""What a recipe is made of, once it has been read: source, steps, outputs, budget. Nothing is checked here."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from flux_tasks import catalog
from flux_tasks.catalog import Tool
from pipelines.expect import Expect
from pipelines.facts import IMAGE_FACTS
from pipelines.functions import UserFunction
from pipelines.local_step import Slot
from pipelines.ops import Operation

__all__ = [
    "ITEM_NAMES",
    "RESERVED",
    "SOURCE",
    "Acting",
    "Action",
    "Budget",
    "OnFailure",
    "Output",
    "Preserve",
    "Source",
    "Step",
    "model_of",
    "parameter_types",
    "pictures_of",
]

ITEM_NAMES = ("stem", "name", "path", "index")
"""What every item has: file name without and with extension, location, and its number from 0."""

_SYNTAX = ("and", "or", "not", "in", "is", "if", "elif", "else", "endif", "self")
_CONSTANTS = ("true", "false", "none", "True", "False", "None")

RESERVED = frozenset(
    (*ITEM_NAMES, *IMAGE_FACTS, "row", "vars", "env", *_SYNTAX, *_CONSTANTS, "variant", "before", "source")
)
"""Names that nothing else in a recipe can have. A table's column that has one is reached as ``row["width"]``."""

SOURCE = "source"
"""What ``from`` calls the item's own picture."""

Action: TypeAlias = Tool | Operation | UserFunction
"""What a step does: call a tool, work on the picture here, or call the user's own function."""


@dataclass(frozen=True)
class Source:
    """Where items come from: globs of pictures, or a table with one item a row.

    Attributes:
        images: globs, each a path or any fsspec URL.
        table: CSV, TSV, JSONL or Parquet on any location; a glob of several is allowed.
        image: with a table: template of the picture's location; empty if rows have no picture.
        columns: templates, filled in for each item, in order.
        filter: expression; items for which it is false are left out.
        sample: so many items (a whole number), or that share of them (below 1).
        seed: of the sample.
        limit: so many items at most, after ``filter`` and ``sample``.
    """

    images: tuple[str, ...] = ()
    table: str = ""
    image: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    filter: str = ""
    sample: int | float | None = None
    seed: int = 0
    limit: int | None = None

    @property
    def has_pictures(self) -> bool:
        """Whether its items come with a picture."""
        return bool(self.images or self.image)


@dataclass(frozen=True)
class OnFailure:
    """What is done when a result is not as ``expect`` says.

    Attributes:
        retries: changed parameters to try, in turn; each is a job of its own.
        then: ``fail`` the item, or ``keep`` the last result.
    """

    retries: tuple[Mapping[str, Any], ...] = ()
    then: str = "fail"


@dataclass(frozen=True)
class Preserve:
    """Put the untouched pixels back after an edit; ``feather`` softens the edge by so many pixels, inwards."""

    feather: float = 0.0


class Acting:
    """What steps and their nodes have in common: something that acts."""

    id: str
    action: Action

    @property
    def is_paid(self) -> bool:
        """Whether it calls a tool."""
        return isinstance(self.action, Tool)

    @property
    def tool(self) -> Tool:
        """The tool that it calls.

        Raises:
            TypeError: it calls none.
        """
        if not isinstance(self.action, Tool):
            raise TypeError(f"{self.id} calls no tool")
        return self.action


@dataclass(frozen=True)
class Step(Acting):
    """One node of a recipe, as written.

    Attributes:
        id: unique in the recipe.
        task: what it is called by: a task (``erase``), an operation (``resize``), or ``call``.
        action: what does it; with a ``model`` in the matrix the first of them.
        parameters: as written; templates not filled in, pictures of other steps as ``{"step": id}``.
        inputs: ids of the steps whose pictures it gets, its main picture first; ``source`` for the item's own.
        when: condition, or an empty string.
        matrix: values by name; the step runs for every combination.
        vars: names that only its templates know.
        expect: what its result has to be.
        save: path template for its result, or an empty string.
        position: its place in the file, for messages.
    """

    id: str
    task: str
    action: Action
    parameters: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    when: str = ""
    matrix: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    vars: Mapping[str, Any] = field(default_factory=dict)
    expect: Expect | None = None
    on_failure: OnFailure = OnFailure()
    preserve: Preserve | None = None
    save: str = ""
    position: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Output:
    """Where results go: a template of a path or fsspec URL. Its extension decides the file type."""

    path: str
    step: str = ""

    @property
    def root(self) -> str:
        """The folder that no item's path may leave: everything before the first template."""
        fixed = self.path.split("{{", 1)[0].split("{%", 1)[0]
        return fixed.rsplit("/", 1)[0] if "/" in fixed else "."


@dataclass(frozen=True)
class Budget:
    """The most that a run may spend, in credits (1 credit = 0.01 USD)."""

    credits: float


def pictures_of(action: Action, task: str = "") -> dict[str, Slot]:
    """The picture parameters of what a step does, by the names that a recipe uses; the main one first.

    ``generate`` has no main picture: it makes one of words.
    """
    if not isinstance(action, Tool):
        return dict(action.inputs)
    found: dict[str, Slot] = {}
    main = action.image_field if task != "generate" else None
    if main:
        required = action.request.model_fields[main].is_required() or task == "edit"
        found["image"] = Slot("image", required=required, main=True)
    others = {name: mark for name, mark in action.image_fields.items() if name != main}
    for name, mark in others.items():
        required = action.request.model_fields[name].is_required()
        found[name] = Slot("mask" if mark.role == "mask" else "image", required=required)
    if main and any(mark.role == "reference" for mark in others.values()):
        found["references"] = Slot("image", required=False, many=True)
    return found


def parameter_types(action: Action) -> dict[str, Any]:
    """The parameters of what a step does, besides pictures, with their types as far as they are written down."""
    if isinstance(action, Tool):
        return {name: info.annotation for name, info in action.parameters.items()}
    if isinstance(action, Operation):
        return {name: info.annotation for name, info in action.parameters.model_fields.items()}
    found = inspect.signature(action.function).parameters
    kinds = {"int": int, "float": float, "str": str, "bool": bool}  # as text, if the module delays its annotations
    return {name: kinds.get(str(p.annotation), p.annotation) for name, p in found.items() if name not in action.inputs}


def model_of(task: str, parameters: Mapping[str, Any]) -> Tool:
    """The tool that ``task`` calls with these parameters.

    Raises:
        InvalidRequest: there is none.
    """
    return catalog.tool(task, parameters.get("model"))
