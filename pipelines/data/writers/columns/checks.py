"""What is known of the datasets of a recipe before anything is spent: their columns, and why rows cannot be added."""

from __future__ import annotations

from collections.abc import Iterator

from flux_tasks import files
from flux_tasks.errors import Problem, RecipeError, cut
from pipelines.data.items import Item
from pipelines.data.outputs import BESIDE
from pipelines.data.writers.columns.about import existing
from pipelines.data.writers.columns.schema import IMAGE, Schema
from pipelines.language.compiled import CompiledRecipe
from pipelines.language.graph import Graph, OutputTarget
from pipelines.language.names import SOURCE

__all__ = ["DatasetChecks", "ancestors"]


class DatasetChecks:
    """The datasets of a recipe, by their folders. Show it every item, then ask for problems.

    Attributes:
        schemas: the columns of each dataset, final after ``problems``.
    """

    def __init__(self, recipe: CompiledRecipe) -> None:
        self.schemas: dict[str, Schema] = {}
        self._found: list[Problem] = []
        for target in recipe.graph.targets:
            if target.output.dataset and target.output.dataset not in self.schemas:
                self._add(recipe, target)

    def __bool__(self) -> bool:
        return bool(self.schemas)

    def _add(self, recipe: CompiledRecipe, target: OutputTarget) -> None:
        output = target.output
        wanted = _schema(recipe, target)
        self.schemas[output.dataset] = wanted
        try:
            known, problems = existing(output)
        except RecipeError as error:
            self._found += error.problems
            return
        except OSError as error:
            self._found.append(Problem("output.dataset", f"{files.quoted(output.dataset)} cannot be read: {error}"))
            return
        self._found += problems
        if known is None:
            return
        if (known.pictures, known.own) == (wanted.pictures, wanted.own):
            self.schemas[output.dataset] = known
            return
        there, here = ({*schema.pictures, *schema.own} for schema in (known, wanted))
        what = ", ".join((*(f"no {name}" for name in sorted(here - there)), *sorted(there - here)))
        self._found.append(
            Problem("output.dataset", f"the rows of {files.quoted(output.dataset)} have {what}: name another folder")
        )

    def observe(self, item: Item) -> None:
        """Look at the columns of an item."""
        if not item.error:
            for schema in self.schemas.values():
                schema.observe(item)

    def problems(self) -> Iterator[Problem]:
        """Yield what keeps rows from being written; call it once, after the last item."""
        yield from self._found
        for folder, schema in self.schemas.items():
            for column, what in schema.problems.items():
                where = f"{files.quoted(folder)}: the column {cut(column)} {what}"
                yield Problem("output.dataset", f"{where}: name another folder, or take it out of the source")
            schema.fix()


def _schema(recipe: CompiledRecipe, target: OutputTarget) -> Schema:
    has_original = recipe.source.has_pictures and target.node != SOURCE
    nodes = ancestors(recipe.graph, target.node)
    has_mask = any(node.is_paid and "mask" in node.parameters for node in recipe.graph.nodes if node.id in nodes)
    pictures = (IMAGE, *(name for name, is_there in zip(BESIDE, (has_original, has_mask), strict=True) if is_there))
    output = target.output
    is_column = output.provenance and output.format != "imagefolder"
    return Schema.of(pictures, provenance=is_column, objects=recipe.source.annotations is not None)


def ancestors(graph: Graph, node: str) -> set[str]:
    """Return a node and all that its result is made of."""
    found, open_ends = {node}, [node]
    by_id = {node.id: node for node in graph.nodes}
    while open_ends:
        known = by_id.get(open_ends.pop())
        further = set(known.dependencies) - found if known else set()
        found |= further
        open_ends += further
    return found
