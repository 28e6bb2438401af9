"""The places of a recipe: which accounts and endpoints its buckets have, together with those of the settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from flux_tasks.errors import RecipeError
from flux_tasks.files.remote.rules import combined, untrusted_endpoints
from flux_tasks.settings import Settings, use
from pipelines.language.compiled import CompiledRecipe


@contextmanager
def in_places_of(recipe: CompiledRecipe, settings: Settings) -> Iterator[Settings]:
    """Use ``settings`` in the block, with the storage options of ``recipe`` beside theirs.

    Raises:
        RecipeError: credentials of this machine would go to an endpoint that only the recipe names.
    """
    own, given = recipe.storage_options, settings.storage_options
    if problems := list(untrusted_endpoints(own, given)):
        raise RecipeError(recipe.placed(problems), file=recipe.file)
    with use(replace(settings, storage_options=combined(own, given))) as chosen:
        yield chosen
