"""What the globs of a source have found, kept for as long as a run or a plan lasts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

from flux_tasks import files
from flux_tasks.errors import Problem, RecipeError, reason_of
from pipelines.data.formats import folders
from pipelines.data.formats.known_tars import KnownTars
from pipelines.data.formats.layout import Find

__all__ = ["Listed", "finder_in", "matched"]


class Listed(dict[str, list[str]]):
    """What each glob of a source has found. A run lists its folders once, so that it has the same items all the way.

    Attributes:
        tars: those that have been listed before.
        duplicates: the items that are left out, by their index: where each lies, and the item that is kept for it.
    """

    tars: KnownTars | None = None
    duplicates: Mapping[int, tuple[str, str]] = MappingProxyType({})


def finder_in(listed: Listed | None) -> Find:
    """Return what finds the files of a dataset, each pattern once.

    Args:
        listed: where it keeps what it has found.
    """
    return partial(matched, listed=listed, where="source.dataset")


def matched(pattern: str, listed: Listed | None, where: str = "source.images") -> list[str]:
    """Return the files that a glob of a source matches, or the pictures in the folder that it is.

    Args:
        listed: where they are kept for the next time.
        where: the field of the source.

    Raises:
        RecipeError: a folder cannot be listed.
    """
    if listed is not None and pattern in listed:
        return listed[pattern]
    try:
        found = files.glob(pattern)
        if where == "source.images" and found in ([], [pattern.rstrip("/")]):
            found = folders.pictures_below(pattern) or found
    except OSError as error:
        what = f"'{files.quoted(pattern)}' cannot be listed: {reason_of(error)}"
        raise RecipeError([Problem(where, what)]) from None
    if listed is not None:
        listed[pattern] = found
    return found
