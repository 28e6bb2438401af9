"""Datasets of the same pictures and masks in each format, written by the libraries that define the formats."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path

__all__ = ["MAKERS"]

Pictures = Sequence[tuple[bytes, bytes]]
"""Pictures and masks, encoded."""


def _features(pictures: Pictures):  # type: ignore[no-untyped-def]
    import datasets

    datasets.disable_progress_bars()
    columns = {"image": datasets.Image(), "mask": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    rows = {
        "image": [{"bytes": picture, "path": f"p{number}.png"} for number, (picture, _) in enumerate(pictures)],
        "mask": [{"bytes": mask, "path": None} for _, mask in pictures],
        "label": [number % 2 for number in range(len(pictures))],
    }
    return datasets.Dataset.from_dict(rows, features=datasets.Features(columns))


def _parquet(folder: Path, pictures: Pictures) -> str:
    place = folder / "data" / "train-00000-of-00001.parquet"
    place.parent.mkdir(parents=True, exist_ok=True)
    _features(pictures).to_parquet(str(place), batch_size=2)
    return str(folder)


def _arrow(folder: Path, pictures: Pictures) -> str:
    _features(pictures).save_to_disk(str(folder))
    return str(folder)


def _webdataset(folder: Path, pictures: Pictures) -> str:
    from webdataset import ShardWriter

    folder.mkdir(parents=True, exist_ok=True)
    with redirect_stdout(io.StringIO()), ShardWriter(str(folder / "shard-%06d.tar"), maxcount=2, verbose=0) as writer:
        for number, (picture, mask) in enumerate(pictures):
            label = {"label": ["cat", "dog"][number % 2]}
            writer.write({"__key__": f"p{number}", "png": picture, "mask.png": mask, "json": label})
    return f"{folder}/shard-{{000000..{(len(pictures) - 1) // 2:06}}}.tar"


def _imagefolder(folder: Path, pictures: Pictures) -> str:
    rows = []
    for number, (picture, mask) in enumerate(pictures):
        for place, data in ((folder / f"p{number}.png", picture), (folder / "masks" / f"m{number}.png", mask)):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        names = {"file_name": f"p{number}.png", "mask_file_name": f"masks/m{number}.png"}
        rows.append({**names, "label": ["cat", "dog"][number % 2]})
    (folder / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(folder)


MAKERS: dict[str, Callable[[Path, Pictures], str]] = {
    "imagefolder": _imagefolder,
    "parquet": _parquet,
    "webdataset": _webdataset,
    "arrow": _arrow,
}
"""Each writes a dataset into a folder and returns what a recipe calls it."""
