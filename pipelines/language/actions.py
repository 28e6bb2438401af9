"""What a step does: a tool, an operation, or a function; its pictures and parameters."""

import inspect
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from flux_tasks import catalog
from flux_tasks.catalog import Tool
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
        """The tool that it calls.

        Raises:
            TypeError: it calls no tool.
        """
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
        found[name] = ImageInput(role, required=fields[name].is_required(), description=description)
    if primary and any(mark.role == "reference" for mark in others.values()):
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
    """Return the tool that ``task`` calls with these parameters.

    Raises:
        InvalidRequest: there is none.
    """
    return catalog.tool(task, parameters.get("model"))
