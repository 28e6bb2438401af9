"""List the items that have no pictures in the report: as rows of a table, and packed for its script if they are many."""

from __future__ import annotations

import base64
import json
import zlib
from collections import Counter
from collections.abc import Callable
from functools import lru_cache

from pipelines.report.items import Item, Step

_LONG = 300
_MAX_ROWS = 3_000_000  # characters
_MAX_PACKED = 2_250_000  # bytes


class Listing:
    """The items without pictures, in their order, each of them rendered once and not held.

    Attributes:
        rows: those that need no script to be seen: the first ``most``, and up to as many again that need attention.
        total: how many items there are.
        packed_total: how many of them the script shows: all, unless they are more than a page can hold.

    Args:
        render_row: returns an item as a row of the table, given its steps as ``render_steps`` returns them.
    """

    def __init__(
        self, most: int, render_row: Callable[[Item, str], str], render_steps: Callable[[tuple[Step, ...]], str]
    ) -> None:
        self.rows: list[str] = []
        self.total = 0
        self.packed_total = 0
        self._most = most
        self._room = _MAX_ROWS
        self._needing_attention = 0
        self._render_row = render_row
        self._render_steps = lru_cache(render_steps)
        self._compressor = zlib.compressobj(wbits=31)  # gzip
        self._packed = bytearray(self._compressor.compress(b"["))

    @property
    def is_long(self) -> bool:
        """Whether they are so many that a browser with scripts had better make only the rows that are on the screen."""
        return self.total > min(_LONG, self._most)

    def add(self, item: Item) -> None:
        """Add the next item."""
        row = self._render_row(item, self._render_steps(item.steps))
        self.total += 1
        self._needing_attention += item.needs_attention
        is_wanted = len(self.rows) < self._most or (item.needs_attention and self._needing_attention <= self._most)
        if is_wanted and len(row) <= self._room:
            self._room -= len(row)
            self.rows.append(row)
        if len(self._packed) < _MAX_PACKED:
            found_by = "\n".join([item.name, item.source, item.outcome, *item.paths, *(e["message"] for e in item.errors)])
            entry = [item.number, item.outcome, int(item.needs_attention), found_by, row]
            text = json.dumps(entry, separators=(",", ":"))
            self._packed += self._compressor.compress(f"{',' * (self.packed_total > 0)}{text}".encode())
            self.packed_total += 1

    def pack(self) -> str:
        """Return all of it as base64 of gzipped JSON: a list of [number, outcome, needs attention, text, row]."""
        return base64.b64encode(self._packed + self._compressor.compress(b"]") + self._compressor.flush()).decode("ascii")
