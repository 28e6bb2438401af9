"""Many small reads of a store at a time: nearly all of each is waiting."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from flux_tasks.background import Pool

__all__ = ["each"]

S = TypeVar("S")
T = TypeVar("T")

_THREADS = 16
_BATCH = 1_000  # so that neither all values nor all answers are in memory at once


def each(function: Callable[[S], T], values: Sequence[S]) -> Iterator[T]:
    """Yield what ``function`` returns for each value, in their order, worked out on threads."""
    with Pool(_THREADS) as pool:
        for start in range(0, len(values), _BATCH):
            yield from pool.map(function, values[start : start + _BATCH])
