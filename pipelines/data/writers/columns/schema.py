"""What a row of a dataset has: its pictures, what is known of how it was made, and the columns of its source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flux_tasks import files
from flux_tasks.errors import cut, shown
from flux_tasks.images.reference import ImageRef
from pipelines.data.items import Item
from pipelines.data.outputs import BESIDE
from pipelines.data.writers.columns.kinds import Kind, fit, kind_of, merge, settled
from pipelines.language.names import ITEM_NAMES

__all__ = ["IMAGE", "OWN", "Row", "Schema", "source_columns"]

IMAGE = "image"
"""The picture of a row: the result."""

OWN: Mapping[str, Kind] = {
    "id": "string",
    "source": "string",
    "outcome": "string",
    "tool": "string",
    "parameters": "string",
    "seed": "int64",
    "job_id": "string",
    "cost": "float64",
    "engine": "string",
    "width": "int64",
    "height": "int64",
    "objects": {"bbox": [["float64"]], "category": ["string"]},
    "digest": "string",
    "original_digest": "string",
    "mask_digest": "string",
    "provenance": "string",
}
"""What a row says of itself. Those that do not apply to a dataset (no mask, no provenance) are left out."""

_TAKEN = frozenset((*OWN, IMAGE, *BESIDE, *(f"{name}_file_name" for name in BESIDE), "file_name", "json", "files"))


def source_columns(item: Item) -> Iterator[tuple[str, Any]]:
    """Yield the columns of an item's source, by the names that they have in a dataset."""
    for name, value in {**item.row, **item.columns}.items():
        text = str(name)
        if text not in ITEM_NAMES or text in item.row:
            yield (f"source_{text}" if text in _TAKEN else text), value


def _are_pictures(value: Any) -> bool:
    """Check whether a value is a list of pictures in a file of a dataset."""
    is_list = isinstance(value, list) and all(isinstance(one, str) for one in value)
    return is_list and all((inside := files.embedded(one)) is not None and inside.kind != "tar" for one in value)


@dataclass(frozen=True)
class Row:
    """One row of a dataset.

    Attributes:
        pictures: the result (``image``) and those beside it.
        columns: as ``Schema.fitted`` returns them.
        sidecar: the JSON file beside its picture; empty if it has none.
        lists: the pictures of the columns in ``Schema.lists``.
    """

    split: str
    name: str
    pictures: Mapping[str, ImageRef]
    columns: Mapping[str, Any]
    sidecar: str = ""
    lists: Mapping[str, Sequence[ImageRef]] = field(default_factory=dict)


@dataclass
class Schema:
    """The columns of a dataset. What its source adds is learned from the items, and then stays.

    Attributes:
        pictures: their names, the result's first.
        source: the kinds of the columns of the source.
        lists: columns of the source that are lists of pictures; Parquet holds these, other formats where they are.
        is_fixed: whether the dataset exists, so that no kind of it can change.
    """

    pictures: tuple[str, ...]
    own: tuple[str, ...]
    source: dict[str, Kind] = field(default_factory=dict)
    is_fixed: bool = False
    lists: set[str] = field(default_factory=set)
    _no_lists: set[str] = field(default_factory=set)
    problems: dict[str, str] = field(default_factory=dict)
    """What keeps items out of a dataset that exists, by column; of each column the first."""

    @classmethod
    def of(cls, pictures: tuple[str, ...], *, provenance: bool, objects: bool) -> Schema:
        """Return the schema of a dataset with these pictures."""
        absent = {f"{name}_digest" for name in BESIDE if name not in pictures}
        absent |= {name for name, is_there in {"provenance": provenance, "objects": objects}.items() if not is_there}
        return cls(pictures, tuple(name for name in OWN if name not in absent))

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Schema:
        """Return the schema of a dataset that exists."""
        lists = set(data.get("lists", ()))
        return cls(tuple(data["pictures"]), tuple(data["own"]), dict(data["source"]), is_fixed=True, lists=lists)

    def to_data(self) -> dict[str, Any]:
        """Return the schema as plain data."""
        lists = {"lists": sorted(self.lists)} if self.lists else {}
        return {"pictures": list(self.pictures), "own": list(self.own), "source": self.source, **lists}

    @property
    def kinds(self) -> dict[str, Kind]:
        """The kinds of all columns without the pictures, in their order."""
        return {**{name: OWN[name] for name in self.own}, **self.source}

    def observe(self, item: Item) -> None:
        """Learn the columns of an item's source, or check that they fit."""
        for name, value in source_columns(item):
            kind = kind_of(value)
            if kind == "bytes":
                continue
            if not self.is_fixed:
                if value:
                    (self.lists if _are_pictures(value) else self._no_lists).add(name)
                self.source[name] = merge(self.source.get(name, "null"), kind)
            elif name in self.problems:
                continue
            elif name not in self.source:
                self.problems[name] = "is new, and its rows have no such column"
            else:
                try:
                    fit(value, self.source[name])
                except ValueError:
                    what = self.source[name] if isinstance(self.source[name], str) else "other structures"
                    self.problems[name] = f"has {what} there, and {shown(value)} in {cut(item.source)}"

    def fix(self) -> None:
        """Let no column change any more; one that cannot be written is left out."""
        if not self.is_fixed:
            kinds = {name: settled(kind) for name, kind in self.source.items()}
            self.source = {name: kind for name, kind in kinds.items() if kind != "bytes"}
            self.lists -= self._no_lists
            self.is_fixed = True

    def fitted(self, own: Mapping[str, Any], item: Item) -> dict[str, Any]:
        """Return the columns of a row.

        Raises:
            ValueError: a column of the source does not fit.
        """
        values = {**dict.fromkeys(self.source), **dict(source_columns(item)), **own}
        return {name: fit(values.get(name), kind) for name, kind in self.kinds.items()}
