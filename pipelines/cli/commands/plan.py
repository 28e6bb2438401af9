"""``plan``: what a run would do and cost."""

from pipelines.cli.common import Budget, Exit, Json, Limit, NoCode, Places, RecipeFile, Sample, Variables, load_recipe
from pipelines.cli.terminal import print_line, terminal_width


def plan(
    recipe: RecipeFile,
    /,
    *,
    variables: Variables = (),
    limit: Limit = None,
    sample: Sample = None,
    budget: Budget = None,
    places: Places = Places(),
    json: Json = False,
    verify: bool = False,
    no_code: NoCode = False,
) -> Exit:
    """Show what a run would do and cost.

    Nothing is spent and nothing is written. Functions of Python that the
    recipe calls are named, and called for the pictures that are there.

    For example:
      flux-pipelines plan recipe.yaml
      flux-pipelines plan recipe.yaml --limit 100 --json

    Args:
        verify: look at every picture and result, also where size and times say that nothing has changed
    """
    from json import dumps

    from pipelines.plan import planner
    from pipelines.plan.result import table

    settings = places.settings(needs_key=False)
    loaded = load_recipe(recipe, variables, no_code=no_code)
    result = planner.plan(loaded, limit=limit, sample=sample, budget=budget, verify=verify, settings=settings)
    print_line(dumps(result.to_dict(), indent=2) if json else table(result, width=terminal_width()))
    return Exit.ITEMS if result.problems else Exit.OK
