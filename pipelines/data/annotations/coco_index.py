"""Where everything lies in a COCO file, which may be larger than the memory: read once, from its beginning to its end.

Of each picture some 400 bytes stay in memory, however many labels it has. What is said of it is read again where it
lies, when somebody asks for it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import stat
import tempfile
import threading
import weakref
from array import array
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any, BinaryIO, NamedTuple, NoReturn

import orjson

from flux_tasks import files
from flux_tasks.errors import Problem, RecipeError, shown
from pipelines.data.annotations.base import AT

__all__ = ["CocoIndex", "Entry", "entries", "key_of"]

LISTS = ("images", "annotations", "categories")

_BLOCK = 1 << 20
_LONGEST = 64 << 20  # bytes of one entry
_SMALL = 8 << 20  # bytes of a file that stays in memory
_ENDS = frozenset(" \t\n\r,:]}")
_SPACE = re.compile(r"[ \t\n\r]*")
_BEYOND = 0.9  # pixels: a box that leaves its picture by less is as good as one within it
_NUMBERS = {int, float}


class Entry(NamedTuple):
    """A value in the object that a JSON file is, or an entry of a list in it.

    Attributes:
        name: of the value.
        number: of the entry in its list; None for what is no list. An empty list has one entry, -1, of None.
        text: as it is written, a character for each byte.
        value: with texts that are right only where ``text`` is ASCII; ``read`` has the right ones.
        start: the first byte of the entry in the file.
    """

    name: str
    number: int | None
    text: str
    value: Any
    start: int

    def read(self) -> Any:
        """Return the value.

        Raises:
            ValueError: it is no JSON, such as half a character.
        """
        return orjson.loads(self.text.encode("latin-1"))


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


_decode = json.JSONDecoder(parse_constant=_refuse).raw_decode


class _Text:
    """JSON, some of it at a time."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._text = ""
        self._at = self._before = 0

    def _more(self) -> bool:
        """Read further; what was taken already is forgotten."""
        rest = len(self._text) - self._at
        if rest > _LONGEST:
            raise ValueError(f"what begins at byte {self._before + self._at:,} has no end")
        block = self._file.read(max(_BLOCK, rest))
        self._text = self._text[self._at :] + block.decode("latin-1")
        self._before += self._at
        self._at = 0
        return bool(block)

    def next_sign(self) -> str:
        """Return the next character that is no space, or an empty text at the end; it is not taken."""
        while True:
            found = _SPACE.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def take(self, signs: str) -> str:
        """Take the next character, which has to be one of these."""
        found = self.next_sign()
        if not found or found not in signs:
            raise ValueError(f"{found or 'its end'} at byte {self._before + self._at:,}, where {signs[0]} is expected")
        self._at += 1
        return found

    def value(self) -> tuple[str, Any, int]:
        """Take a value: its text, itself, and where it begins."""
        self.next_sign()
        while True:
            try:
                value, end = _decode(self._text, self._at)
            except RecursionError:
                raise ValueError(f"it is nested too deeply at byte {self._before + self._at:,}") from None
            except ValueError as error:
                if self._more():
                    continue
                raise ValueError(f"{getattr(error, 'msg', error)} at byte {self._before + self._at:,}") from None
            if self._text[end : end + 1] not in _ENDS and self._more():  # a number may go on
                continue
            text, start = self._text[self._at : end], self._before + self._at
            self._at = end
            return text, value, start


def entries(file: BinaryIO) -> Iterator[Entry]:
    """Yield what is in the object that a JSON file is; of each list its entries.

    Raises:
        ValueError: it is no JSON, or no object.
        OSError: it cannot be read.
    """
    text = _Text(file)
    text.take("{")
    sign = "}" if text.next_sign() == "}" else ","
    if sign == "}":
        text.take(sign)
    while sign != "}":
        name = orjson.loads(text.value()[0].encode("latin-1"))
        if not isinstance(name, str):
            raise ValueError(f"{shown(name)} is no name")  # noqa: TRY004 - one error for all
        text.take(":")
        if text.next_sign() == "[":
            yield from _entries_of_list(name, text)
        else:
            yield Entry(name, None, *text.value())
        sign = text.take(",}")
    if text.next_sign():
        raise ValueError("something follows its end")


def _entries_of_list(name: str, text: _Text) -> Iterator[Entry]:
    text.take("[")
    if text.next_sign() == "]":
        text.take("]")
        yield Entry(name, -1, "null", None, 0)
        return
    number, sign = 0, ","
    while sign == ",":
        yield Entry(name, number, *text.value())
        number, sign = number + 1, text.take(",]")


