"""Files that hold many rows of a dataset: Parquet for Hugging Face, and tars for WebDataset.

A shard is written on this machine and is nothing until it is finished; memory holds one group of rows at most.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, Protocol

from flux_tasks import files
from flux_tasks.images.encoding import EXTENSIONS
from flux_tasks.images.reference import ImageRef
from pipelines.data.writers.columns.kinds import Kind
from pipelines.data.writers.columns.schema import IMAGE, Row, Schema

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SHARDS", "ShardFile", "extension_of", "read_digests", "read_pictures"]

_GROUP = 32_000_000
"""Bytes of pictures in a group of rows: readers fetch and decode a group at a time, and advise at most 100 MB."""


def extension_of(image: ImageRef) -> str:
    """Return the extension of a picture's file."""
    return EXTENSIONS[image.media_type]


class ShardFile(Protocol):
    """A shard that is being written."""

    suffix: ClassVar[str]

    def __init__(self, file: Path, schema: Schema) -> None: ...

    def add(self, row: Row, data: Mapping[str, bytes]) -> None:
        """Add a row with the bytes of its pictures."""

    def copy(self, shard: IO[bytes], without: Collection[str]) -> None:
        """Add the rows of another shard, but those with these names."""

    def finish(self) -> None:
        """Write what is left. Without it the file is none."""

    @staticmethod
    def pictures(shard: IO[bytes]) -> Iterator[tuple[str, dict[str, bytes]]]:
        """Yield the name of each row of a shard, and the bytes of its pictures as they are."""


