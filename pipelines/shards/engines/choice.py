"""The engine that somebody has named: ``processes``, ``dask[:ADDRESS]``, ``ray[:ADDRESS]`` or ``prefect:POOL``."""

from __future__ import annotations

from importlib.util import find_spec

from flux_tasks.errors import Problem, RecipeError, nearest, quote
from flux_tasks.settings import Settings
from pipelines.language.compiled import CompiledRecipe
from pipelines.shards.engines.base import Engine

__all__ = ["PROCESSES", "check_name", "engine_called", "is_elsewhere"]

PROCESSES = "processes"
_NAMES = (PROCESSES, "dask", "ray", "prefect")
_LIBRARIES = {"dask": "distributed", "ray": "ray"}


def is_elsewhere(name: str) -> bool:
    """Check whether the workers of an engine may be on other machines."""
    return ":" in name


def check_name(name: str) -> None:
    """Check that there is an engine of this name, whose library may be somewhere else.

    Raises:
        RecipeError: there is none.
    """
    if problem := _problem_with(name):
        raise RecipeError([Problem("--on", problem)])


def _problem_with(name: str) -> str:
    kind, sign, place = name.partition(":")
    if kind not in _NAMES:
        hint = nearest(kind, _NAMES) or f": write one of {', '.join(_NAMES)}"
        return f"{quote(name)} is nothing that shards run on{hint}"
    if kind == PROCESSES and sign:
        return f"{quote(name)}: processes are of this machine, and have no address: write processes"
    if kind == "prefect" and not place:
        return "prefect needs a work pool: write prefect:POOL"
    return ""


def engine_called(
    name: str, count: int, recipe: CompiledRecipe, settings: Settings, folder: str = "", *, key_block: str = ""
) -> Engine:
    """Return an engine that has not started anything yet.

    Args:
        folder: where relative paths start on its workers, if that was given.
        key_block: the ``Secret`` block that Prefect's workers take the key from, if one was named.

    Raises:
        RecipeError: there is none of this name, its library is not installed, or the recipe or the settings cannot go
            where its workers are.
    """
    kind, _, place = name.partition(":")
    problem = _problem_with(name)
    if not problem and (library := _LIBRARIES.get(kind)) and find_spec(library) is None:
        problem = f"{kind} is not installed: pip install 'flux-pipelines[{kind}]'"
    if settings.alone and not problem:
        what = (
            "several processes use the store, and --alone (FLUX_ALONE) says that only one does: leave one of them out"
        )
        raise RecipeError([Problem("--shards", what)])
    if problem:
        raise RecipeError([Problem("--on", problem)])
    engine = _engine(kind, place, count, recipe, settings, key_block)
    if folder and not engine.is_elsewhere:
        raise RecipeError([Problem("--folder", "is for workers elsewhere: leave it out, or name them with --on")])
    if engine.is_elsewhere:
        from pipelines.flows.served.travel import check_travels

        check_travels(recipe, folder, store=settings.store)
        engine.folder = folder
    return engine


def _engine(kind: str, place: str, count: int, recipe: CompiledRecipe, settings: Settings, key_block: str) -> Engine:
    if kind == "dask":
        from pipelines.shards.engines.dask import Dask

        return Dask(place, count)
    if kind == "ray":
        from pipelines.shards.engines.ray import Ray

        return Ray(place, count)
    if kind == "prefect":
        from pipelines.shards.engines.prefect import PrefectPool

        return PrefectPool(place, recipe, settings, key_block)
    from pipelines.shards.engines.processes import Processes

    return Processes(count)
