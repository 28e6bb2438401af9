"""The manifest: one JSON line per item of a run, written as items end."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from flux_tasks import files

__all__ = ["FINE", "OUTCOMES", "SEVERITY", "Manifest", "read_manifest"]

OUTCOMES = ("done", "cached", "skipped", "moderated", "invalid", "failed", "held")
"""``done`` (at least one job now), ``cached`` (all from the store), ``skipped`` (no step applied), ``moderated``,
``invalid`` (bad input), ``failed``, ``held`` (may be paid for, or the run was stopped)."""

SEVERITY = ("held", "failed", "moderated", "invalid")
"""Which outcome an item has whose branches ended in several: the first of these."""

FINE = frozenset({"done", "cached", "skipped"})
"""Outcomes that need nobody's attention."""


class Manifest:
    """Appends rows to a JSONL file on any location.

    A local file can be followed while the run goes on; on an object store, which cannot append, the rows gather in a
    temporary file and are written when the manifest is closed.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        self._file: io.TextIOBase | None = None
        self._spool: Path | None = None

    def __enter__(self) -> Manifest:
        if files.is_local(self.location):
            path = files.local_path(self.location)
            path.parent.mkdir(parents=True, exist_ok=True)
        else:
            with tempfile.NamedTemporaryFile("w", suffix=".jsonl", delete=False) as spool:
                path = self._spool = Path(spool.name)
        self._file = path.open("w", encoding="utf-8", errors="backslashreplace")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None  # noqa: S101 - entered
        self._file.close()
        if self._spool is not None:
            with contextlib.ExitStack() as stack:
                stack.callback(self._spool.unlink)
                files.write(self.location, self._spool.read_bytes())

    def add(self, row: Mapping[str, Any]) -> None:
        """Write one item's row; it is on disk when this returns."""
        assert self._file is not None  # noqa: S101 - entered
        self._file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
        self._file.flush()


def read_manifest(location: str) -> Iterator[dict[str, Any]]:
    """The rows of a manifest, in the order in which items ended. A last line that was cut off is left out."""
    for line in (
        files.read(location).decode("utf-8", errors="replace").split("\n")
    ):  # and at no other sign that ends lines elsewhere
        with contextlib.suppress(ValueError):
            yield json.loads(line)
