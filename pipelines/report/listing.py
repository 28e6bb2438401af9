"""List the items without pictures: as rows of a table and, if they are many, packed for the script of the page."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from functools import lru_cache

from pipelines.report.items import Item, Step

_LONG = 300
_MAX_ROWS = 2_400_000  # bytes


class Listing:
    """The items without pictures, in their order, each of them rendered once at most and not held.

    Attributes:
        rows: those that need no script to be seen: the first ``most``, and up to as many again that need attention.
        total: how many items there are.
        packed_total: how many of them the script shows: all, unless they are more than a page can hold.

    Args:
        room: bytes that the list may take of the page.
        render_row: returns an item as a row of the table, given its steps as ``render_steps`` returns them.
    """

    def __init__(
        self,
        most: int,
        room: int,
        render_row: Callable[[Item, str], str],
        render_steps: Callable[[tuple[Step, ...]], str],
    ) -> None:
        self.rows: list[str] = []
        self.total = 0
        self.packed_total = 0
        self._most = most
        self._room = _MAX_ROWS
        self._max_packed = (room - _MAX_ROWS) * 3 / 4  # as base64
        self._needing_attention = 0
        self._render_row = render_row
        self._render_steps = lru_cache(render_steps)
        self._compressor = zlib.compressobj(wbits=31)  # gzip
        self._packed = bytearray()

    @property
    def is_long(self) -> bool:
        """Whether a browser with scripts had better make only the rows that are near the screen, of all of them."""
        return self.total > min(_LONG, len(self.rows))

    def add(self, item: Item) -> None:
        """Add the next item."""
        self.total += 1
        self._needing_attention += item.needs_attention
        is_wanted = len(self.rows) < self._most or (item.needs_attention and self._needing_attention <= self._most)
        is_packed = len(self._packed) < self._max_packed * (1.0 if item.needs_attention else 0.9)
        if not (is_wanted or is_packed):
            return
        row = self._render_row(item, self._render_steps(item.steps))
        if is_wanted and (size := len(row.encode("utf-8", "replace"))) <= self._room:
            self._room -= size
            self.rows.append(row)
        if is_packed:
            reasons = [error["message"] for error in item.errors]
            words = "\n".join([item.name, item.source, item.outcome, *item.paths, *reasons])
            entry = json.dumps([item.number, item.outcome, int(item.needs_attention), words, row])
            self._packed += self._compressor.compress(f"{',' if self.packed_total else '['}{entry}".encode())
            self.packed_total += 1

    def pack(self) -> str:
        """Return base64 of gzipped JSON: a list of [number, outcome, needs attention, words to find it by, row].

        Call it once, at the end.
        """
        self._packed += self._compressor.compress(b"]") + self._compressor.flush()
        return base64.b64encode(self._packed).decode("ascii")
