"""What the formats have in common: a set of annotations, how its labels find their pictures, and checks of numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from glob import escape
from typing import Any

from flux_tasks import files
from flux_tasks.errors import InvalidRequest, quote, reason_of, shown
from pipelines.data.annotations.model import Labels

__all__ = ["AT", "AnnotationSet", "LazyLabels", "damaged", "labels_in", "number", "numbers", "read_text"]

AT = "source.annotations"
_LARGEST = 50_000_000  # bytes of a file with the labels of one picture


@dataclass(frozen=True)
class AnnotationSet:
    """The labels of many pictures, read from a file or a folder.

    Attributes:
        path, format: where they are, and as what: ``coco``, ``yolo``, ``voc`` or ``labelme``.
        classes: by name, what the format says of each class (``id``, ``supercategory``); empty where only the labels
            name their classes.
        extra: what else the file says of the whole set (``info``, ``licenses``).
        pictures: the names of the pictures that have labels, as the format writes them; with folders, if it knows them.
        load: returns the labels of one of ``pictures``.
        is_plain: checks whether the labels of a picture can be used, leave it nowhere and have areas, as far as that
            is known without reading them.
        digest: returns what tells what is said of a picture from anything else, where that is known without reading.
        places: the files and folders that the set was read from.
        has_extensions: the names of pictures end in a file type.
    """

    path: str
    format: str
    classes: Mapping[str, Mapping[str, Any]]
    pictures: Sequence[str]
    load: Callable[[str], Labels]
    places: Sequence[str]
    extra: Mapping[str, Any] = field(default_factory=dict)
    has_extensions: bool = False
    is_plain: Callable[[str], bool] = lambda _: False
    digest: Callable[[str], str] | None = None

    @cached_property
    def _by_name(self) -> dict[str, str | list[str]]:
        """The pictures by their names without folders; of most there is one."""
        found: dict[str, str | list[str]] = {}
        for picture in self.pictures:
            if parts := _parts(picture):
                known = found.setdefault(parts[-1], picture)
                if isinstance(known, list):
                    known.append(picture)
                elif known is not picture:
                    found[parts[-1]] = [known, picture]
        return found

    def find(self, location: str) -> str | None:
        """Return which of ``pictures`` is at a location: its name, with its folders, is the end of the location."""
        inside = files.embedded(location)  # a picture in a tar has the folders that it has there
        here = inside.inner if inside else location
        if files.is_local(location):
            here = files.local_path(location).absolute().as_posix()
        folders = [part for part in here.replace("\\", "/").rpartition("/")[0].split("/") if part]
        parts = [*folders, files.name(location) if self.has_extensions else files.stem(location)]
        known = self._by_name.get(parts[-1], [])
        named = [(_parts(one), one) for one in ([known] if isinstance(known, str) else known)]
        matches = [one for one in named if parts[-len(one[0]) :] == one[0]]
        return max(matches, key=lambda one: len(one[0]))[1] if matches else None

    def of(self, location: str) -> Labels | None:
        """Return the labels of the picture at a location; None if the set does not have it.

        Raises:
            InvalidRequest: what is said of this picture is damaged.
        """
        found = self.at(location)
        return found.read() if found.picture is not None else None

    def at(self, location: str) -> LazyLabels:
        """Return the labels of the picture at a location, which are read now only if they may be damaged.

        Raises:
            InvalidRequest: what is said of this picture is damaged.
        """
        picture = self.find(location) if location and not files.is_data(location) else None
        found = LazyLabels(self, picture)
        if picture is not None and not self.is_plain(picture):
            found.read()
        return found


def _parts(picture: str) -> list[str]:
    """Return the folders and the name of a picture."""
    return [part for part in picture.replace("\\", "/").split("/") if part not in ("", ".")]


@dataclass(frozen=True)
class LazyLabels:
    """The labels of one picture, read when somebody asks for them.

    Attributes:
        picture: one of those in ``known``; None for one without labels.
    """

    known: AnnotationSet
    picture: str | None

    @cached_property
    def _labels(self) -> Labels:
        return self.known.load(self.picture) if self.picture is not None else Labels(None)

    def read(self) -> Labels:
        """Return them.

        Raises:
            InvalidRequest: they are damaged.
        """
        return self._labels

    @property
    def digest(self) -> str:
        """What tells them from any others."""
        if self.picture is None or self.known.digest is None:
            return self.read().digest
        return self.known.digest(self.picture)


def labels_in(place: str, kind: str) -> dict[str, str]:
    """Return the files that end in ``.kind``, by their names as seen from ``place``, a folder; or ``place`` itself."""
    if files.extension(place) == kind:
        return {files.stem(place): place}
    folder = place.rstrip("/")
    found = files.glob(files.join(escape(folder), f"**/*.{kind}"))
    return {file.removeprefix(f"{folder}/").removeprefix("./").removesuffix(f".{kind}"): file for file in found}


def read_text(location: str) -> str:
    """Return the text of a file with the labels of one picture.

    Raises:
        InvalidRequest: it cannot be read, or is no text.
    """
    try:
        return files.read(location, limit=_LARGEST).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise damaged(location, "it is no text in UTF-8") from None
    except OSError as error:
        raise InvalidRequest(f"{files.quoted(location)}: cannot be read: {reason_of(error)}") from None


def damaged(where: str, what: str) -> InvalidRequest:
    """Return the error that says what is wrong at a place in a file."""
    return InvalidRequest(f"{files.quoted(where) if '/' in where else where}: {what}")


def number(value: Any, where: str) -> float:
    """Return a finite number as a float.

    Raises:
        InvalidRequest: it is none.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):
        raise InvalidRequest(f"{where}: {shown(value)} is not a number")
    return float(value)


def numbers(values: Any, where: str, *, count: int | None = None) -> list[float]:
    """Return a list of finite numbers, ``count`` of them.

    Raises:
        InvalidRequest: it is none.
    """
    if not isinstance(values, Iterable) or isinstance(values, (str, bytes, Mapping)):
        raise InvalidRequest(f"{where}: {shown(values)} is not a list of numbers")
    found = [*values]
    if not ({type(value) for value in found} <= {int, float} and all(map(math.isfinite, found))):
        found = [number(value, where) for value in found]  # names the one that is wrong
    if count is not None and len(found) != count:
        raise InvalidRequest(f"{where}: {quote(str(values))} has {len(found)} numbers: write {count}")
    return found
