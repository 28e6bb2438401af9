"""The flow of deployments where its runs may divide themselves: what ``serve`` and ``deploy`` register.

It is that of ``pipelines.flows``. Whoever imports it from here lets it know shards, which are a layer above.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flux_tasks.errors import RecipeError
from flux_tasks.settings import Settings
from pipelines.flows.deployed import Shards, Work, deployed_recipe, divide_by
from pipelines.flows.served.travel import check_travels
from pipelines.language.compiled import CompiledRecipe
from pipelines.run.run import Run
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

    async def work(run: Run) -> None:
        with _inherited_key(settings.key):
            await finish_in_shards(run, engine, shards.count, shards.options, "")

    return work


def _folder(recipe: CompiledRecipe) -> str:
    """Return where relative paths start on other workers: in this one's folder, as ``deploy --folder`` has named it."""
    try:
        check_travels(recipe)
    except RecipeError:
        return str(Path.cwd())
    return ""


@contextmanager
def _inherited_key(key: str) -> Iterator[None]:
    """Let the processes that are started in the block have the key, which may be from a ``Secret`` block."""
    before = os.environ.get("BFL_API_KEY")
    if key:
        os.environ["BFL_API_KEY"] = key
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("BFL_API_KEY", None)
        else:
            os.environ["BFL_API_KEY"] = before


divide_by(_divide)
