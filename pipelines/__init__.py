"""Recipes: pictures in, a graph of steps, pictures out.

::

    from pipelines import Recipe
    from pipelines.steps import deblur, outpaint

    recipe = Recipe(source="photos/*.jpg", steps=[deblur(), outpaint(aspect_ratio="16:9")], output="out/{{ stem }}.png")
    print(recipe.plan())

Importing this imports ``flux_tasks`` alone; ``pipelines.steps`` and ``Recipe`` import neither Prefect nor a cloud
library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import flux_tasks  # noqa: F401 - tells Prefect's embedded server what it needs, before a flow starts one

if TYPE_CHECKING:
    from pipelines.language.python.step_spec import step
    from pipelines.operations.user_function import operation
    from pipelines.recipe import Recipe

__all__ = ["Recipe", "operation", "step"]

_HOMES = {"Recipe": "recipe", "operation": "operations.user_function", "step": "language.python.step_spec"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"pipelines.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'pipelines' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
