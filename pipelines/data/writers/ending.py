"""What makes a dataset whole once its rows are written: an imagefolder's metadata, the card, and the marker."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from flux_tasks import files
from pipelines.data.writers.card import Card
from pipelines.data.writers.columns.schema import Schema
from pipelines.data.writers.provenance import SIDECAR
from pipelines.data.writers.rows import Part, RowIndex
from pipelines.data.writers.sums import is_as_written, sums_of
from pipelines.language.document.output import Output

__all__ = ["MARKER", "Ending"]

MARKER = "_SUCCESS"
"""Says that the run that wrote last has come to its end; other tools look for this name, too."""


class Ending:
    """The files of a dataset that are about all of its rows.

    Args:
        staging: where files are before they have their names.
        card: what its README says besides its rows.
    """

    def __init__(self, output: Output, schema: Schema, staging: files.Staging, card: Card) -> None:
        self._output, self._schema, self._staging, self._card = output, schema, staging, card
        self._is_folder = output.format == "imagefolder"
        self._metadata: dict[str, dict[str, Any]] = {}
        """Bytes and digest of the metadata of each split, once it is written."""

    def _at(self, *parts: str) -> str:
        return files.join(self._output.dataset, *parts)

    def is_whole(self) -> bool:
        """Check whether the run that wrote last has come to its end, and an imagefolder has its metadata as written.

        Raises:
            OSError: that cannot be read.
        """
        try:
            figures = json.loads(files.read(self._at(MARKER)))
            splits, known = figures["rows"], figures.get("metadata", {})
            places = {split: self._at(split, "metadata.jsonl") for split in splits if self._is_folder}
            return all(is_as_written(place, known.get(split)) for split, place in places.items())
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return False

    def begin(self) -> bool:
        """Remove the marker; returns whether it was there."""
        is_clean = files.exists(self._at(MARKER))
        files.remove(self._at(MARKER))
        return is_clean

    def write(self, index: RowIndex, without_row: int) -> list[str]:
        """Write the metadata of an imagefolder, and the card; returns what a person should know.

        Args:
            without_row: how many items of the run have no row.

        Raises:
            OSError: it cannot be written.
        """
        self._card.begin(without_row)
        metadata: dict[str, BinaryIO] = {}
        old = {name for part in index.parts if self._is_folder for name in _old_files(index, part)}
        with ExitStack() as stack:
            for part in index.parts:
                if self._is_folder and part.split not in metadata:
                    metadata[part.split] = stack.enter_context(self._staging.new().open("wb"))
                for line in index.lines(part):
                    row = json.loads(line)
                    self._card.add(part.split, row)
                    if self._is_folder:
                        metadata[part.split].write(line + b"\n")
                        old.difference_update(_files_of(part.split, row))
        for split, file in metadata.items():
            if Path(file.name).stat().st_size:
                self._metadata[split] = sums_of(Path(file.name))
                files.patiently(self._staging.publish, Path(file.name), self._at(split, "metadata.jsonl"))
            else:  # all rows were taken out
                files.remove(self._at(split, "metadata.jsonl"))
        for name in old:
            files.remove(self._at(name))
            files.remove(self._at(f"{name}{SIDECAR}"))
        fields = {field for part in index.parts for field in part.header["fields"]}
        return self._card.write(self._output, self._schema, sorted(fields))

    def mark(self, index: RowIndex) -> None:
        """Write the marker of a complete dataset.

        Raises:
            OSError: it cannot be written.
        """
        rows: Counter[str] = Counter()
        for part in index.parts:
            rows[part.split] += sum(1 for _ in index.lines(part))
        parts = sorted((part for part in index.parts if part.header["file"]), key=lambda part: part.name)
        shards = [{key: part.header[key] for key in ("file", "rows", "bytes", "sha256")} for part in parts]
        figures = {
            "format": self._output.format,
            "rows": {split: count for split, count in sorted(rows.items()) if count},
            **({"shards": shards} if shards else {}),
            **({"metadata": self._metadata} if self._metadata else {}),
        }
        files.write(self._at(MARKER), json.dumps(figures, indent=1).encode())


def _old_files(index: RowIndex, part: Part) -> Iterator[str]:
    """Yield the files of rows that have come again, changed."""
    for line in index.lines(part, is_current=False):
        yield from _files_of(part.split, json.loads(line))


def _files_of(split: str, row: Mapping[str, Any]) -> Iterator[str]:
    """Yield the pictures that a line of ``metadata.jsonl`` names, from the folder of the dataset."""
    names = (f"{split}/{value}" for name, value in row.items() if name.endswith("file_name") and value)
    yield from names
