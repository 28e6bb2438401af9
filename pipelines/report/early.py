"""Make the small pictures of the report while the run waits for its jobs: afterwards, it is written at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Self

from flux_tasks.background import Pool
from pipelines.data.manifest import ItemOutcome
from pipelines.report.items import add_pictures, read_item
from pipelines.report.page import MAX_PICTURES, limits_of
from pipelines.report.previews import Previews


class EarlyPreviews:
    """The small pictures of one run's report, made on one thread.

    Their size depends on how many results the report will show. That is guessed from each row: where the guess was
    wrong, the report makes them again.

    Args:
        open_previews: returns the pictures that earlier reports have made. It may read from a store.
    """

    def __init__(self, open_previews: Callable[[], Previews]) -> None:
        self._open = open_previews
        self._shown = 0
        self._pool = Pool(1, "previews")

    def begin(self, total: int) -> None:
        """Expect a report of ``total`` items; before, and where there will be no report, nothing is made."""
        self._shown = min(total, MAX_PICTURES)

    @cached_property
    def previews(self) -> Previews:
        """What there is. Ask for it when no item will follow."""
        return self._open()

    def add(self, row: Mapping[str, Any]) -> None:
        """Have the pictures of an item made, unless the report does not show it or has them from an earlier run."""
        if row["index"] < self._shown and row["outcome"] == ItemOutcome.DONE:
            self._pool.submit(self._make, row)

    def _make(self, row: Mapping[str, Any]) -> None:
        add_pictures(read_item(0, row), row, limits_of([row] * self._shown), self.previews)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)  # what was not begun is left to the report, which has all cores
