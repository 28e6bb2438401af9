"""Choose a sample that stands for all items of a recipe: pictures of every size, and of every sharpness among these.

Items are drawn at random, by a hash of the source's seed and what tells them apart, and only those are looked at: the
pictures of a large source are not all read for a sample. They are put in the order of their size, cut into bands, put
in the order of their sharpness in each band, and cut into as many equal parts as the sample has items; one item of each
part is in the sample. So the same items and seed give the same sample.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from flux_tasks import files
from flux_tasks.background import Pool
from flux_tasks.errors import FluxError, Problem, RecipeError, shown
from flux_tasks.images.reference import ImageRef, remembering
from flux_tasks.store.records import Store
from pipelines.data.inputs import KnownInputs, ReadFiles
from pipelines.data.items import Item, draw
from pipelines.execution.facts import Facts

__all__ = ["Sample", "check_sample", "choose_sample"]

T = TypeVar("T")

_LEAST = 200
_TIMES = 5
"""So many items are looked at for each one of the sample, and ``_LEAST`` at least."""
_THREADS = 8
_UNREADABLE = (0.0, 0.0)


@dataclass(frozen=True)
class Sample:
    """Items that stand for all.

    Attributes:
        indexes: of its items.
        total: how many items it stands for; duplicates are none.
        looked_at: how many of them were looked at.
    """

    indexes: frozenset[int]
    total: int
    looked_at: int

    def has(self, item: Item) -> bool:
        """Check whether an item is in it."""
        return item.index in self.indexes


def check_sample(sample: int | None, limit: int | None) -> None:
    """Check that ``sample`` is a number of items, and the only one.

    Raises:
        RecipeError: it is not.
    """
    if sample is None:
        return
    if not isinstance(sample, int) or isinstance(sample, bool) or sample < 1:
        raise RecipeError(
            [Problem("sample", f"{shown(sample)} is not a number of items: write one above 0, such as 20")]
        )
    if limit is not None:
        what = "limit takes the first items, and sample takes some of all: give one of them"
        raise RecipeError([Problem("sample", what)])


def choose_sample(
    items: Iterable[Item], size: int, *, seed: int, store: Store, facts: Facts, run_id: str = "", is_trusted: bool
) -> Sample:
    """Return a sample of ``size`` of these items, or all of them if there are fewer.

    Args:
        run_id: under which it notes what it has read; empty for a plan, which notes nothing.
        is_trusted: whether what earlier runs have noted of pictures is believed.
    """
    total = 0

    def counted() -> Iterable[tuple[float, int, Item]]:
        nonlocal total
        for item in items:
            if not item.duplicate_of:
                total += 1
                yield draw(seed, item.path or str(item.number)), item.index, item

    drawn = heapq.nsmallest(max(_LEAST, _TIMES * size), counted(), key=lambda one: one[:2])
    with closing(KnownInputs(store, files.Fingerprints(), run_id, is_trusted=is_trusted)) as inputs:

        def measured(item: Item) -> tuple[float, float]:
            if item.error or not item.path:
                return _UNREADABLE
            read = ReadFiles(inputs, store)
            try:
                with remembering(read):
                    image = ImageRef.of(item.path)
                measures = facts.of(image, ("megapixels", "sharpness"))
            except (FluxError, OSError):
                return _UNREADABLE
            read.take_note(inputs)
            return measures["megapixels"], measures["sharpness"]

        pictured = [item for _, _, item in drawn]
        with Pool(_THREADS) as pool:
            found = zip(pictured, pool.map(measured, pictured), strict=True)
            figures = {item.index: figure for item, figure in found}
    order = {item.index: number for number, item in enumerate(pictured)}
    strata = _strata(figures, min(size, len(drawn)))
    return Sample(frozenset(min(part, key=order.__getitem__) for part in strata), total, len(drawn))


def _strata(figures: dict[int, tuple[float, float]], count: int) -> list[list[int]]:
    """Return so many parts of items that are alike; neighbours are, too.

    Args:
        figures: size and sharpness by the index of the item.
    """
    by_size = sorted(figures, key=lambda index: (figures[index][0], index))
    ordered: list[int] = []
    for number, band in enumerate(_cut(by_size, max(1, round(math.sqrt(count))))):
        ordered += sorted(band, key=lambda index: (figures[index][1], index), reverse=bool(number % 2))
    return _cut(ordered, count)


def _cut(values: Sequence[T], count: int) -> list[list[T]]:
    """Return ``values`` in so many parts that are nearly of one length."""
    ends = [len(values) * number // count for number in range(count + 1)] if count else []
    return [list(values[start:end]) for start, end in pairwise(ends)]
