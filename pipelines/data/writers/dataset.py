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
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from flux_tasks import files
from flux_tasks.errors import DatasetBusy, StoreUnavailable
from flux_tasks.store.owner import has_ended, is_of_this_machine, readable, this_process
from pipelines.data.outputs import put
from pipelines.data.writers.about import about
from pipelines.data.writers.card import Card, thumbnails
from pipelines.data.writers.open_part import OpenPart, Written, file_name
from pipelines.data.writers.provenance import SIDECAR
from pipelines.data.writers.rows import HOME, Part, RowIndex, identity_of, key_of, part_name
from pipelines.data.writers.schema import IMAGE, Row, Schema
from pipelines.data.writers.shards import Tar, stats_name
from pipelines.language.document.output import Output, bytes_of

__all__ = ["MARKER", "Dataset", "Written"]

MARKER = "_SUCCESS"
"""Says that the run that wrote last has come to its end; other tools look for this name, too."""

_MOST_ROWS = {"imagefolder": 1_000, "parquet": 10_000, "webdataset": 10_000}
"""Rows that are written together at most: their notes are in memory."""
_SILENCE = 2 * 3_600
"""Seconds after which a writer on another machine that has finished no shard is taken for gone."""
_SHOWN = 3
"""Rows whose pictures are in the card."""


