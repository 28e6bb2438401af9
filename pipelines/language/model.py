"""A step of a checked recipe, and what it does: a tool, an operation, or a function; its pictures and parameters."""

import inspect
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from flux_tasks import catalog
from flux_tasks.catalog import Tool
from pipelines.language.document.fields import as_data
from pipelines.language.document.options import OnFailure, StepOptions
from pipelines.operations.base import ImageInput
from pipelines.operations.registry import Operation
from pipelines.operations.user_function import UserFunction

Action: TypeAlias = Tool | Operation | UserFunction
"""What a step does: call a tool, work on the picture here, or call the user's own function."""


class HasAction:
    """Base of steps and their nodes: both have an action."""

    id: str
    action: Action

    @property
    def is_paid(self) -> bool:
        """Whether it calls a tool, which costs credits."""
        return isinstance(self.action, Tool)

    @property
    def tool(self) -> Tool:
        """The tool that it calls; a ``TypeError`` if it calls none."""
        if not isinstance(self.action, Tool):
            raise TypeError(f"{self.id} calls no tool")
        return self.action


def image_inputs(action: Action, task: str = "") -> dict[str, ImageInput]:
    """Return the picture parameters of what a step does, by the names that a recipe uses; the primary one first.

    ``generate`` has no primary picture: it makes one from words.
    """
    if not isinstance(action, Tool):
        return dict(action.inputs)
    found: dict[str, ImageInput] = {}
    fields, primary = action.request.model_fields, action.image_field if task != "generate" else None
    if primary:
        required = fields[primary].is_required() or task == "edit"
        found["image"] = ImageInput("image", required=required, is_primary=True)
    others = {name: mark for name, mark in action.image_fields.items() if name != primary}
    for name, mark in others.items():
        description = (fields[name].description or "").partition(", as base64")[0].rstrip(".") + "."
        role: Literal["image", "mask"] = "mask" if mark.role == "mask" else "image"
        many = mark.most > 1
        found[name] = ImageInput(role, required=fields[name].is_required(), many=many, description=description)
    more = [mark for slot, mark in action.image_slots.items() if slot != action.main_slot]
    if primary and any(mark.role == "reference" for mark in more):
        description = "Further pictures to go by, in the prompt's order."
        found["references"] = ImageInput("image", required=False, many=True, description=description)
    return found


def parameter_types(action: Action) -> dict[str, Any]:
    """Return the parameters of what a step does, pictures aside, with their types as far as they are annotated."""
    if isinstance(action, Tool):
        return {name: info.annotation for name, info in action.parameters.items()}
    if isinstance(action, Operation):
        return {name: info.annotation for name, info in action.parameters.model_fields.items()}
    found = inspect.signature(action.function).parameters
    kinds = {"int": int, "float": float, "str": str, "bool": bool}  # as text, if the module delays its annotations
    return {name: kinds.get(str(p.annotation), p.annotation) for name, p in found.items() if name not in action.inputs}


def tool_for(task: str, parameters: Mapping[str, Any]) -> Tool:
    """Return the tool that ``task`` calls with these parameters; an ``InvalidRequest`` if there is none."""
    return catalog.tool(task, parameters.get("model"))


class _Unchecked:
    """Marks a field that no document has; the reader fills it."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.any_schema()


class Step(StepOptions, HasAction):
    """One step of a recipe: its options with everything filled in, and what it does.

    Attributes:
        inputs: ids of the steps whose pictures it gets, its main picture first; ``source`` for the item's own.
        task: what it is called by: a task (``erase``), an operation (``resize``), or ``call``.
        action: what does it; with a ``model`` in the matrix, the first of the models.
        parameters: as written; templates not filled in, pictures of other steps as ``{"step": id}``.
        position: its place in the file, for messages.
    """

    id: str
    inputs: tuple[str, ...] = Field(alias="from")
    on_failure: OnFailure
    task: str = Field(exclude=True)
    action: Annotated[Action, _Unchecked()] = Field(exclude=True)
    parameters: Mapping[str, Any] = Field(exclude=True)
    position: int = Field(exclude=True)

    def to_data(self) -> dict[str, Any]:
        """Return the step as plain data, everything written out."""
        if isinstance(self.action, UserFunction):
            named: dict[str, Any] = {"call": self.action.reference, "with": self.parameters}
        elif isinstance(self.action, Tool) and "model" not in self.matrix and "model" not in self.parameters:
            named = {self.action.name: self.parameters}
        else:
            named = {self.task: self.parameters}
        options = super().to_data()
        if self.expect is None:
            options.pop("on_failure")
        return {**as_data(named), **options}