class Parquet:
    """A Parquet file with ``Image`` structures, which ``datasets.load_dataset`` shows as pictures.

    The features are in the metadata of its schema under ``huggingface`` (``datasets.arrow_writer``).
    """

    suffix: ClassVar[str] = ".parquet"

    def __init__(self, file: Path, schema: Schema) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._schema = _arrow_schema(schema)
        facts = [*schema.kinds]  # pictures are as small as they get, and no two of them are equal
        options = {"use_dictionary": facts, "write_statistics": facts, "compression": dict.fromkeys(facts, "zstd")}
        self._writer = pq.ParquetWriter(file, self._schema, **options)
        self._rows: list[dict[str, Any]] = []
        self._size = 0
        self._table = pa.Table

    def add(self, row: Row, data: Mapping[str, bytes]) -> None:
        """Add a row with the bytes of its pictures."""
        size = sum(map(len, data.values()))
        if self._rows and self._size + size > _GROUP:
            self._flush()
        pictures = {
            name: {"bytes": content, "path": f"{row.name.replace('/', '_')}.{extension_of(row.pictures[name])}"}
            for name, content in data.items()
        }
        lists = {
            name: [{"bytes": image.read(), "path": f"{at}.{extension_of(image)}"} for at, image in enumerate(images)]
            for name, images in row.lists.items()
        }
        self._rows.append({**pictures, **row.columns, **lists})
        self._size += size + sum(len(one["bytes"]) for images in lists.values() for one in images)

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(self._table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._size = [], 0

    def copy(self, shard: IO[bytes], without: Collection[str]) -> None:
        """Add the rows of another shard, but those with these names."""
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        file = pq.ParquetFile(shard)
        for number in range(file.num_row_groups):
            table = file.read_row_group(number)
            kept = table.filter(pc.invert(pc.is_in(table["id"], value_set=pa.array(sorted(without), pa.string()))))
            if kept.num_rows:
                self._writer.write_table(kept.cast(self._schema))

    def finish(self) -> None:
        """Write what is left."""
        self._flush()
        self._writer.close()

    @staticmethod
    def pictures(shard: IO[bytes]) -> Iterator[tuple[str, dict[str, bytes]]]:
        """Yield the name of each row of a shard, and the bytes of its pictures as they are."""
        import pyarrow.parquet as pq

        file = pq.ParquetFile(shard)
        pictures = [name for name in file.schema_arrow.names if str(file.schema_arrow.field(name).type)[:6] == "struct"]
        for batch in file.iter_batches(batch_size=16, columns=["id", *pictures]):
            for row in batch.to_pylist():
                yield row["id"], {name: row[name]["bytes"] for name in pictures if row[name] and row[name].get("bytes")}


def _arrow_schema(schema: Schema) -> pa.Schema:
    import pyarrow as pa

    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields = [pa.field(name, picture) for name in schema.pictures]
    fields += [
        pa.field(name, pa.list_(picture) if name in schema.lists else _arrow_type(kind))
        for name, kind in schema.kinds.items()
    ]
    features: dict[str, Any] = {name: {"_type": "Image"} for name in schema.pictures}
    features |= {name: feature_of(kind) for name, kind in schema.kinds.items()}
    features |= {name: {"feature": {"_type": "Image"}, "_type": "List"} for name in schema.lists}
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def _arrow_type(kind: Kind) -> Any:
    import pyarrow as pa

    if isinstance(kind, list):
        return pa.list_(_arrow_type(kind[0]))
    if isinstance(kind, dict):
        return pa.struct([(name, _arrow_type(inner)) for name, inner in kind.items()])
    return {"bool": pa.bool_(), "int64": pa.int64(), "float64": pa.float64()}.get(kind, pa.string())


def feature_of(kind: Kind) -> Any:
    """Return a kind as ``datasets.Features.to_dict`` has it."""
    if isinstance(kind, list):
        return {"feature": feature_of(kind[0]), "_type": "List"}
    if isinstance(kind, dict):
        return {name: feature_of(inner) for name, inner in kind.items()}
    return {"dtype": kind, "_type": "Value"}


class Tar:
    """A tar of WebDataset: ``name.png``, ``name.original.jpg``, ``name.mask.png`` and ``name.json`` for each row."""

    suffix: ClassVar[str] = ".tar"

    def __init__(self, file: Path, schema: Schema) -> None:
        self._tar = tarfile.open(file, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed by finish

    def add(self, row: Row, data: Mapping[str, bytes]) -> None:
        """Add a row with the bytes of its pictures."""
        for name, content in data.items():
            extension = extension_of(row.pictures[name])
            self._add(f"{row.name}.{extension}" if name == IMAGE else f"{row.name}.{name}.{extension}", content)
        self._add(f"{row.name}.json", json.dumps(row.columns, ensure_ascii=False).encode())

    def _add(self, name: str, content: bytes) -> None:
        entry = tarfile.TarInfo(name)  # without a time or an owner: the same rows are the same bytes
        entry.size = len(content)
        self._tar.addfile(entry, io.BytesIO(content))

    def copy(self, shard: IO[bytes], without: Collection[str]) -> None:
        """Add the rows of another shard, but those with these names."""
        with tarfile.open(fileobj=shard, mode="r|") as tar:
            for entry in tar:
                content = tar.extractfile(entry)
                if content is not None and _split(entry.name)[0] not in without:
                    self._add(entry.name, content.read())

    def finish(self) -> None:
        """Write the end of the tar."""
        self._tar.close()

    @staticmethod
    def pictures(shard: IO[bytes]) -> Iterator[tuple[str, dict[str, bytes]]]:
        """Yield the name of each row of a shard, and the bytes of its pictures as they are."""
        last, found = "", dict[str, bytes]()
        with tarfile.open(fileobj=shard, mode="r|") as tar:
            for entry in tar:
                name, extension = _split(entry.name)
                content = tar.extractfile(entry)
                if last and name != last:
                    yield last, found
                    found = {}
                last = name
                if content is not None and extension != "json":
                    picture = extension.rpartition(".")[0] or IMAGE
                    found[picture] = content.read()
        if last:
            yield last, found


def _split(name: str) -> tuple[str, str]:
    """Return the name of a row and what follows it, as WebDataset parts them: at the first dot of the file's name."""
    folder, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return f"{folder}{slash}{stem}", extension


SHARDS: Mapping[str, Callable[[Path, Schema], ShardFile]] = {"parquet": Parquet, "webdataset": Tar}
"""What writes the shards of a format."""


def stats_name(location: str) -> str:
    """Return the location of the figures beside a tar, called as img2dataset calls them."""
    return f"{location.removesuffix(Tar.suffix)}_stats.json"


def stats_of(header: Mapping[str, Any]) -> bytes:
    """Return the figures beside a tar, from the header of its part."""
    return json.dumps({key: header[key] for key in ("rows", "bytes", "sha256")}, indent=1).encode()


def read_digests(format: str, location: str) -> Iterator[tuple[str, dict[str, str]]]:  # noqa: A002 - as above
    """Yield the name of each row of a shard on any location, and the digests of its pictures as they are.

    Raises:
        Exception: as ``read_pictures``.
    """
    for row, pictures in read_pictures(format, location):
        yield row, {name: hashlib.sha256(data).hexdigest() for name, data in pictures.items()}


def read_pictures(format: str, location: str) -> Iterator[tuple[str, dict[str, bytes]]]:  # noqa: A002 - as above
    """Yield the name of each row of a shard on any location, and the bytes of its pictures as they are.

    Raises:
        Exception: it cannot be read, or is no shard; which kind depends on the library.
    """
    kind = Parquet if format == "parquet" else Tar
    with files.stream(location) as file:
        yield from kind.pictures(file)
