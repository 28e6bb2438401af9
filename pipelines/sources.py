"""Items: one per image that a source finds, with its columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from flux_tasks import files
from flux_tasks.errors import InvalidRequest, Problem, RecipeError
from flux_tasks.images import stem
from pipelines import templates
from pipelines.recipe import Source

__all__ = ["Item", "items_of"]


@dataclass(frozen=True)
class Item:
    """One image and what is known about it before it is opened."""

    index: int
    path: str
    columns: dict[str, Any] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        """The file name without folder and extension."""
        return stem(self.path)

    @property
    def context(self) -> dict[str, Any]:
        """What its templates know: the item's own names and its columns."""
        own = {"stem": self.stem, "name": PurePosixPath(self.path).name, "path": self.path, "index": self.index}
        return {**own, **self.columns}


def items_of(source: Source) -> Iterator[Item]:
    """The items of ``source`` in order of its globs, each sorted; an image found twice comes once.

    Raises:
        RecipeError: nothing matches, or the place cannot be listed.
    """
    seen: set[str] = set()
    for pattern in source.images:
        try:
            found = files.glob(pattern)
        except OSError as error:
            raise RecipeError([Problem("source.images", f"'{pattern}' cannot be listed: {error}")]) from None
        for path in found:
            if path in seen:
                continue
            if source.limit is not None and len(seen) >= source.limit:
                return
            seen.add(path)
            yield _with_columns(Item(len(seen) - 1, path), source)
    if not seen:
        raise RecipeError([Problem("source.images", f"no file matches {', '.join(source.images)}")])


def _with_columns(item: Item, source: Source) -> Item:
    columns: dict[str, Any] = {}
    for name, template in source.columns.items():
        try:
            columns[name] = templates.render(template, {**item.context, **columns}, f"source.columns.{name}")
        except InvalidRequest as error:
            raise RecipeError(error.problems) from None
    return Item(item.index, item.path, columns)
