"""Datasets of many small pictures, in and out, beside a plain loop that copies them; see ``memory.py``.

Run as a program, it is that loop (``rows.py parquet IN OUT``, ``rows.py webdataset IN OUT``), or it writes the dataset:
``rows.py parquet IN 10000``. So its memory does not count as that of what is measured.
"""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workload import commented, grain

SHARD = 10_000  # rows
RECIPES = {
    "local": "  - crop: {box: [0, 0, 90, 70]}\n",
    "paid": "  - deblur: {}\n",
}
RECIPE = """\
source: {{dataset: in}}
steps:
{step}output: {{dataset: out, format: {kind}, shard_size: 100 MB}}
"""


def write_rows(folder: Path, kind: str, count: int) -> None:
    """Write a dataset of pictures of 97 × 72 px, each with bytes of its own."""
    folder.mkdir(parents=True)
    picture = grain(0.007)
    for shard, begin in enumerate(range(0, count, SHARD)):
        numbers = range(begin, min(count, begin + SHARD))
        rows = ((f"p{number:07}", commented(picture, str(number))) for number in numbers)
        place = folder / f"train-{shard:05}.{'tar' if kind == 'webdataset' else 'parquet'}"
        (_write_tar if kind == "webdataset" else _write_parquet)(place, rows)


def _write_parquet(place: Path, rows: Iterator[tuple[str, bytes]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", image), ("caption", pa.string())])
    found = [{"image": {"bytes": data, "path": f"{name}.png"}, "caption": f"picture {name}"} for name, data in rows]
    pq.write_table(pa.Table.from_pylist(found, schema=schema), place, row_group_size=1_000)


def _write_tar(place: Path, rows: Iterator[tuple[str, bytes]]) -> None:
    with tarfile.open(place, "w") as tar:
        for name, data in rows:
            for kind, content in (("png", data), ("txt", f"picture {name}".encode())):
                entry = tarfile.TarInfo(f"{name}.{kind}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


def copy_parquet(source: Path, target: Path) -> None:
    """Copy rows with pyarrow, as anybody would."""
    import pyarrow.parquet as pq

    writer: Any = None
    for file in sorted(source.glob("*.parquet")):
        for batch in pq.ParquetFile(file).iter_batches(1_000):
            writer = writer or pq.ParquetWriter(target / "copy.parquet", batch.schema)
            writer.write_batch(batch)
    writer.close()


def copy_webdataset(source: Path, target: Path) -> None:
    """Copy rows with webdataset, as anybody would."""
    import webdataset

    shards = [str(file) for file in sorted(source.glob("*.tar"))]
    with webdataset.ShardWriter(str(target / "copy-%05d.tar"), maxcount=SHARD, verbose=0) as writer:
        for sample in webdataset.WebDataset(shards, shardshuffle=False):
            kept = {name: value for name, value in sample.items() if name == "__key__" or not name.startswith("__")}
            writer.write(kept)


if __name__ == "__main__":
    format_, folder, what = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    if what.isdigit():
        write_rows(folder, format_, int(what))
    else:
        {"parquet": copy_parquet, "webdataset": copy_webdataset}[format_](folder, Path(what))
