"""The datasets of a run: rows are written in the order of the items, whichever of these end first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from PIL import Image

from flux_tasks import files
from flux_tasks.errors import FluxError, InvalidImage, RunStopped, StoreUnavailable, reason_of
from flux_tasks.images.encoding import encode
from flux_tasks.images.reference import ImageRef, decoding
from flux_tasks.store.records import Store
from flux_tasks.units import px_size
from pipelines.data.annotations import Labels
from pipelines.data.items import Item
from pipelines.data.manifest import StepRow
from pipelines.data.outputs import BESIDE
from pipelines.data.writers.card import Card
from pipelines.data.writers.columns.checks import DatasetChecks
from pipelines.data.writers.columns.schema import IMAGE, Row, Schema
from pipelines.data.writers.dataset import Dataset
from pipelines.data.writers.provenance import facts_of, lineage, provenance_of, public
from pipelines.data.writers.rows import PlacedRow, placed
from pipelines.language.compiled import CompiledRecipe
from pipelines.language.document.output import Conversion, Output
from pipelines.language.graph import OutputTarget

__all__ = ["Datasets", "NewRow", "Result", "make_row"]


@dataclass(frozen=True)
class NewRow:
    """A row for a dataset; ``written`` is called with its place and its fingerprints once it is safe there."""

    dataset: str
    row: Row
    written: Callable[[PlacedRow, Mapping[str, str | None]], None]


class Datasets:
    """The datasets that a run writes. Any number of threads may use it; it has one row in work at a time.

    Args:
        warn: called with what a person should know.
        stop: called with the reason why no further result can be written.
    """

    def __init__(
        self,
        recipe: CompiledRecipe,
        checks: DatasetChecks,
        warn: Callable[[str], None],
        stop: Callable[[RunStopped], None],
    ) -> None:
        self.schemas = checks.schemas
        self._recipe = recipe
        self._warn, self._stop = warn, stop
        self._datasets: dict[str, Dataset] = {}
        self._waiting: dict[int, Sequence[NewRow]] = {}
        self._next = 0
        self._is_broken = False
        self._unread: list[str] = []
        self._lock = threading.Lock()

    def open(self, prints: files.Fingerprints) -> None:
        """Prepare to write.

        Raises:
            StoreUnavailable: another process writes one of them.
        """
        recipe = self._recipe
        for output in recipe.outputs:
            if output.dataset:
                card = Card(recipe.name, recipe.text, recipe.digest)
                dataset = Dataset(output, self.schemas[output.dataset], prints, card)
                dataset.check_writer()
                self._datasets[output.dataset] = dataset

    def read(self) -> None:
        """Read which rows the datasets have, before anything is paid for.

        Raises:
            StoreUnavailable: that cannot be read.
        """
        for dataset in self._datasets.values():
            dataset.read()

    @property
    def is_idle(self) -> bool:
        """Whether no row waits for those before it."""
        return not self._waiting

    def end(self, number: int, rows: Sequence[NewRow]) -> None:
        """Take the rows of the item that is at this place in the order of work, and write those whose turn it is."""
        with self._lock:
            self._waiting[number] = rows
            while self._next in self._waiting:
                for new in self._waiting.pop(self._next):
                    self._write(new)
                self._next += 1

    def _write(self, new: NewRow) -> None:
        dataset, row = self._datasets[new.dataset], new.row
        if self._is_broken:
            return
        try:
            line = dataset.line_of(row)
            written = partial(new.written, placed(new.dataset, row.split, row.name, line))
            prints = dataset.find(row, line)
            if prints is not None:
                written(prints)
                return
            try:
                data = {name: image.read() for name, image in row.pictures.items()}
            except (FluxError, OSError) as error:
                self._unread.append(f"{row.name}: {error}")
                self._warn(f"{row.name} has no row in {files.quoted(new.dataset)}: {error}")
                return
            dataset.add(row, line, data, written)
        except Exception as error:  # libraries of formats have errors of their own
            self._break(new.dataset, error)

    def _break(self, folder: str, error: Exception) -> None:
        """Stop the run; what has no row yet is in the store, and the next run writes it."""
        self._is_broken = True
        for dataset in self._datasets.values():
            dataset.abandon()
        reason = str(error) if isinstance(error, FluxError) else reason_of(error)
        what = f"the dataset {files.quoted(folder)} cannot be written: {reason}"
        self._stop(StoreUnavailable(f"{what}. Results are in the store: run again when it can"))

    def close(self, *, is_complete: bool, without_row: int) -> None:
        """Write what is left, and what makes each dataset whole.

        Args:
            is_complete: whether the run has come to its end.
            without_row: how many of its items did not end well.
        """
        with self._lock:
            for number in sorted(self._waiting):  # the run was broken off before the items between them
                for new in self._waiting[number]:
                    self._write(new)
            self._waiting.clear()
            for folder, dataset in self._datasets.items():
                if self._is_broken:
                    return
                try:
                    for remark in dataset.close(is_complete=is_complete, without_row=without_row):
                        self._warn(remark)
                except Exception as error:
                    self._break(folder, error)
            if self._unread:
                count = len(self._unread)
                self._stop(RunStopped(f"{count} rows could not be written, {self._unread[0]}: run again"))

    def abandon(self) -> None:
        """Leave the datasets as they are; nothing happens after ``close``."""
        with self._lock:
            for dataset in self._datasets.values():
                dataset.abandon()


@dataclass(frozen=True)
class Result:
    """What becomes a row.

    Attributes:
        place: as ``Outputs.claim`` returns it.
        source: the item's own picture.
        steps: of the item.
        masks: as they were sent, by node.
        labels: of the result.
    """

    target: OutputTarget
    place: str
    image: ImageRef
    source: ImageRef | None
    steps: Sequence[StepRow]
    masks: Mapping[str, ImageRef]
    labels: Labels | None = None


def make_row(recipe: CompiledRecipe, schema: Schema, item: Item, new: Result, store: Store) -> Row:
    """Return the row of an item for a dataset. Call it on a thread.

    Raises:
        InvalidImage: a picture cannot be converted.
        OSError: the store cannot be written.
        ValueError: a column does not fit.
    """
    output, image, made = new.target.output, new.image, lineage(new.steps, new.target.node)
    mask = next((new.masks[step["id"]] for step in reversed(made) if step["id"] in new.masks), None)
    found = {IMAGE: image, "original": new.source, "mask": mask}
    converted = {
        name: _converted(picture, name, output, store)
        for name, picture in found.items()
        if picture is not None and name in schema.pictures
    }
    result = converted[IMAGE]
    split, _, name = new.place.removeprefix(f"{output.dataset}/").partition("/")
    width, height = result.upright_size
    own = {
        "id": name,
        "source": public(item.source),
        **facts_of(made, image),
        "width": width,
        "height": height,
        "objects": _objects(new.labels, width / image.upright_size[0], height / image.upright_size[1]),
        "digest": result.digest,
        **{f"{beside}_digest": converted[beside].digest if beside in converted else None for beside in BESIDE},
    }
    provenance = provenance_of(recipe, made, new.source, item.source, result) if output.provenance else ""
    columns = schema.fitted({**own, "provenance": provenance}, item)
    is_beside = output.format == "imagefolder"
    lists = {
        name: [ImageRef.of(place) for place in columns[name] or ()]
        for name in (schema.lists if output.format == "parquet" else ())
    }
    return Row(split, name, converted, columns, provenance if is_beside else "", lists)


def _objects(labels: Labels | None, across: float, down: float) -> dict[str, Any] | None:
    """Return the labels of a picture as ``datasets`` has objects: left, top, width and height of each, in pixels.

    Args:
        across, down: how many pixels a pixel of the result has become.
    """
    if labels is None:
        return None
    boxes = [label.box for label in labels.labels]
    found = [
        [left * across, top * down, (right - left) * across, (bottom - top) * down]
        for left, top, right, bottom in boxes
    ]
    rounded = [[round(side, 2) for side in box] for box in found]
    return {"bbox": rounded, "category": [label.name for label in labels.labels]}


def _converted(image: ImageRef, name: str, output: Output, store: Store) -> ImageRef:
    """Return a picture of a row as the output asks for it, in the store if its bytes have changed."""
    convert = output.convert
    if convert is None:
        return image
    kind = _kind(image, name, convert)
    is_large = convert.size is not None and max(image.upright_size) > convert.size
    is_changed = is_large or image.media_type != f"image/{kind}" or (convert.quality is not None and name == IMAGE)
    if not is_changed:
        return image
    options = {"quality": convert.quality} if convert.quality is not None and kind != "png" else {}
    try:
        with decoding(image):
            picture = image.open()
            if is_large and convert.size is not None:
                profile = picture.info.get("icc_profile")
                share = convert.size / max(picture.size)
                size = max(1, round(picture.width * share)), max(1, round(picture.height * share))
                filter_ = Image.Resampling.NEAREST if name == "mask" else Image.Resampling.LANCZOS
                picture = picture.resize(size, filter_)
                picture.info["icc_profile"] = profile
            data = encode(picture, kind.upper(), engine=image.engine if image.is_preview else "", **options)
    except (ValueError, OSError, MemoryError) as error:
        size_text = px_size(image.upright_size)
        raise InvalidImage(f"{image.name}: {size_text} cannot be written as {kind}: {error}") from None
    kept = store.put_image(data, name=image.name)
    return replace(kept, engine=image.engine, cost=image.cost, job_id=image.job_id)


def _kind(image: ImageRef, name: str, convert: Conversion) -> str:
    """Return the file type of a picture: only results change theirs; what nobody writes becomes PNG."""
    own = image.media_type.removeprefix("image/")
    if name == IMAGE and convert.format is not None:
        return convert.format
    is_large = convert.size is not None and max(image.upright_size) > convert.size
    return own if own in ("png", "jpeg", "webp") or not (is_large or name == IMAGE) else "png"
