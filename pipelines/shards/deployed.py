"""The flow of deployments where its runs may divide themselves: what ``serve`` and ``deploy`` register.

It is that of ``pipelines.flows``. Whoever imports it from here lets it know shards, which are a layer above.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from flux_tasks.errors import RecipeError
from flux_tasks.settings import Settings
from pipelines.flows.deployed import Shards, Work, deployed_recipe, divide_by
from pipelines.flows.served.travel import check_travels
from pipelines.language.compiled import CompiledRecipe
from pipelines.run.shard import check_count
from pipelines.shards.coordinator import finish_in_shards
from pipelines.shards.engines.choice import PROCESSES, engine_called, is_elsewhere

__all__ = ["deployed_recipe"]


def _divide(recipe: CompiledRecipe, settings: Settings, shards: Shards) -> Work:
    """Return what works on a run in shards.

    Raises:
        RecipeError: they cannot run there, or the recipe cannot go there.
    """
    check_count(shards.count)
    on = shards.on or PROCESSES
    folder = _folder(recipe) if is_elsewhere(on) else ""
    engine = engine_called(on, shards.count, recipe, settings, folder, key_block=shards.key_block)
    return partial(finish_in_shards, engine=engine, count=shards.count, on=on)


def _folder(recipe: CompiledRecipe) -> str:
    """Return where relative paths start on other workers: in this one's folder, as ``deploy --folder`` has named it."""
    try:
        check_travels(recipe)
    except RecipeError:
        return str(Path.cwd())
    return ""


divide_by(_divide)
