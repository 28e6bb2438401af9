"""Boxes in a prompt: what is kept, moved, new or removed, and where. FLUX 3 reads them as rows after the text.

The service has no field for them. Its page on bounding boxes (F3-BOXES) appends a JSON array to the prompt, after a
space. Boxes there are ``[top, left, bottom, right]`` on a grid of 0 to 1000 that stretches with the frame; pictures are
``ref_image_0``, ``ref_image_1`` … in the order in which they are sent. A picture from words alone has rows of ``id``,
``bbox`` and ``desc``. An edit has rows of ``id``, ``from``, ``src_bbox``, ``tgt_bbox`` and ``desc``:

=======  ===============  ==============  ==============
kind     ``from``         ``src_bbox``    ``tgt_bbox``
=======  ===============  ==============  ==============
keep     ``ref_image_0``  its box         the same box
move     ``ref_image_0``  its box         the new box
new      null             null            its box
remove   ``ref_image_0``  its box         null
take     another picture  its box there   the new box
=======  ===============  ==============  ==============
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, Field, TypeAdapter, field_validator, model_validator

from flux_tasks.catalog.fields import Request
from flux_tasks.errors import Problem, nearest, shown
from flux_tasks.units import px_size

__all__ = ["GRID", "KINDS", "Box", "Boxes", "Row", "rows_in", "strange_names", "text_of", "with_boxes"]

GRID = 1000
"""Lines of the grid, from one edge of a frame to the other."""

KINDS = ("keep", "move", "new", "remove", "take")
"""What a box can ask for."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_WHATEVER = "what is in this box"

Size: TypeAlias = tuple[int, int]


def _four(given: Any) -> Any:
    if isinstance(given, (list, tuple)) and len(given) != 4:
        raise ValueError(f"{shown(given)} is no box: write four numbers, left, top, right, bottom")
    return list(given) if isinstance(given, tuple) else given


Edges = Annotated[
    list[Annotated[float, Field(allow_inf_nan=False)]],
    BeforeValidator(_four),
    Field(min_length=4, max_length=4),
]


