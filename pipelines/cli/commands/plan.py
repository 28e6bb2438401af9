"""``plan``: what a run would do and cost."""

from typing import Any

from flux_tasks.errors import Problem, RecipeError
from pipelines.cli.common import Budget, Exit, Json, Limit, NoCode, Places, RecipeFile, Sample, Variables, load_recipe
from pipelines.cli.pruning import Pruning
from pipelines.cli.sharding import Shards
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
    shards: Shards = None,
    prune: bool = False,
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
        shards: tell what each of N shards holds and costs
        prune: list also what run --prune --yes would remove: outputs of earlier runs whose source is gone
        verify: look at every picture and result, also where size and times say that nothing has changed
    """
    from json import dumps

    from pipelines.language.places import in_places_of
    from pipelines.plan import planner
    from pipelines.plan.result import table
    from pipelines.run.shard import check_count, shard_of

    settings = places.settings(needs_key=False)
    loaded = load_recipe(recipe, variables, no_code=no_code)
    if prune and json:
        raise RecipeError([Problem("--prune", "is a list for people: leave --json out")])
    options: dict[str, Any] = {"limit": limit, "sample": sample, "budget": budget, "verify": verify}
    if shards is not None:
        check_count(shards)
        options |= {"shards": shards, "divide": lambda source: shard_of(source, shards)}
    with in_places_of(loaded, settings):
        begun = Pruning(prune=prune).begin(loaded, settings.store, limit=limit, sample=sample)
        result = planner.plan(loaded, settings=settings, **options)
        print_line(dumps(result.to_dict(), indent=2) if json else table(result, width=terminal_width()))
        is_unknown = begun is not None and begun.find() is None
    return Exit.ITEMS if result.problems or is_unknown else Exit.OK