class _Bytes:
    """The bytes of a file as they were when it was opened. Any number of threads may use it."""

    def __init__(self, location: str) -> None:
        self._lock = threading.Lock()
        self._file: Any = files.stream(location)
        self._state: os.stat_result | None = None
        if files.is_local(location):
            state = os.fstat(self._file.fileno())
            self._state = state if stat.S_ISREG(state.st_mode) and state.st_size > _SMALL else None
        if self._state is None:  # a small one stays in memory, a remote one on this machine
            with self._file as source:
                self._file = tempfile.SpooledTemporaryFile(_SMALL)  # noqa: SIM115 - closed by what follows
                shutil.copyfileobj(source, self._file, _BLOCK)
            self._file.seek(0)
        weakref.finalize(self, self._file.close)

    @property
    def file(self) -> BinaryIO:
        """The file, to be read from its beginning."""
        return self._file  # type: ignore[no-any-return]

    def at(self, start: int, length: int) -> bytes:
        """Return the bytes at a place.

        Raises:
            OSError: somebody has changed the file.
        """
        with self._lock:
            if self._state is not None:
                now = os.fstat(self._file.fileno())
                if (now.st_mtime_ns, now.st_size) != (self._state.st_mtime_ns, self._state.st_size):
                    remedy = "write changes into a new file, rename it to this one, and run again"
                    raise OSError(f"somebody has changed it while it was read: {remedy}")
            self._file.seek(start)
            return self._file.read(length)  # type: ignore[no-any-return]


class _Places:
    """Where entries lie in a file."""

    def __init__(self) -> None:
        self._starts, self._lengths = array("Q"), array("I")

    def add(self, entry: Entry) -> None:
        self._starts.append(entry.start)
        self._lengths.append(len(entry.text))

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number: int) -> tuple[int, int]:
        return self._starts[number], self._lengths[number]


