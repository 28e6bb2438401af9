"""``validate``: check a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux_tasks.errors import RecipeError
from flux_tasks.settings import from_environment
from pipelines.cli.common import Exit, Location, NoCode, RecipeFile, Variables, load_recipe
from pipelines.cli.terminal import print_line

if TYPE_CHECKING:
    from pipelines.language.compiled import CompiledRecipe

_SHOWN = 20
"""The most problems with items that are printed."""


def validate(
    recipe: RecipeFile, /, *, variables: Variables = (), offline: bool = False, no_code: NoCode = False
) -> Exit:
    """Check a recipe.

    Prints every problem at once, with its line and what to write instead;
    and warnings where a valid recipe goes against what a tool's documents
    advise, or leaves files out. Nothing is spent and no image is opened.

    For example:
      flux-pipelines validate recipe.yaml
      flux-pipelines validate recipe.yaml --offline

    Args:
        offline: check what is written in the recipe only: look for no picture, table, bucket or server
    """
    from pipelines.language.places import in_places_of

    loaded = load_recipe(recipe, variables, no_code=no_code)
    with in_places_of(loaded, from_environment()):
        return _validate(recipe, loaded, offline=offline)


def _validate(recipe: Location, loaded: CompiledRecipe, *, offline: bool) -> Exit:
    from pipelines.execution.precheck import check_items, item_problems, source_warnings
    from pipelines.language.advice import advice
    from pipelines.language.libraries import check_libraries

    warnings, items, invalid = list(advice(loaded)), "its files were not looked for", 0
    if not offline:
        try:
            check_libraries(loaded)
            count = check_items(loaded)
            warnings = [*source_warnings(loaded), *warnings]
        except (RecipeError, OSError) as error:
            error.add_note("validate --offline checks what is written in the recipe, and does not look for its files")
            raise
        items = "1 item" if count == 1 else f"{count:,} items"
        for invalid, problem in enumerate(item_problems(loaded), 1):
            if invalid <= _SHOWN:
                print_line(f"{recipe}: invalid: {problem}")
    for warning in warnings:
        print_line(f"{recipe}: warning: {warning}")
    for name in loaded.functions:
        print_line(f"{recipe}: calls {name}")
    for call in loaded.on_end:
        print_line(f"{recipe}: tells at the end: {call.name} ({', '.join(call.when)})")
    if invalid:
        print_line(f"{recipe}: {invalid:,} of {items} are invalid, and would not be paid for")
        return Exit.ITEMS
    print_line(f"{recipe}: OK: {loaded.name}, {items}, {' → '.join(step.id for step in loaded.steps)}")
    return Exit.OK
