"""A first look at every item, before anything is spent: how many there are, and whether results overwrite inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

from flux_tasks import files
from flux_tasks.errors import InvalidRequest, Problem, RecipeError, cut, listed, nearest, quote, shown
from flux_tasks.store.account.periods import Limit
from pipelines.data import items as items_module
from pipelines.data.annotations.checks import annotation_problems, annotation_warnings
from pipelines.data.formats import tables
from pipelines.data.formats.names import known_names, source_columns
from pipelines.data.items import Item, Listed, finder, items_of
from pipelines.data.outputs import Outputs
from pipelines.data.writers.columns.checks import DatasetChecks
from pipelines.execution.arguments import context_of
from pipelines.execution.labels import asks_for_labels
from pipelines.language import templates
from pipelines.language.compiled import CompiledRecipe
from pipelines.language.graph import Node, OutputTarget
from pipelines.language.model import image_inputs

_NOT_READ = "which are not read from a table: write dataset in place of table, or a column with paths of files"


def period_limits(recipe: CompiledRecipe) -> list[Limit]:
    """Return the most credits that all runs of the recipe may spend in a day or a month, by its ``budget``."""
    budget = recipe.budget
    if budget is None:
        return []
    limits = []
    if budget.day is not None:
        limits.append(Limit(budget.day, "day", recipe.name, budget.timezone))
    if budget.month is not None:
        limits.append(Limit(budget.month, "month", recipe.name, budget.timezone))
    return limits


def budget_cap(recipe: CompiledRecipe, budget: float | None) -> float | None:
    """Return the most credits that a run may spend: ``budget``, else the recipe's own; None is no limit.

    Raises:
        RecipeError: it is not a number of credits.
    """
    cap = budget if budget is not None else recipe.budget.credits if recipe.budget else None
    if cap is not None and not 0 <= cap < float("inf"):
        raise RecipeError([Problem("budget", f"{shown(cap)} is not a number of credits (1 credit is 0.01 USD)")])
    return cap


def items(
    recipe: CompiledRecipe,
    *,
    limit: int | None = None,
    only: Callable[[Item], bool] | None = None,
    listed: Listed | None = None,
) -> Iterator[Item]:
    """Return the items of a recipe, streamed: those that ``only`` is true of, at most ``limit``."""
    with _placed(recipe):
        found = items_of(recipe.source, recipe.constants, listed, hides_labels=not asks_for_labels(recipe))
        if listed is not None and listed.duplicates:
            found = (_marked(item, listed.duplicates) for item in found)
        yield from islice(filter(only, found) if only else found, limit)


def _marked(item: Item, duplicates: Mapping[int, tuple[str, str]]) -> Item:
    """Return an item with what it is a duplicate of, unless the source has changed since that was found out."""
    source, kept = duplicates.get(item.index, ("", ""))
    return replace(item, duplicate_of=kept) if kept and source == item.source else item


@contextmanager
def _placed(recipe: CompiledRecipe) -> Iterator[None]:
    """Give every RecipeError of the block the file of ``recipe``, and the line of what it is about."""
    try:
        yield
    except RecipeError as error:
        raise type(error)(recipe.placed(error.problems), file=error.file or recipe.file) from None


def source_warnings(recipe: CompiledRecipe, listed: Listed | None = None) -> list[Problem]:
    """Return what the source leaves out that a person may have meant; see ``items.source_warnings``."""
    with _placed(recipe):
        found = items_module.source_warnings(recipe.source, listed)
        if recipe.source.annotations is not None:
            each = items_of(recipe.source, recipe.constants, listed, hides_labels=not asks_for_labels(recipe))
            found += annotation_warnings(recipe, ((item.source, item.labels) for item in each))
        return recipe.placed(found)


def check_items(
    recipe: CompiledRecipe,
    *,
    limit: int | None = None,
    only: Callable[[Item], bool] | None = None,
    outputs: Outputs | None = None,
    listed: Listed | None = None,
    datasets: DatasetChecks | None = None,
) -> int:
    """Return how many items there are.

    Args:
        datasets: what learns the columns of the recipe's datasets.
        listed: as for ``items_of``.
        outputs: a place that several results go to is reserved in it for the first of them, whichever is made first.

    Raises:
        RecipeError: there are none; an output's bucket does not exist; a template names a column that the table has
            not; a result would be written over a picture that the run reads, or where the source finds it (every later
            run would then take results for inputs, and pay for them).
    """
    with _placed(recipe):
        found = partial(items, recipe, limit=limit, only=only, listed=listed)
        return _checked_items(recipe, found, outputs or Outputs(), datasets or DatasetChecks(recipe), listed)


def item_problems(recipe: CompiledRecipe) -> Iterator[str]:
    """Return what is known to be wrong with items before a picture is opened: their rows, and places of their results.

    A run pays for none of these items. The source is read once more.
    """
    outputs = Outputs()
    for item in items(recipe):
        try:
            if item.error:
                raise InvalidRequest(item.error)
            outputs.claim(recipe.graph.targets, {**recipe.constants, **item.context}, item.index)
        except InvalidRequest as error:
            yield f"{item.stem}: {'; '.join(str(error).splitlines())}"


def _checked_items(
    recipe: CompiledRecipe,
    found: Callable[[], Iterator[Item]],
    outputs: Outputs,
    datasets: DatasetChecks,
    listed: Listed | None,
) -> int:
    table = tables.found(recipe.source.table)[0] if recipe.source.table else ""
    bytes_in = tables.embedded(table) if table else frozenset()
    _check_bytes(recipe, table, bytes_in)
    _check_names(recipe, table, bytes_in)
    _check_roots(recipe)
    inputs: set[bytes] = set()
    results: dict[bytes, tuple[int, int]] = {}
    found_again = ""
    named = list(named_pictures(recipe))
    finds = finder(recipe.source, recipe.constants, listed)
    count = 0
    for item in found():
        count += 1
        datasets.observe(item)
        inputs.update(map(outputs.mark, pictures_of_item(recipe, item, named)))
        for number, (target, path) in enumerate(_written_by(recipe, outputs, item)):
            mark = outputs.mark(path)
            first = results.setdefault(mark, (item.index, number))
            if first != (item.index, number):
                outputs.take(mark, *first)
            files_of = [f"{path}.{kind}" for kind in ("png", "jpg", "webp")] if target.output.dataset else [path]
            found_again = found_again or next(filter(finds, files_of), "")
    if problems := [*annotation_problems(recipe), *datasets.problems()]:
        raise RecipeError(problems)
    name = cut(recipe.outputs[0].place.rpartition("/")[2])
    remedy = f"write results into a folder of their own, such as 'out/{name}'"
    if inputs & results.keys():
        for item in found():
            for target, path in _written_by(recipe, outputs, item):
                if outputs.mark(path) in inputs:
                    what = f"{files.quoted(path)} is also a picture that the run reads: {remedy}"
                    raise RecipeError([Problem(target.output.where, what)])
    if found_again:
        what = f"the source would find the result {files.quoted(found_again)}, and the next run would work on it"
        raise RecipeError([Problem("output.path", f"{what}: {remedy}, or leave results out with source.filter")])
    return count


def named_pictures(recipe: CompiledRecipe) -> Iterator[tuple[Node, str]]:
    """Return masks, references and the like that steps name by a path or by a template of one, each with its node."""
    for node in recipe.graph.nodes:
        slots = image_inputs(node.action, node.step.task)
        for value in (value for name, value in node.parameters.items() if name in slots):
            for one in value if isinstance(value, list) else [value]:
                text = one.get("file") if isinstance(one, dict) else one
                if isinstance(text, str):
                    yield node, text


def pictures_of_item(recipe: CompiledRecipe, item: Item, named: Sequence[tuple[Node, str]]) -> Iterator[str]:
    """Return the locations of the pictures of an item: its own, masks, references."""
    if item.path:
        yield item.path
    context = {**recipe.constants, **item.context} if named else {}
    for node, text in named:
        with suppress(InvalidRequest):  # an error of this item, noted when it is run
            own = context_of(node, context) if templates.is_template(text) else context
            found = templates.render(text, own, node.id)
            if isinstance(found, str) and found:
                yield found


def _written_by(recipe: CompiledRecipe, outputs: Outputs, item: Item) -> list[tuple[OutputTarget, str]]:
    """Return where the results of an item go; nothing of one that cannot be used."""
    context = {**recipe.constants, **item.context}
    with suppress(InvalidRequest):
        return (
            []
            if item.error or item.duplicate_of
            else [(target, outputs.path(target, context)) for target in recipe.graph.targets]
        )
    return []


def _check_bytes(recipe: CompiledRecipe, table: str, bytes_in: frozenset[str]) -> None:
    """Check that the pictures of a table's rows are in files, and not in the table itself.

    Args:
        table: the first file of the table.
        bytes_in: its columns that hold bytes.
    """
    template = recipe.source.image
    if not (columns := sorted(templates.names_in(template) & bytes_in)):
        return
    path: Any = None
    with suppress(InvalidRequest, RecipeError):  # a table of nothing but bytes has no rows
        values = next((row.values for row in tables.rows(table)), {})
        context = {**recipe.constants, **values, "row": values, "index": 0}
        path = templates.render(template, context, "source.image")
    if not (isinstance(path, str) and path and files.exists(path)):
        what = f"{quote(template)}: the column {cut(columns[0])} of {table} holds the bytes of pictures"
        raise RecipeError([Problem("source.image", f"{what}, {_NOT_READ}")])


def _check_roots(recipe: CompiledRecipe) -> None:
    """Check that results go to places that can be written: no web address, a known protocol, a bucket that exists."""
    problems = []
    for root in sorted({target.output.root for target in recipe.graph.targets}):
        if files.is_web(root):
            problems.append(f"nothing can be written to {root}: write a folder, or a bucket such as s3://bucket/out")
        elif bucket := files.missing_bucket(root):
            problems.append(f"{bucket} does not exist: make it first, or write another name")
        elif not files.is_local(root):
            try:
                files.filesystem_of(root)
            except OSError as error:
                problems.append(str(error))
    if problems:
        raise RecipeError([Problem("output.path", what) for what in dict.fromkeys(problems)], file=recipe.file)


def _check_names(recipe: CompiledRecipe, table: str, bytes_in: frozenset[str]) -> None:
    """Check that the columns that templates name are in the table; the arguments are those of ``_check_bytes``."""
    wanted, own = recipe.wanted, recipe.own
    if not wanted and not own:
        return
    known = known_names(recipe.source)
    if known is None:
        return  # the file does not say; an item without such a column has an error
    columns = (tables.header(table) if table else source_columns(recipe.source)) or ()
    problems = []
    for w in own:
        if w.name in columns:
            what = f"{cut(w.name)} is the item's own, and the table has a column of that name"
            remedy = f"write row[{quote(w.name)}] for the column, or call it otherwise"
            problems.append(Problem(w.where, f"{quote(w.text)}: {what}: {remedy}", w.line))
    for w in wanted:
        if w.name in bytes_in and (w.name not in known or w.text == f"{{{{ {w.name} }}}}"):
            what = f"{quote(w.text)}: the column {cut(w.name)} of {table} holds the bytes of pictures"
            problems.append(Problem(w.where, f"{what}, {_NOT_READ}", w.line))
        elif w.name not in known and w.name.removesuffix("_exists").removesuffix("_coverage") not in known:
            remedy = nearest(w.name, known) or f"; known here: {listed(sorted(known))}"
            problems.append(Problem(w.where, f"{quote(w.text)}: nothing is called {quote(w.name)}{remedy}", w.line))
    if problems:
        raise RecipeError(problems, file=recipe.file)
