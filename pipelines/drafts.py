"""A step as it is written in Python: its name and parameters, with other steps in the place of their ids."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from flux_tasks.masks import Mask
from flux_tasks.signatures import UNSET

__all__ = ["Draft", "Ref", "plain_data", "step"]


@dataclass(frozen=True)
class Ref:
    """The result of another step, named by its id: what ``{step: id}`` is in YAML."""

    id: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Draft:
    """A step on its way into a recipe; made by the functions of ``pipelines.steps``.

    Another step that gets its picture names it: ``fill(mask=hole)`` with ``hole = mask_from_alpha(id="hole")``.
    """

    name: str
    parameters: Mapping[str, Any]
    beside: Mapping[str, Any]

    def data(self) -> dict[str, Any]:
        """The step as it would be in YAML."""
        beside = {name: value for name, value in self.beside.items() if value is not UNSET}
        if "from" in beside:
            fed = beside["from"] if isinstance(beside["from"], (list, tuple)) else [beside["from"]]
            beside["from"] = [one.id if isinstance(one, (Draft, Ref)) else one for one in fed]
        parameters = {"call": self.name, "with": self.parameters} if ":" in self.name else {self.name: self.parameters}
        found: dict[str, Any] = plain_data({**parameters, **beside})
        return found

    @property
    def id(self) -> str:
        """Its id, which a step that is named by others has to have.

        Raises:
            ValueError: it was given none.
        """
        found = self.beside.get("id")
        if not found:
            raise ValueError(f"give this {self.name} an id, so that another step can name it: {self.name}(…, id='…')")
        return str(found)


def step(id: str, **options: Any) -> Ref:  # noqa: A002 - its name in YAML
    """The result of the step with this id, as a picture parameter of another.

    Args:
        options: of a mask: ``invert``, ``dilate`` in pixels, ``resize``.
    """
    return Ref(id, options)


def plain_data(value: Any) -> Any:
    """``value`` as what YAML knows: texts, numbers, lists and mappings."""
    if isinstance(value, Draft):
        return {"step": value.id}
    if isinstance(value, Ref):
        return {"step": value.id, **plain_data(value.options)}
    if isinstance(value, Mask):
        return plain_data(value.model_dump(exclude_defaults=True))
    if isinstance(value, Mapping):
        return {str(name): plain_data(inner) for name, inner in value.items() if inner is not UNSET}
    if isinstance(value, (list, tuple)):
        return [plain_data(inner) for inner in value]
    if isinstance(value, PurePath):
        return os.fspath(value)
    return value
