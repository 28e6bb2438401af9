"""The engine that somebody has named: ``processes``, ``dask[:ADDRESS]``, ``ray[:ADDRESS]`` or ``prefect:POOL``."""

from __future__ import annotations

from flux_tasks.errors import Problem, RecipeError, nearest, quote
from flux_tasks.settings import Settings
from pipelines.language.compiled import CompiledRecipe
from pipelines.shards.engines.base import Engine

__all__ = ["PROCESSES", "engine_called"]

PROCESSES = "processes"
_NAMES = (PROCESSES, "dask", "ray", "prefect")


def engine_called(name: str, count: int, recipe: CompiledRecipe, settings: Settings) -> Engine:
    """Return an engine that has not started anything yet.

    Raises:
        RecipeError: there is none of this name, its library is not installed, or the recipe or the settings cannot go
            where its workers are.
    """
    kind, _, place = name.partition(":")
    if kind == PROCESSES and not place:
        from pipelines.shards.engines.processes import Processes

        return Processes(count)
    hint = nearest(kind, _NAMES) or f": write one of {', '.join(_NAMES)}"
    raise RecipeError([Problem("--on", f"{quote(name)} is nothing that shards run on{hint}")])
