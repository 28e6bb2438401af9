"""Follow the pictures of an item back to its input, to place the input and the masks on a result.

A row names the inputs of each step, the main one first. Rows of earlier versions name none: their steps are a chain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.operations.registry import OPERATIONS
from pipelines.report.formatting import mappings
from pipelines.report.pictures import WHOLE, Box, place, size_of

INPUT = -1
"""The number of the item's own picture, among the numbers of its steps."""


class Lineage:
    """The steps of one item, by their number in its row."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self.steps = mappings(row.get("steps"))
        self._input = row.get("input")
        self._parents = [self._parent(number) for number in range(len(self.steps))]

    def _parent(self, number: int) -> int:
        inputs = self.steps[number].get("from")
        if not isinstance(inputs, (list, tuple)):
            return number - 1
        return self.find(inputs[0], number) if inputs else INPUT

    def find(self, name: object, before: int | None = None) -> int:
        """Return the last step called ``name``, among those before a number if one is given; ``INPUT`` if none is."""
        numbers = range(len(self.steps))[:before]
        return next((n for n in reversed(numbers) if self.steps[n].get("id") == name), INPUT)

    def image(self, number: int) -> object:
        """Return the description of the picture that a step gives, or of the input."""
        for at in self.line(number):
            if at != INPUT and self.steps[at].get("image"):
                return self.steps[at]["image"]
        return self._input

    def line(self, number: int) -> Iterator[int]:
        """Yield a step, the step whose picture it worked on, and so on up to the input."""
        while number != INPUT:
            yield number
            number = self._parents[number]
        yield INPUT

    def places(self, number: int, result: object) -> dict[int, Box]:
        """Return where the picture of each step of a line lies on ``result``, the result of step ``number``."""
        boxes: dict[int, Box] = {}
        canvas, box = result, WHOLE
        step: Mapping[str, Any] = {}
        for at in self.line(number):
            described = self.image(at)
            boxes[at] = box = _place_on(canvas, described, step).within(box)
            canvas, step = described, self.steps[at] if at != INPUT else {}
        return boxes

    def last_image(self) -> int:
        """Return the last step that gave an image rather than a mask; ``INPUT`` if none did."""
        numbers = reversed(range(len(self.steps)))
        return next((n for n in numbers if self.steps[n].get("image") and not self._is_mask(n)), INPUT)

    def _is_mask(self, number: int) -> bool:
        for at in self.line(number):
            operation = OPERATIONS.get(str(self.steps[at].get("task"))) if at != INPUT else None
            if operation is None or operation.output_kind != "same":
                return operation is not None and operation.output_kind == "mask"
        return False


def _place_on(canvas: object, described: object, step: Mapping[str, Any]) -> Box:
    """Return where a picture lies on the result of the ``step`` that worked on it."""
    before, after, parameters = size_of(described), size_of(canvas), step.get("parameters")
    if described is canvas or before is None or after is None:
        return WHOLE
    known = parameters if isinstance(parameters, Mapping) else {}
    return place(before, after, known, task=str(step.get("task") or ""))
