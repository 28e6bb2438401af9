"""A dataset that a run writes, or adds to.

::

    README.md                         the card
    _SUCCESS                          the run that wrote last has come to its end
    train/hens.png, metadata.jsonl    imagefolder
    data/train-00000.parquet          parquet; and .tar, _stats.json of webdataset
    .flux/dataset.json                format and columns
    .flux/rows/train-00000.jsonl      see rows.py
    .flux/writer.json                 the process that writes at this moment

A shard that has its name is never changed; a row that comes again, changed, goes into a new one, and the old one is
replaced by one without it. So a run that is killed at any moment leaves whole files only, and the next one goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from flux_tasks import files
from flux_tasks.errors import StoreUnavailable
from pipelines.data.outputs import put
from pipelines.data.writers.card import SHOWN, Card, thumbnails
from pipelines.data.writers.columns.about import about
from pipelines.data.writers.columns.schema import IMAGE, Row, Schema
from pipelines.data.writers.ending import Ending
from pipelines.data.writers.only_writer import OnlyWriter
from pipelines.data.writers.open_part import OpenPart, Written, file_name
from pipelines.data.writers.provenance import SIDECAR
from pipelines.data.writers.rows import HOME, Part, RowIndex, identity_of, key_of, part_name, read_rows
from pipelines.data.writers.shards import Tar, stats_name, stats_of
from pipelines.data.writers.sums import digest_at, is_as_written, sums_of
from pipelines.language.document.output import Output, bytes_of

__all__ = ["Dataset"]

_MOST_ROWS = {"imagefolder": 1_000, "parquet": 10_000, "webdataset": 10_000}
"""Rows that are written together at most: their notes are in memory."""


class Dataset:
    """A dataset that rows are added to, by one thread at a time. Nothing is read or written before the first row.

    Args:
        prints: where the fingerprints of files are taken.
        card: what its README says besides its rows.
    """

    def __init__(self, output: Output, schema: Schema, prints: files.Fingerprints, card: Card) -> None:
        self.output, self.schema = output, schema
        self._prints = prints
        self._folder = output.dataset
        self._staging = files.Staging(self._at(HOME, "tmp"))
        self._index: RowIndex | None = None
        self._open: dict[str, OpenPart] = {}
        self._intact: dict[str, bool] = {}
        self._writer = OnlyWriter(self._folder)
        self._ending = Ending(output, schema, self._staging, card)
        self._is_begun = False

    def _at(self, *parts: str) -> str:
        return files.join(self._folder, *parts)

    @property
    def index(self) -> RowIndex:
        """The rows that it has.

        Raises:
            StoreUnavailable: they cannot be read.
        """
        if self._index is None:
            self._index = read_rows(self._folder)
        return self._index

    def read(self) -> None:
        """Read which rows it has.

        Raises:
            StoreUnavailable: they cannot be read.
        """
        len(self.index)

    # -- one writer -----------------------------------------------------------------------------------------------

    def check_writer(self) -> bool:
        """Check that no other process writes it at this moment; returns whether one has that was killed.

        Raises:
            DatasetBusy: one does.
        """
        return self._writer.check()

    def _begin(self) -> None:
        if self._is_begun:
            return
        self._writer.begin()
        self._is_begun = True
        self._index = None  # another process may have written since it was read
        self._intact.clear()
        self._staging.clear()
        if not self._ending.begin():
            files.remove_leftovers(self._folder)
        if not files.exists(self._at(HOME, "dataset.json")):
            files.write(self._at(HOME, "dataset.json"), about(self.output, self.schema))
        for part in self.index.replaced:
            self._remove_shard(part.header["file"])
        for location in self.index.orphans:
            files.remove(location)

    # -- rows -----------------------------------------------------------------------------------------------------

    def line_of(self, row: Row) -> bytes:
        """Return a row as it is in ``metadata.jsonl``, or in the JSON file of a tar."""
        columns = {**row.columns, **{name: [one.digest for one in images] for name, images in row.lists.items()}}
        if self.output.format == "imagefolder":
            names = {
                "file_name" if name == IMAGE else f"{name}_file_name": (
                    file_name(row, name) if name in row.pictures else None
                )
                for name in self.schema.pictures
            }
            texts = {name: "" for name, kind in self.schema.kinds.items() if kind == "string"}
            # Of a column with nothing but nulls, readers of JSON do not know that it is text.
            known = {name: texts.get(name) if value is None else value for name, value in columns.items()}
            columns = {**names, **known}
        return json.dumps(columns, ensure_ascii=False).encode("utf-8", "replace")

    def find(self, row: Row, line: bytes) -> dict[str, str | None] | None:
        """Return the fingerprints of a row's files if it is there as it would be written; else None.

        Raises:
            OSError, StoreUnavailable: the dataset cannot be read.
        """
        found = self.index.find(key_of(row.split, row.name))
        if found is None or found[1] != identity_of(line):
            return None
        part = found[0]
        if file := part.header["file"]:
            places = [self._at(file)] if self._is_intact(part) else []
        else:
            pictures = {self._at(row.split, file_name(row, name)): image for name, image in row.pictures.items()}
            is_there = all(digest_at(place) == image.digest for place, image in pictures.items())
            beside = self._at(row.split, f"{file_name(row, IMAGE)}{SIDECAR}")
            wanted = hashlib.sha256(row.sidecar.encode("utf-8", "replace")).hexdigest()
            is_there = is_there and (not row.sidecar or digest_at(beside) == wanted)
            places = [*pictures, *([beside] if row.sidecar else [])] if is_there else []
        return {place: self._prints.of(place) or self._prints.of_written(place) for place in places} or None

    def _is_intact(self, part: Part) -> bool:
        """Check whether a shard is as it was written; of one in a bucket only its size is looked at."""
        if part.name not in self._intact:
            place = self._at(part.header["file"])
            self._intact[part.name] = is_as_written(place, part.header)
        return self._intact[part.name]

    def add(self, row: Row, line: bytes, data: Mapping[str, bytes], written: Written) -> None:
        """Add a row with the bytes of its pictures; ``written`` is called when it is safe.

        Raises:
            OSError: it cannot be written. All that is not safe yet is for another run to write.
            StoreUnavailable: another process writes the dataset.
        """
        self._begin()
        part = self._open.get(row.split)
        size = sum(map(len, data.values())) + len(line)
        is_sharded = self.output.format != "imagefolder"
        most = bytes_of(self.output.shard_size) if is_sharded else None
        if part is not None and (part.rows >= _MOST_ROWS[self.output.format] or (most and part.size + size > most)):
            self._commit(part)
            part = None
        if part is None:
            part = self._open[row.split] = self._new_part(row.split)
        shown = len(self.index) + sum(part.rows for part in self._open.values()) + 1
        if shown <= SHOWN:
            for name, picture in thumbnails(row.pictures).items():
                files.write(self._at("card", f"{shown}-{name}.jpg"), picture)
        part.add(row, line, data, written)

    def _write_pictures(self, row: Row, data: Mapping[str, bytes]) -> dict[str, str | None]:
        """Write the files of a row of an imagefolder; returns their fingerprints."""
        prints: dict[str, str | None] = {}
        for name, content in data.items():
            place = self._at(row.split, file_name(row, name))
            digest = row.pictures[name].digest
            prints[place] = put(place, len(content), digest, partial(bytes, content), self._prints)
        if row.sidecar:
            beside = self._at(row.split, f"{file_name(row, IMAGE)}{SIDECAR}")
            state = files.write(beside, row.sidecar.encode("utf-8", "replace"))
            prints[beside] = self._prints.of_written(beside, state)
        return prints

    # -- parts ----------------------------------------------------------------------------------------------------

    def _new_part(self, split: str, *, replaces: str = "") -> OpenPart:
        parts = (split, self.output, self.schema, self._staging, self._write_pictures)
        return OpenPart(*parts, replaces=replaces)

    def _commit(self, open_part: OpenPart) -> Part:
        """Write what an open part has under its name; its rows are safe then."""
        split, shard = open_part.split, open_part.shard
        name = part_name(split, self.index.next_number(split))
        header: dict[str, Any] = {
            "file": f"data/{name}{shard.suffix}" if shard else "",
            "rows": open_part.rows,
            "order": self.index.next_order(),
            "replaces": open_part.replaces,
            "fields": sorted(open_part.fields),
        }
        if shard is not None:
            shard.finish()
            header |= sums_of(open_part.file)
        part = Part(split, self.index.next_number(split), self._at(HOME, "rows", f"{name}.jsonl"), header)
        open_part.write_lines(json.dumps(header).encode())
        files.patiently(self._staging.publish, open_part.lines, part.location)
        place = self._at(header["file"]) if shard else ""
        if isinstance(shard, Tar):
            files.write(stats_name(place), stats_of(header))
        if shard is not None:
            files.patiently(self._staging.publish, open_part.file, place)
        self._open.pop(split, None)
        self._writer.go_on()
        self.index.add(part, open_part.keys)
        prints = {place: self._prints.of_written(place)} if place else {}
        for written, own in open_part.written:
            written(own or prints)
        return part

    def _remove_shard(self, file: str) -> None:
        files.remove(self._at(file))
        if self.output.format == "webdataset":
            files.remove(stats_name(self._at(file)))

    def _replace(self, part: Part, gone: set[str]) -> None:
        """Replace a shard whose rows have partly moved to newer ones by one without them."""
        if len(gone) < part.header["rows"]:
            anew = self._new_part(part.split, replaces=part.name)
            anew.fields |= set(part.header["fields"])
            with files.stream(self._at(part.header["file"])) as shard:
                anew.copy(shard, gone, self.index.lines(part))
            self._commit(anew)
        self._remove_shard(part.header["file"])
        files.remove(part.location)
        self.index.drop(part)

    # -- the end --------------------------------------------------------------------------------------------------

    def close(self, *, is_complete: bool, without_row: int = 0) -> list[str]:
        """Write what is left, the card, and the marker of a complete dataset; returns what a person should know.

        Args:
            is_complete: whether the run has come to its end.
            without_row: how many items of the run have no row.

        Raises:
            OSError, StoreUnavailable: it cannot be written.
        """
        if not self._is_begun:
            if not is_complete or not files.exists(self._at(HOME, "dataset.json")):
                return []
            if self._ending.is_whole():
                with suppress(StoreUnavailable):  # it has begun just now
                    if self._writer.check():
                        self._writer.end()
                return []
            self._begin()
        try:
            for part in list(self._open.values()):
                self._commit(part)
            self._drop_old_rows()
            remarks = self._ending.write(self.index, without_row)
            if is_complete:
                self._ending.mark(self.index)
            return remarks
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Leave the dataset to the next writer, without what is not safe yet."""
        if self._is_begun:
            self._is_begun = False
            for part in self._open.values():
                part.abandon()
            self._open.clear()
            self._staging.clear()
            with suppress(OSError):
                self._writer.end()

    def has(self, split: str, name: str) -> bool:
        """Check whether it has a row.

        Raises:
            StoreUnavailable: it cannot be read.
        """
        return self.index.find(key_of(split, name)) is not None

    def drop(self, rows: Mapping[str, Sequence[str]]) -> None:
        """Take rows out, by their splits and names. ``close`` removes their pictures, or writes shards without them.

        The pictures in the card go as well.

        Raises:
            OSError: it cannot be written.
            StoreUnavailable: another process writes it.
        """
        self._begin()
        for split, names in rows.items():
            number = self.index.next_number(split)
            header: dict[str, Any] = {
                "file": "",
                "rows": len(names),
                "order": self.index.next_order(),
                "replaces": "",
                "fields": [],
            }
            lines = self._staging.new()
            written = [{**header, "removes": True}, *({"id": name} for name in names)]
            lines.write_text("".join(f"{json.dumps(line)}\n" for line in written))
            part = Part(split, number, self._at(HOME, "rows", f"{part_name(split, number)}.jsonl"), dict(written[0]))
            files.patiently(self._staging.publish, lines, part.location)
            self.index.add(part, [(key_of(split, name), b"") for name in names])
        self._ending.remove_pictures()  # nobody knows which rows they show

    def _drop_old_rows(self) -> None:
        """Remove from shards the rows that newer ones have, changed."""
        if self.output.format == "imagefolder":
            return
        for part in self.index.parts_with_old_rows():
            gone = {str(json.loads(line)["id"]) for line in self.index.lines(part, is_current=False)}
            self._replace(part, gone)
