"""What makes a dataset whole once its rows are written: an imagefolder's metadata, the card, and the marker."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from flux_tasks import files
from flux_tasks.images.reference import ImageRef
from pipelines.data.writers.card import SHOWN, Card, thumbnails
from pipelines.data.writers.columns.schema import IMAGE, Schema
from pipelines.data.writers.provenance import SIDECAR
from pipelines.data.writers.rows import Part, RowIndex, document
from pipelines.data.writers.shards import read_pictures, stats_name, stats_of
from pipelines.data.writers.sums import is_as_written, sums_at, sums_of
from pipelines.language.document.output import Output

__all__ = ["MARKER", "Ending", "lost_figures"]

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
        self._shown: dict[str, Any] = {}
        """The files of the card as the marker knows them: bytes and digest by name."""

    def _at(self, *parts: str) -> str:
        return files.join(self._output.dataset, *parts)

    def is_whole(self) -> bool:
        """Check whether the run that wrote last has come to its end, and what it wrote beside rows is as written.

        That is an imagefolder's metadata, the figures beside tars, and the card.

        Raises:
            OSError: that cannot be read.
        """
        try:
            figures = document(files.read(self._at(MARKER)))
            splits, known = figures["rows"], figures.get("metadata", {})
            places = {split: self._at(split, "metadata.jsonl") for split in splits if self._is_folder}
            return (
                all(is_as_written(place, known.get(split)) for split, place in places.items())
                and not any(lost_figures(self._output.dataset, figures.get("shards", ())))
                and not any(self._lost(figures.get("card", {})))
            )
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return False

    def begin(self) -> bool:
        """Remove the marker; returns whether it was there."""
        try:
            self._shown = dict(document(files.read(self._at(MARKER))).get("card", {}))
        except FileNotFoundError:
            return False
        except (ValueError, TypeError, AttributeError):
            self._shown = {}
        files.remove(self._at(MARKER))
        return True

    def _lost(self, known: Mapping[str, Any]) -> Iterator[str]:
        """Yield the files of the card that are not as written; of one in a bucket only its name is looked at."""
        if files.is_local(self._output.dataset):
            yield from (name for name, sums in known.items() if not is_as_written(self._at(name), sums))
        elif known:
            there = {"README.md", *(f"card/{name}" for name in files.listing(self._at("card")))}
            yield from known.keys() - there

    def remove_pictures(self) -> None:
        """Remove the pictures of the card.

        Raises:
            OSError: they cannot be removed.
        """
        for name in files.listing(self._at("card")):
            files.remove(self._at("card", name))
        self._shown = {}

    def _mend_pictures(self, index: RowIndex) -> None:
        """Make the pictures of the card anew, of the first rows, if one of them is not as written."""
        pictures = {name: sums for name, sums in self._shown.items() if name.startswith("card/")}
        if not any(self._lost(pictures)):
            return
        self.remove_pictures()
        lines = ((part, json.loads(line)) for part in index.parts for line in index.lines(part))
        for number, (part, row) in enumerate(islice(lines, SHOWN), 1):
            try:
                shown = {name: ImageRef.of(data) for name, data in self._pictures(part, row).items()}
            except Exception:  # noqa: S112 - damaged; libraries of formats have errors of their own
                continue
            for name, picture in thumbnails(shown).items():
                files.write(self._at("card", f"{number}-{name}.jpg"), picture)

    def _pictures(self, part: Part, row: Mapping[str, Any]) -> dict[str, bytes]:
        """Read the pictures of a row from the dataset."""
        if part.header["file"]:
            rows = read_pictures(self._output.format, self._at(part.header["file"]))
            return next((pictures for name, pictures in rows if name == row["id"]), {})
        columns = {name: "file_name" if name == IMAGE else f"{name}_file_name" for name in self._schema.pictures}
        names = {name: row[column] for name, column in columns.items() if row.get(column)}
        return {name: files.read(self._at(part.split, file)) for name, file in names.items()}

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
        headers = [part.header for part in index.parts]
        for place, figures in list(lost_figures(self._output.dataset, headers)):
            files.write(place, figures)
        self._mend_pictures(index)
        remarks = self._card.write(
            self._output, self._schema, sorted({name for one in headers for name in one["fields"]})
        )
        own = [*(f"card/{name}" for name in files.listing(self._at("card"))), *(() if remarks else ("README.md",))]
        self._shown = {name: sums_at(self._at(name)) for name in own}
        return remarks

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
            "card": self._shown,
        }
        files.write(self._at(MARKER), json.dumps(figures, indent=1).encode())


def lost_figures(folder: str, shards: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, bytes]]:
    """Yield where the figures beside a tar are not as written, and what they are.

    Of those in a bucket only the names are looked at.

    Args:
        shards: headers of parts.

    Raises:
        OSError: they cannot be read.
    """
    tars = [header for header in shards if header["file"].endswith(".tar")]
    there = {*files.listing(files.join(folder, "data"))} if tars else set()
    for header in tars:
        place, figures = stats_name(files.join(folder, header["file"])), stats_of(header)
        is_there = files.name(place) in there
        if not is_there or (files.is_local(place) and files.read(place) != figures):
            yield place, figures


def _old_files(index: RowIndex, part: Part) -> Iterator[str]:
    """Yield the files of rows that have come again, changed."""
    for line in index.lines(part, is_current=False):
        yield from _files_of(part.split, json.loads(line))


def _files_of(split: str, row: Mapping[str, Any]) -> Iterator[str]:
    """Yield the pictures that a line of ``metadata.jsonl`` names, from the folder of the dataset."""
    names = (f"{split}/{value}" for name, value in row.items() if name.endswith("file_name") and value)
    yield from names
