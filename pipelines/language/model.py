"""What a checked recipe consists of: source, steps, outputs, budget."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from flux_tasks.catalog import Tool
from pipelines.language.actions import Action, HasAction
from pipelines.language.document.fields import as_data
from pipelines.language.document.options import OnFailure, StepOptions
from pipelines.language.document.recipe import Budget, Output, Source
from pipelines.operations.user_function import UserFunction

__all__ = ["Budget", "Output", "Source", "Step"]


class _Unchecked:
    """Marks a field that no document has; the reader fills it."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.any_schema()


class Step(StepOptions, HasAction):
    """One step of a recipe: its options with everything filled in, and what it does.

    Attributes:
        id: unique in the recipe.
        inputs: ids of the steps whose pictures it gets, its main picture first; ``source`` for the item's own.
        on_failure: what happens when its result is not as ``expect`` says.
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