class Box(Request):
    """A box of ``left, top, right, bottom``, and what is to become of what is in it: exactly one of five kinds.

    The numbers are pixels of the picture as people see it, as in the boxes of a mask, with right and bottom excluded.
    Numbers that are all at most 1 are shares of its width and height: ``[0, 0, 0.5, 1]`` is the left half. One box has
    either shares or pixels: a number between 0 and 1 beside one above 1 is refused.
    ``keep``, ``move`` and ``remove`` are places in the first picture, ``take`` is one in another picture; ``new`` and
    ``to`` are places in the result, in pixels of the first picture, which it has the shape of.
    """

    keep: Annotated[Edges | None, Field(description="Leave what is there as it is.")] = None
    move: Annotated[Edges | None, Field(description="Move what is there to the box in to.")] = None
    new: Annotated[Edges | None, Field(description="Put there what text says.")] = None
    remove: Annotated[Edges | None, Field(description="Remove what is there; no mask is needed.")] = None
    take: Annotated[Edges | None, Field(description="Take what is there in another picture to the box in to.")] = None
    to: Annotated[Edges | None, Field(description="Where it goes, for move and take.")] = None
    picture: Annotated[int | None, Field(description="For take: which picture, 2 for the first reference.", ge=2)] = (
        None
    )
    text: Annotated[str | None, Field(description="What is in the box, or is to be there.", min_length=1)] = None
    id: Annotated[
        str | None,
        Field(
            description="What the prompt calls it, as <lamp_1>; box_1, box_2 and so on if left out.",
            max_length=64,
        ),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _has_known_names(cls, given: Any) -> Any:
        unknown = [name for name in given if name not in cls.model_fields] if isinstance(given, Mapping) else []
        if unknown:
            hint = nearest(str(unknown[0]), cls.model_fields) or f"; it has {', '.join(cls.model_fields)}"
            raise ValueError(f"a box has no {unknown[0]}{hint}")
        return given

    @field_validator("keep", "move", "new", "remove", "take", "to")
    @classmethod
    def _has_area(cls, edges: list[float] | None) -> list[float] | None:
        if edges is not None and (edges[2] <= edges[0] or edges[3] <= edges[1]):
            raise ValueError(f"box {_shown(edges)} is empty: write it as left, top, right, bottom")
        if edges is not None and max(edges) > 1 and any(0 < edge < 1 for edge in edges):
            what = f"box {_shown(edges)} mixes shares and pixels"
            raise ValueError(f"{what}: write four shares, 0 to 1, or four numbers of pixels, with 0 for less than one")
        return edges

    @field_validator("id")
    @classmethod
    def _is_name(cls, name: str | None) -> str | None:
        if name is not None and (not _NAME.fullmatch(name) or name.startswith("ref_image_")):
            raise ValueError(f"{name!r} is not a name: write small letters, digits and _, such as lamp_1")
        return name

    @model_validator(mode="after")
    def _is_one_kind(self) -> Box:
        kinds = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(f"write exactly one of {', '.join(KINDS)} for a box")
        moves = kinds[0] in ("move", "take")
        if moves and self.to is None:
            raise ValueError(f"{kinds[0]} needs to: write where it goes, as left, top, right, bottom")
        if self.to is not None and not moves:
            raise ValueError(f"{kinds[0]} takes no to: only move and take do")
        if (self.picture is None) is (kinds[0] == "take"):
            raise ValueError(
                "take needs picture: write which one, 2 for the first reference"
                if self.picture is None
                else f"{kinds[0]} takes no picture: only take does"
            )
        if kinds[0] == "new" and not (self.text or "").strip():
            raise ValueError("new needs text: write what is to be there")
        return self

    @property
    def kind(self) -> str:
        """Which of the five it is."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)


def _listed(given: Any) -> Any:
    """Return a tuple as a list, and a column's JSON text as what it means."""
    if isinstance(given, str):
        try:
            return json.loads(given)
        except (ValueError, RecursionError):
            raise ValueError(f"{shown(given)} is not a list of boxes, nor JSON of one") from None
    return list(given) if isinstance(given, tuple) else given


Boxes = Annotated[list[Box], BeforeValidator(_listed, json_schema_input_type=list[Box] | str)]
"""Boxes as a caller may write them: a list of boxes or mappings, or JSON text of one, as in a column of a table."""

_BOXES: TypeAdapter[list[Box]] = TypeAdapter(Boxes)


@dataclass(frozen=True, slots=True)
class Row:
    """One row as the service reads it; ``source`` and ``target`` are top, left, bottom, right on the grid.

    Attributes:
        picture: number of the picture that ``source`` is a place in, from 0.
    """

    kind: str
    source: tuple[int, int, int, int] | None
    target: tuple[int, int, int, int] | None
    text: str
    picture: int = 0


def with_boxes(
    prompt: str,
    boxes: Sequence[Box | Mapping[str, Any]] | str,
    pictures: Sequence[Size],
    frame: Size | None,
    *,
    is_reshaped: bool = False,
) -> tuple[str, list[Problem]]:
    """Return ``prompt`` with the rows of ``boxes``, and what is wrong with them; places of problems begin at a box.

    Args:
        pictures: (width, height) in pixels of each picture that is sent, as people see it.
        frame: the size of the result where there is no picture; None where it is not known beforehand.
        is_reshaped: the result is to have another shape than the first picture.
    """
    problems: list[Problem] = []
    rows: list[dict[str, Any]] = []
    names: set[str] = set()
    target_frame = (pictures[0] if pictures else frame) if not is_reshaped else None
    for index, box in enumerate(_BOXES.validate_python(boxes)):
        name = box.id or f"box_{index + 1}"
        if name in names:
            problems.append(Problem(f"{index}.id", f"'{name}' is the id of another box, too: choose another one"))
        names.add(name)
        number = (box.picture or 1) - 1
        edges = getattr(box, box.kind)
        if not pictures and box.kind != "new":
            what = "needs a picture: where a picture is made from words alone, write new"
            problems.append(Problem(f"{index}.{box.kind}", what))
            continue
        if number >= max(1, len(pictures)):
            what = f"{number + 1} is not the number of a picture: {_count(len(pictures))}"
            problems.append(Problem(f"{index}.picture", what))
            continue
        size = pictures[number] if pictures else None
        source, target = None, None
        if box.kind != "new":
            source = _on_grid(edges, size, f"{index}.{box.kind}", problems)
        if box.kind == "keep":
            target = source
        elif box.kind != "remove":
            place = f"{index}.{'new' if box.kind == 'new' else 'to'}"
            target = _on_grid(edges if box.kind == "new" else box.to or [], target_frame, place, problems)
        text = box.text or _WHATEVER
        if pictures:
            origin = None if box.kind == "new" else f"ref_image_{number}"
            rows.append({"id": name, "from": origin, "src_bbox": source, "tgt_bbox": target, "desc": text})
        else:
            rows.append({"id": name, "bbox": target, "desc": text})
    written = json.dumps(rows, ensure_ascii=False, separators=(",", ":"))
    return (f"{prompt} {written}" if rows else prompt), problems


def _on_grid(
    edges: Sequence[float], size: Size | None, place: str, problems: list[Problem]
) -> tuple[int, int, int, int] | None:
    """Return ``edges`` (left, top, right, bottom) as top, left, bottom, right on the grid."""
    if all(edge <= 1 for edge in edges):
        width, height, frame = 1, 1, ": shares are 0 to 1"
    elif size is None:
        what = f"box {_shown(edges)} is in pixels of a result whose size is not known: write shares, 0 to 1"
        problems.append(Problem(place, what))
        return None
    else:
        width, height, frame = size[0], size[1], f" of {px_size(size)}"
    if min(edges) < 0 or edges[2] > width or edges[3] > height:
        problems.append(Problem(place, f"box {_shown(edges)} reaches out of the picture{frame}"))
        return None
    left, top, right, bottom = (
        round(edge * GRID / side) for edge, side in zip(edges, (width, height, width, height), strict=True)
    )
    if right <= left or bottom <= top:
        problems.append(Problem(place, f"box {_shown(edges)} is less than a thousandth of the picture: make it larger"))
        return None
    return top, left, bottom, right


def _shown(edges: Sequence[float]) -> str:
    return f"[{', '.join(f'{edge:g}' for edge in edges)}]"


def _count(pictures: int) -> str:
    return f"{pictures} {'is' if pictures == 1 else 'are'} sent" if pictures else "none is sent"


def rows_in(prompt: str) -> list[Row]:
    """Return the rows at the end of a prompt, whoever wrote them; none if there are none that can be read."""
    return [row for row in map(_read, _split(prompt)[1]) if row is not None]


def strange_names(prompt: str) -> list[str]:
    """Return the names in ``<`` and ``>`` before the rows of a prompt that none of the rows has; none without rows."""
    text, rows = _split(prompt)
    known = {row.get("id") for row in rows if isinstance(row, dict)}
    named = dict.fromkeys(re.findall(rf"<({_NAME.pattern})>", text)) if known else {}
    return [name for name in named if name not in known and not name.startswith("ref_image_")]


def text_of(prompt: str) -> str:
    """Return a prompt without the rows at its end."""
    return _split(prompt)[0]


def _split(prompt: str) -> tuple[str, list[Any]]:
    start = prompt.rfind(" [{") if prompt.endswith("}]") else -1
    while start >= 0:
        try:
            found = json.loads(prompt[start:])
        except (ValueError, RecursionError):
            start = prompt.rfind(" [{", 0, start)
            continue
        return prompt[:start], found
    return prompt, []


def _read(row: Any) -> Row | None:
    if not isinstance(row, dict) or not isinstance(row.get("desc"), str):
        return None
    source, target = _edges(row.get("src_bbox")), _edges(row.get("tgt_bbox", row.get("bbox")))
    number = str(row.get("from") or "ref_image_0").removeprefix("ref_image_")
    picture = int(number) if number.isdecimal() and len(number) < 3 else 0
    if source is None:
        return None if target is None else Row("new", None, target, row["desc"])
    if picture:
        return None if target is None else Row("take", source, target, row["desc"], picture)
    kind = "remove" if target is None else "keep" if target == source else "move"
    return Row(kind, source, target, row["desc"])


def _edges(found: Any) -> tuple[int, int, int, int] | None:
    if not isinstance(found, list) or len(found) != 4 or not all(type(edge) is int for edge in found):
        return None
    top, left, bottom, right = found
    return (top, left, bottom, right) if 0 <= top < bottom <= GRID and 0 <= left < right <= GRID else None
