"""Recipe runs, and the restoration chain as plain Python; Prefect flows where Prefect records them.

Importing this sets Prefect's settings, because Prefect reads them when it is imported; that happens when a flow is
first needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipelines.flows import prefect_settings

if TYPE_CHECKING:
    from pipelines.flows.deployed import deployed_recipe
    from pipelines.flows.recipe_flow import advance
    from pipelines.flows.recipe_run import arun_recipe, run_recipe
    from pipelines.flows.restore import restore

prefect_settings.apply()

__all__ = ["advance", "arun_recipe", "deployed_recipe", "restore", "run_recipe"]

_HOMES = {
    "advance": "recipe_flow",
    "arun_recipe": "recipe_run",
    "deployed_recipe": "deployed",
    "restore": "restore",
    "run_recipe": "recipe_run",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'pipelines.flows' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"pipelines.flows.{_HOMES[name]}"), name)
    return found