class Dataset:
    """A dataset that rows are added to, by one thread at a time. Nothing is read or written before the first row.

    Args:
        prints: where the fingerprints of files are taken.
        card: what its README says besides its rows.
    """

    def __init__(self, output: Output, schema: Schema, prints: files.Fingerprints, card: Card) -> None:
        self.output, self.schema = output, schema
        self._prints, self._card = prints, card
        self._folder = output.dataset
        self._staging = files.Staging(self._at(HOME, "tmp"))
        self._index: RowIndex | None = None
        self._open: dict[str, OpenPart] = {}
        self._intact: dict[str, bool] = {}
        self._metadata: dict[str, dict[str, Any]] = {}
        """Bytes and digest of the metadata of each split, once it is written."""
        self._is_begun = False

    def _at(self, *parts: str) -> str:
        return files.join(self._folder, *parts)

    @property
    def index(self) -> RowIndex:
        """The rows that it has.

        Raises:
            OSError: they cannot be read.
        """
        if self._index is None:
            self._index = RowIndex(self._folder)
        return self._index

    # -- one writer -----------------------------------------------------------------------------------------------

    def check_writer(self) -> bool:
        """Check that no other process writes it at this moment; returns whether one has that was killed.

        Raises:
            DatasetBusy: one does.
        """
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            known = json.loads(files.read(self._at(HOME, "writer.json")))
            owner, is_old = str(known["owner"]), time.time() - known["time"] > _SILENCE
            if not has_ended(owner) and not (is_old and not is_of_this_machine(owner)):
                where = f"{files.quoted(self._folder)} is being written by {readable(owner)}"
                raise DatasetBusy(f"{where}: wait, or remove {HOME}/writer.json if that process is gone")
            return True
        return False

    def _begin(self) -> None:
        if self._is_begun:
            return
        self.check_writer()
        place, own = self._at(HOME, "writer.json"), _signature()
        if not files.create(place, own):
            files.remove(place)  # of a process that has ended
            if not files.create(place, own):
                self.check_writer()
        self._is_begun = True
        self._index = None  # another process may have written since it was read
        self._intact.clear()
        self._staging.clear()
        is_clean = files.exists(self._at(MARKER))
        if not is_clean:
            files.remove_leftovers(self._folder)
        files.remove(self._at(MARKER))
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
            OSError: the dataset cannot be read.
        """
        found = self.index.find(key_of(row.split, row.name))
        if found is None or found[1] != identity_of(line):
            return None
        part = found[0]
        if file := part.header["file"]:
            places = [self._at(file)] if self._is_intact(part) else []
        else:
            pictures = {self._at(row.split, file_name(row, name)): image for name, image in row.pictures.items()}
            is_there = all(_digest_at(place) == image.digest for place, image in pictures.items())
            beside = self._at(row.split, f"{file_name(row, IMAGE)}{SIDECAR}")
            wanted = hashlib.sha256(row.sidecar.encode("utf-8", "replace")).hexdigest()
            is_there = is_there and (not row.sidecar or _digest_at(beside) == wanted)
            places = [*pictures, *([beside] if row.sidecar else [])] if is_there else []
        return {place: self._prints.of(place) or self._prints.of_written(place) for place in places} or None

    def _is_intact(self, part: Part) -> bool:
        """Check whether a shard is as it was written; of one in a bucket only its size is looked at."""
        if part.name not in self._intact:
            place = self._at(part.header["file"])
            self._intact[part.name] = _is_as_written(place, part.header)
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
        if shown <= _SHOWN:
            for name, picture in thumbnails(row, data).items():
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
            header |= _sums(open_part.file)
        part = Part(split, self.index.next_number(split), self._at(HOME, "rows", f"{name}.jsonl"), header)
        open_part.write_lines(json.dumps(header).encode())
        files.patiently(self._staging.publish, open_part.lines, part.location)
        place = self._at(header["file"]) if shard else ""
        if isinstance(shard, Tar):
            figures = {key: header[key] for key in ("rows", "bytes", "sha256")}
            files.write(stats_name(place), json.dumps(figures, indent=1).encode())
        if shard is not None:
            files.patiently(self._staging.publish, open_part.file, place)
        self._open.pop(split, None)
        files.write(self._at(HOME, "writer.json"), _signature())
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
            if self._is_whole():
                with suppress(StoreUnavailable):  # it has begun just now
                    if self.check_writer():
                        files.remove(self._at(HOME, "writer.json"))
                return []
            self._begin()
        try:
            for part in list(self._open.values()):
                self._commit(part)
            self._drop_old_rows()
            remarks = self._write_ends(without_row)
            if is_complete:
                files.write(self._at(MARKER), json.dumps(self._figures(), indent=1).encode())
            return remarks
        finally:
            self.abandon()

    def _is_whole(self) -> bool:
        """Check whether the run that wrote last has come to its end, and an imagefolder has its metadata as written."""
        try:
            figures = json.loads(files.read(self._at(MARKER)))
            splits, known = figures["rows"], figures.get("metadata", {})
            is_folder = self.output.format == "imagefolder"
            places = {split: self._at(split, "metadata.jsonl") for split in splits if is_folder}
            return all(_is_as_written(place, known.get(split)) for split, place in places.items())
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return False

    def abandon(self) -> None:
        """Leave the dataset to the next writer, without what is not safe yet."""
        if self._is_begun:
            self._is_begun = False
            for part in self._open.values():
                part.abandon()
            self._open.clear()
            self._staging.clear()
            with suppress(OSError):
                files.remove(self._at(HOME, "writer.json"))

    def has(self, split: str, name: str) -> bool:
        """Check whether it has a row.

        Raises:
            OSError: it cannot be read.
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
        for name in files.listing(self._at("card")):  # nobody knows which rows they show
            files.remove(self._at("card", name))

    def _drop_old_rows(self) -> None:
        """Remove from shards the rows that newer ones have, changed."""
        if self.output.format == "imagefolder":
            return
        for part in self.index.parts_with_old_rows():
            gone = {str(json.loads(line)["id"]) for line in self.index.lines(part, is_current=False)}
            self._replace(part, gone)

    def _write_ends(self, without_row: int) -> list[str]:
        """Write the metadata of an imagefolder, and the card."""
        is_folder = self.output.format == "imagefolder"
        self._card.begin(without_row)
        metadata: dict[str, BinaryIO] = {}
        old = {name for part in self.index.parts if is_folder for name in self._old_files(part)}
        with ExitStack() as stack:
            for part in self.index.parts:
                if is_folder and part.split not in metadata:
                    metadata[part.split] = stack.enter_context(self._staging.new().open("wb"))
                for line in self.index.lines(part):
                    row = json.loads(line)
                    self._card.add(part.split, row)
                    if is_folder:
                        metadata[part.split].write(line + b"\n")
                        old.difference_update(_files_of(part.split, row))
        for split, file in metadata.items():
            if Path(file.name).stat().st_size:
                self._metadata[split] = _sums(Path(file.name))
                files.patiently(self._staging.publish, Path(file.name), self._at(split, "metadata.jsonl"))
            else:  # all rows were taken out
                files.remove(self._at(split, "metadata.jsonl"))
        for name in old:
            files.remove(self._at(name))
            files.remove(self._at(f"{name}{SIDECAR}"))
        fields = {field for part in self.index.parts for field in part.header["fields"]}
        return self._card.write(self.output, self.schema, sorted(fields))

    def _old_files(self, part: Part) -> Iterator[str]:
        """Yield the files of rows that have come again, changed."""
        for line in self.index.lines(part, is_current=False):
            yield from _files_of(part.split, json.loads(line))

    def _figures(self) -> dict[str, Any]:
        rows: Counter[str] = Counter()
        for part in self.index.parts:
            rows[part.split] += sum(1 for _ in self.index.lines(part))
        shards = [{key: part.header[key] for key in ("file", "rows", "bytes", "sha256")} for part in self._shards()]
        return {
            "format": self.output.format,
            "rows": {split: count for split, count in sorted(rows.items()) if count},
            **({"shards": shards} if shards else {}),
            **({"metadata": self._metadata} if self._metadata else {}),
        }

    def _shards(self) -> list[Part]:
        return sorted((part for part in self.index.parts if part.header["file"]), key=lambda part: part.name)


def _signature() -> bytes:
    return json.dumps({"owner": this_process(), "time": round(time.time())}).encode()


def _files_of(split: str, row: Mapping[str, Any]) -> Iterator[str]:
    """Yield the pictures that a line of ``metadata.jsonl`` names, from the folder of the dataset."""
    names = (f"{split}/{value}" for name, value in row.items() if name.endswith("file_name") and value)
    yield from names


def _digest_at(place: str) -> str:
    """Return the digest of a file, or an empty string if there is none."""
    try:
        with files.stream(place) as file:
            return hashlib.file_digest(cast(Any, file), "sha256").hexdigest()
    except FileNotFoundError:
        return ""


def _is_as_written(place: str, known: Mapping[str, Any] | None) -> bool:
    """Check whether a file has its bytes; of one in a bucket only the size is looked at.

    Args:
        known: what ``_sums`` has returned of it; None, from an earlier version, lets any file do.
    """
    if known is None:
        return files.exists(place)
    is_same = files.size(place) == known["bytes"]
    return is_same and (not files.is_local(place) or _digest_at(place) == known["sha256"])


def _sums(file: Path) -> dict[str, Any]:
    with file.open("rb") as opened:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(opened, "sha256").hexdigest()}
