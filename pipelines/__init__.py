"""Recipes: pictures in, a graph of steps, pictures out.

::

    from pipelines import Recipe
    from pipelines.steps import deblur, outpaint

    recipe = Recipe(source="photos/*.jpg", steps=[deblur(), outpaint(aspect_ratio="16:9")], output="out/{{ stem }}.png")
    print(recipe.plan())

Importing this imports nothing else; ``pipelines.steps`` and ``Recipe`` import neither Prefect nor a cloud library.
It tells Prefect's embedded server, which a flow of your own may start, to take its time and to report to nobody.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.language.python.step_spec import step
    from pipelines.operations.user_function import operation
    from pipelines.recipe import Recipe

__all__ = ["Recipe", "operation", "step"]

_HOMES = {"Recipe": "recipe", "operation": "operations.user_function", "step": "language.python.step_spec"}


_PREFECT = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",  # 20 s are too few for a new database on a busy machine
}
if not _PREFECT.keys() <= os.environ.keys():
    os.environ.update({name: os.environ.get(name, value) for name, value in _PREFECT.items()})
    if "prefect.context" in sys.modules:  # it has read its settings already
        sys.modules["prefect.context"].refresh_global_settings_context()


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"pipelines.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'pipelines' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
