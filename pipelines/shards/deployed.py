"""The flow of deployments where its runs may divide themselves: what ``serve`` and ``deploy`` register.

It is that of ``pipelines.flows``. Whoever imports it from here lets it know shards, which are a layer above.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from flux_tasks.errors import RecipeError
from flux_tasks.settings import Settings
from pipelines.flows.deployed import Shards, Work, deployed_recipe, divide_by
from pipelines.flows.served.travel import check_travels
from pipelines.language.compiled import CompiledRecipe
from pipelines.shards.engines.choice import is_elsewhere
from pipelines.shards.sharding import Sharding, in_python

__all__ = ["deployed_recipe"]


def _divide(recipe: CompiledRecipe, settings: Settings, shards: Shards) -> Work:
    """Return what works on a run in shards.

    Raises:
        RecipeError: it cannot be divided so, they cannot run there, or the recipe cannot go there.
    """

    def divide() -> Work:
        asked = Sharding(shards.count, shards.on, shard=shards.part)
        divided = replace(asked, folder=_folder(recipe) if is_elsewhere(asked.on) else "")
        return divided.finish_on_workers(recipe, settings, shards.key_block)[0]

    return in_python(divide)


def _folder(recipe: CompiledRecipe) -> str:
    """Return where relative paths start on other workers: in this one's folder, as ``deploy --folder`` has named it."""
    try:
        check_travels(recipe)
    except RecipeError:
        return str(Path.cwd())
    return ""


divide_by(_divide)
