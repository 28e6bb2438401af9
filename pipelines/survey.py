"""A first look at every item, before anything is spent: how many there are, and whether results would hurt inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from flux_tasks.errors import InvalidRequest, Problem, RecipeError, nearest
from pipelines import tables
from pipelines.recipe import Recipe
from pipelines.sinks import mark, output_path
from pipelines.sources import Item, items_of, known_names

__all__ = ["items", "survey"]


def items(recipe: Recipe, *, limit: int | None = None, only: Callable[[Item], bool] | None = None) -> Iterator[Item]:
    """The items of a recipe, streamed.

    Args:
        limit: so many at most.
        only: which of them.
    """
    count = 0
    for item in items_of(recipe.source, recipe.parts.constants):
        if only is not None and not only(item):
            continue
        if limit is not None and count >= limit:
            return
        yield item
        count += 1


def survey(recipe: Recipe, *, limit: int | None = None, only: Callable[[Item], bool] | None = None) -> int:
    """How many items there are.

    Raises:
        RecipeError: there are none; a template names a column that the table has not; a result would be written over
            a picture that the run reads (every later run would then take results for inputs, and pay for them).
    """
    _check_names(recipe)
    inputs: set[bytes] = set()
    results: set[bytes] = set()
    targets = recipe.graph.targets
    constants = recipe.parts.constants
    count = 0
    for item in items(recipe, limit=limit, only=only):
        count += 1
        if item.path:
            inputs.add(mark(item.path))
        for target in targets:
            try:
                path = output_path(target.output, {**constants, **item.context, **target.names})
            except InvalidRequest:
                continue  # this item's own trouble, told when its turn comes
            results.add(mark(path))
    if inputs & results:
        _tell_first(recipe, inputs, limit, only)
    return count


def _tell_first(recipe: Recipe, inputs: set[bytes], limit: int | None, only: Callable[[Item], bool] | None) -> None:
    constants = recipe.parts.constants
    for item in items(recipe, limit=limit, only=only):
        for target in recipe.graph.targets:
            try:
                path = output_path(target.output, {**constants, **item.context, **target.names})
            except InvalidRequest:
                continue
            if mark(path) in inputs:
                what = f"{path} is also an input: write results into a folder of their own"
                raise RecipeError([Problem("output.path", what)])


def _check_names(recipe: Recipe) -> None:
    """Whether the columns that templates name are in the table."""
    wanted, own = recipe.parts.wanted, recipe.parts.own
    if not wanted and not own:
        return
    known = known_names(recipe.source)
    if known is None:
        return  # the file does not say; an item without such a column tells of it
    columns = {name for location in tables.found(recipe.source.table)[:1] for name in tables.header(location) or ()}
    problems = [
        Problem(
            w.where,
            f"'{w.text}': {w.name} is the item's own, and the table has a column of that name: write row['{w.name}'] "
            "for the column, or call it otherwise",
            w.line,
        )
        for w in own
        if w.name in columns
    ]
    problems += [
        Problem(w.where, f"'{w.text}': nothing is called '{w.name}'{nearest(w.name, known) or _known(known)}", w.line)
        for w in wanted
        if w.name not in known and w.name.removesuffix("_exists").removesuffix("_coverage") not in known
    ]
    if problems:
        raise RecipeError(problems, file=recipe.file)


def _known(names: frozenset[str]) -> str:
    return f"; known here: {', '.join(sorted(names))}"
