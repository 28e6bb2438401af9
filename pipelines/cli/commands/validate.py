"""``validate``: check a recipe."""

from pipelines.cli.common import Exit, NoCode, RecipeFile, Variables, load_recipe
from pipelines.cli.terminal import print_line


def validate(recipe: RecipeFile, /, *, variables: Variables = (), no_code: NoCode = False) -> Exit:
    """Check a recipe.

    Prints every problem at once, with its line and what to write instead;
    and warnings where a valid recipe goes against what a tool's documents
    advise, or leaves files out. Nothing is spent and no image is opened.
    """
    from pipelines.execution.advice import advice
    from pipelines.execution.precheck import check_items, source_warnings

    loaded = load_recipe(recipe, variables, no_code=no_code)
    count = check_items(loaded)
    for problem in (*source_warnings(loaded), *advice(loaded)):
        print_line(f"{recipe}: warning: {problem}")
    for name in loaded.functions:
        print_line(f"{recipe}: calls {name}")
    print_line(f"{recipe}: fine: {loaded.name}, {count} items, {' → '.join(step.id for step in loaded.steps)}")
    return Exit.OK
