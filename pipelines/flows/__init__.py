"""Prefect flows: any recipe, and the restoration chain as plain Python.

Importing this sets Prefect's settings first, because Prefect reads them when it is imported.
"""

from pipelines.flows import prefect_settings

prefect_settings.apply()

from pipelines.flows.recipe_flow import advance, arun_recipe, run_recipe  # noqa: E402 - after the settings
from pipelines.flows.restore import restore  # noqa: E402

__all__ = ["advance", "arun_recipe", "restore", "run_recipe"]
