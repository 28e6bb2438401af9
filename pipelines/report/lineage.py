"""What each picture of an item was made of, and so where the input and the masks lie on a result.

A row names for each step those that fed it, its main picture's first; rows of earlier versions name none, and their
steps are a chain. A step without a picture of its own passes on the one that it got.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.operations.registry import OPERATIONS
from pipelines.report.pictures import WHOLE, Box, place, size_of

__all__ = ["INPUT", "Lineage", "steps_in"]

INPUT = -1
"""The place of the item's own picture among the steps."""


def steps_in(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The steps that a row tells of; what is none is left out."""
    steps = row.get("steps")
    return [step for step in steps if isinstance(step, Mapping)] if isinstance(steps, (list, tuple)) else []


class Lineage:
    """The steps of one item by their place in its row."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self._steps = steps_in(row)
        self._input = row.get("input")
        self._parents = [self._parent(number) for number in range(len(self._steps))]

    def _parent(self, number: int) -> int:
        feeds = self._steps[number].get("from")
        if not isinstance(feeds, (list, tuple)):
            return number - 1
        return self.find(feeds[0], number) if feeds else INPUT

    def find(self, name: object, before: int | None = None) -> int:
        """The last step called ``name``, or that before a place; ``INPUT`` if there is none."""
        numbers = range(len(self._steps))[:before]
        return next((n for n in reversed(numbers) if self._steps[n].get("id") == name), INPUT)

    def image(self, number: int) -> object:
        """The description of what a step passes on, or of the input."""
        for at in self.line(number):
            if at != INPUT and self._steps[at].get("image"):
                return self._steps[at]["image"]
        return self._input

    def line(self, number: int) -> Iterator[int]:
        """A step, the one whose picture it worked on, and so on up to the input."""
        while number != INPUT:
            yield number
            number = self._parents[number]
        yield INPUT

    def places(self, number: int, result: object) -> dict[int, Box]:
        """Where the picture of each step of the line lies on ``result``, which was made of that of step ``number``."""
        boxes: dict[int, Box] = {}
        canvas, box = result, WHOLE
        step: Mapping[str, Any] = {}
        for at in self.line(number):
            described = self.image(at)
            box = _placed(described, canvas, step).within(box)
            boxes[at] = box
            canvas, step = described, self._steps[at] if at != INPUT else {}
        return boxes

    def last_image(self) -> int:
        """The last step that gave a picture which is no mask; ``INPUT`` if none did."""
        numbers = reversed(range(len(self._steps)))
        return next((n for n in numbers if self._steps[n].get("image") and not self._is_mask(n)), INPUT)

    def _is_mask(self, number: int) -> bool:
        for at in self.line(number):
            operation = OPERATIONS.get(str(self._steps[at].get("task"))) if at != INPUT else None
            if operation is None or operation.output_kind != "same":
                return operation is not None and operation.output_kind == "mask"
        return False


def _placed(described: object, canvas: object, step: Mapping[str, Any]) -> Box:
    """Where a picture lies on what ``step`` made of it."""
    before, after, parameters = size_of(described), size_of(canvas), step.get("parameters")
    if described is canvas or before is None or after is None:
        return WHOLE
    known = parameters if isinstance(parameters, Mapping) else {}
    return place(before, after, known, task=str(step.get("task") or ""))