class CocoIndex:
    """Where the images and annotations of a COCO file lie.

    Attributes:
        categories: what the file says of each, by ``key_of`` its id.
        pictures: the number of the image of each name; of several with one name the first.
        extra: what else the file says of the whole set.

    Raises:
        RecipeError: it is no COCO file.
        OSError: it cannot be read.
    """

    def __init__(self, location: str) -> None:
        self.categories: dict[Any, Mapping[str, Any]] = {}
        self.pictures: dict[str, int] = {}
        self.extra: dict[str, Any] = {}
        self._repeated: dict[str, list[int]] = {}
        self._location = location
        self._images, self._annotations = _Places(), _Places()
        self._ids: dict[Any, int] = {}
        self._id_of, self._image_of = array("I"), array("I")
        """The number of the id of each image, and of the image of each annotation."""
        self._sizes: dict[int, tuple[int, int]] = {}
        self._digests: list[bytes] = []
        self._is_odd = bytearray()
        self._bytes = _Bytes(location)
        self._read()

    def _read(self) -> None:
        found: set[str] = set()
        first_of: dict[int, tuple[int, Any]] = {}
        used: set[Any] = set()
        names = hashlib.blake2b(digest_size=16)
        try:
            for entry in entries(self._bytes.file):
                if entry.number is None or entry.name not in LISTS:
                    self._add_extra(entry)
                elif entry.number < 0:
                    found.add(entry.name)
                else:
                    found.add(entry.name)
                    if entry.name == "images":
                        self._add_image(entry)
                    elif entry.name == "annotations":
                        self._add_annotation(entry, first_of, used)
                    else:
                        self._add_category(entry)
                        names.update(entry.text.encode("latin-1"))
        except ValueError as error:
            raise self._broken(f"{files.quoted(self._location)} is no JSON object: {error}") from None
        if missing := [f"{name} is no list" for name in LISTS if name not in found]:
            what = f"{files.quoted(self._location)} is no COCO file: {', '.join(missing)}"
            raise self._broken(f"{what}: it has images, annotations and categories")
        for number, (place, image_id) in first_of.items():
            if number not in self._sizes:
                what = f"annotations.{place}: there is no image with the id {shown(image_id)}"
                where = files.quoted(self._location)
                raise self._broken(f"{where}: {what}: correct its image_id, or take it out")
        if used - self.categories.keys():  # whose they are is found when they are read
            self._is_odd = bytearray(b"\1") * len(self._is_odd)
        self._names = names.digest()
        self._sort()

    def _broken(self, what: str) -> RecipeError:
        return RecipeError([Problem(AT, what)])

    def _number_of(self, image_id: Any) -> int:
        """Return the number of an image's id."""
        number = self._ids.setdefault(key_of(image_id), len(self._ids))
        if number == len(self._digests):
            self._digests.append(b"")
            self._is_odd.append(0)
        return number

    def _add_extra(self, entry: Entry) -> None:
        if entry.number is None:
            self.extra[entry.name] = entry.read()
        elif entry.number < 0:
            self.extra[entry.name] = []
        else:
            self.extra.setdefault(entry.name, []).append(entry.read())

    def _add_image(self, entry: Entry) -> None:
        image = entry.read()
        if not isinstance(image, Mapping) or not isinstance(image.get("file_name"), str) or "id" not in image:
            where = f"{files.quoted(self._location)}: images.{entry.number}"
            raise self._broken(f"{where}: {shown(image)} has no file_name or no id")
        name, at = image["file_name"], len(self._images)
        if self.pictures.setdefault(name, at) != at:
            self._repeated.setdefault(name, [self.pictures[name]]).append(at)
        number = self._number_of(image["id"])
        self._images.add(entry)
        self._id_of.append(number)
        size: Any = image.get("width"), image.get("height")
        is_plain = type(size[0]) is type(size[1]) is int and name not in self._repeated
        self._is_odd[number] |= not is_plain or number in self._sizes
        self._sizes[number] = (int(size[0]), int(size[1])) if is_plain else (0, 0)
        self._note(number, entry)

    def _add_annotation(self, entry: Entry, first_of: dict[int, tuple[int, Any]], used: set[Any]) -> None:
        value = entry.value if entry.text.isascii() else entry.read()
        image_id = value.get("image_id") if isinstance(value, dict) else None
        number = self._number_of(image_id)
        if number not in self._sizes:
            first_of.setdefault(number, (entry.number or 0, image_id))
        self._annotations.add(entry)
        self._image_of.append(number)
        self._note(number, entry)
        self._is_odd[number] |= not _is_plain(value, self._sizes.get(number, (0, 0))) or "\\u" in entry.text
        if isinstance(value, dict):
            used.add(key_of(value.get("category_id")))

    def _add_category(self, entry: Entry) -> None:
        category = entry.read()
        if not isinstance(category, Mapping) or "id" not in category or not isinstance(category.get("name"), str):
            where = f"{files.quoted(self._location)}: categories.{entry.number}"
            raise self._broken(f"{where}: {shown(category)} has no id or no name")
        self.categories[key_of(category["id"])] = category

    def _note(self, number: int, entry: Entry) -> None:
        text = self._digests[number] + entry.text.encode("latin-1")
        self._digests[number] = hashlib.blake2b(text, digest_size=16).digest()

    def _sort(self) -> None:
        """Put the annotations of each image together, in the order in which they stand in the file."""
        counts = array("I", bytes(4 * (len(self._ids) + 1)))
        for number in self._image_of:
            counts[number + 1] += 1
        self._first = array("I", accumulate(counts))
        free, self._order = array("I", self._first), array("I", bytes(4 * len(self._image_of)))
        for place, number in enumerate(self._image_of):
            self._order[free[number]] = place
            free[number] += 1
        del self._image_of, self._sizes

    def images(self, picture: str) -> list[Mapping[str, Any]]:
        """Return the images of this name: one, if the file is right.

        Raises:
            OSError, ValueError: they cannot be read any more.
        """
        places = self._repeated.get(picture) or [self.pictures[picture]]
        return [orjson.loads(self._bytes.at(*self._images[place])) for place in places]

    def annotations(self, picture: str) -> Iterator[Mapping[str, Any]]:
        """Yield the annotations of a picture.

        Raises:
            OSError, ValueError: they cannot be read any more.
        """
        number = self._id_of[self.pictures[picture]]
        for place in self._order[self._first[number] : self._first[number + 1]]:
            yield orjson.loads(self._bytes.at(*self._annotations[place]))

    def is_plain(self, picture: str) -> bool:
        """Check whether all that is said of a picture can be used, and no label leaves it or is without an area."""
        return not self._is_odd[self._id_of[self.pictures[picture]]]

    def digest(self, picture: str) -> str:
        """Return what tells what is said of a picture from anything else: 32 hex digits."""
        own = self._digests[self._id_of[self.pictures[picture]]]
        return hashlib.blake2b(self._names + own, digest_size=16).hexdigest()


def key_of(value: Any) -> Any:
    """Return an id as it is looked up by."""
    return value if isinstance(value, (int, str)) else repr(value)


def _is_plain(annotation: Any, size: tuple[int, int]) -> bool:
    """Check whether an annotation can be used, and its box lies in a picture of this size and has an area.

    What is not certain at a glance is not plain.
    """
    box = annotation.get("bbox") if isinstance(annotation, dict) else None
    if type(box) is not list or len(box) != 4 or not {*map(type, box)} <= _NUMBERS:
        return False
    left, top, width, height = box
    is_inside = left >= -_BEYOND and top >= -_BEYOND and width > 0 and height > 0
    if not (is_inside and left + width <= size[0] + _BEYOND and top + height <= size[1] + _BEYOND):
        return False
    shape = annotation.get("segmentation") or []
    if type(shape) is dict:
        return shape.get("size") == [size[1], size[0]]
    return type(shape) is list and all(map(_is_polygon, shape))


def _is_polygon(part: Any) -> bool:
    is_list = type(part) is list and len(part) >= 6 and len(part) % 2 == 0
    return is_list and {*map(type, part)} <= _NUMBERS and math.isfinite(sum(part))
