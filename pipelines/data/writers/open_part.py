"""Rows of a dataset that are being written, and are not safe yet."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import IO

from flux_tasks import files
from pipelines.data.writers.columns.schema import IMAGE, Row, Schema
from pipelines.data.writers.rows import identity_of, key_of
from pipelines.data.writers.shards import SHARDS, ShardFile, extension_of
from pipelines.language.document.output import Output

__all__ = ["OpenPart", "Written", "file_name"]

Written = Callable[[Mapping[str, "str | None"]], None]
"""Called with the fingerprints of a row's files once it is safe in the dataset."""


def file_name(row: Row, picture: str) -> str:
    """Return the name of a picture's file in an imagefolder, from the folder of its split."""
    name = f"{row.name}.{extension_of(row.pictures[picture])}"
    return name if picture == IMAGE else f"{picture}/{name}"


class OpenPart:
    """Rows that are being written and are not safe yet."""

    def __init__(
        self,
        split: str,
        output: Output,
        schema: Schema,
        staging: files.Staging,
        write_pictures: Callable[[Row, Mapping[str, bytes]], dict[str, str | None]],
        *,
        replaces: str = "",
    ) -> None:
        self.split, self.replaces = split, replaces
        self._write_pictures = write_pictures
        self.rows = self.size = 0
        self.keys: list[tuple[bytes, bytes]] = []
        self.written: list[tuple[Written, Mapping[str, str | None]]] = []
        self.fields: set[str] = set()
        self.file, self.lines, self._body = staging.new(), staging.new(), staging.new()
        kind = SHARDS.get(output.format)
        self.shard: ShardFile | None = kind(self.file, schema) if kind else None
        self._text = self._body.open("wb")

    def add(self, row: Row, line: bytes, data: Mapping[str, bytes], written: Written) -> None:
        """Add a row with the bytes of its pictures."""
        own: dict[str, str | None] = {}
        if self.shard is None:
            own = self._write_pictures(row, data)
        else:
            self.shard.add(row, data)
        for name in data:
            extension = extension_of(row.pictures[name])
            self.fields.add(extension if name == IMAGE else f"{name}.{extension}")
        self._note(row.name, line)
        self.size += sum(map(len, data.values())) + len(line)
        self.written.append((written, own))

    def _note(self, name: str, line: bytes) -> None:
        self._text.write(line + b"\n")
        self.keys.append((key_of(self.split, name), identity_of(line)))
        self.rows += 1

    def copy(self, shard: IO[bytes], without: set[str], lines: Iterable[bytes]) -> None:
        """Add the rows of a shard, but those with these names; ``lines`` are theirs."""
        assert self.shard is not None  # noqa: S101 - an imagefolder has none
        self.shard.copy(shard, without)
        for line in lines:
            self._note(str(json.loads(line)["id"]), line)

    def write_lines(self, header: bytes) -> None:
        """Write the lines of the part into their file, after its header."""
        self._text.close()
        with self.lines.open("wb") as file, self._body.open("rb") as body:
            file.write(header + b"\n")
            while block := body.read(1 << 20):
                file.write(block)
        self._body.unlink()

    def abandon(self) -> None:
        """Write nothing of it any more."""
        with suppress(Exception):  # closes its file, whatever becomes of that
            if self.shard is not None:
                self.shard.finish()
        with suppress(OSError):
            self._text.close()
