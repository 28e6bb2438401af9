"""``validate``: check a recipe."""

from pipelines.cli.common import Exit, RecipeFile, Variables, load_recipe
from pipelines.cli.terminal import print_line

_SHOWN = 20
"""The most problems with items that are printed."""


def validate(recipe: RecipeFile, /, *, variables: Variables = ()) -> Exit:
    """Check a recipe.

    Prints every problem at once, with its line and what to write instead;
    and warnings where a valid recipe goes against what a tool's documents
    advise, or leaves files out. Nothing is spent and no image is opened.
    """
    from pipelines.execution.advice import advice
    from pipelines.execution.precheck import check_items, item_problems, source_warnings

    loaded = load_recipe(recipe, variables)
    count = check_items(loaded)
    invalid = 0
    for invalid, problem in enumerate(item_problems(loaded), 1):
        if invalid <= _SHOWN:
            print_line(f"{recipe}: invalid: {problem}")
    for problem in (*source_warnings(loaded), *advice(loaded)):
        print_line(f"{recipe}: warning: {problem}")
    if invalid:
        print_line(f"{recipe}: {invalid:,} of {count:,} items are invalid, and would not be paid for")
        return Exit.ITEMS
    print_line(f"{recipe}: fine: {loaded.name}, {count} items, {' → '.join(step.id for step in loaded.steps)}")
    return Exit.OK
