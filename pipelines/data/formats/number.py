"""Numbers in a table: written as text, compared as numbers."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from typing import Any

__all__ = ["Number", "cell"]

_NUMBER = re.compile(r"\s*[+-]?([0-9]{1,40}(\.[0-9]{0,40})?|\.[0-9]{1,40})([eE][+-]?[0-9]{1,3})?\s*", re.ASCII)


class Number(str):
    """Text of a table that reads as a number: ``007`` prints as ``007`` and is above 6.

    With a number it counts as one: ``price > 3``, ``price == 4.5``, ``price * 2``. Two of them are compared by size and
    calculated with as numbers, too. With other text it is text, and two of them are equal when they are written alike:
    ``id == "007"``, ``sku + "-b"``. It is true unless it is 0.
    """

    __slots__ = ()
    __hash__ = str.__hash__

    @property
    def value(self) -> int | float:
        """The number that its text means."""
        try:
            return int(self)
        except ValueError:
            return float(self)

    def __bool__(self) -> bool:
        return self.value != 0

    def __eq__(self, other: object) -> bool:
        return self.value == other if isinstance(other, (int, float)) else str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other


def _operation(name: str, calculate: Callable[[Any, Any], Any]) -> Callable[[Number, Any], Any]:
    as_text: Callable[[str, Any], Any] | None = getattr(str, f"__{name}__", None)

    def operation(self: Number, other: Any) -> Any:
        if isinstance(other, (Number, int, float)):
            return calculate(self.value, other.value if isinstance(other, Number) else other)
        return as_text(self, other) if as_text else NotImplemented

    return operation


def _reflected(calculate: Callable[[Any, Any], Any]) -> Callable[[Number, Any], Any]:
    def operation(self: Number, other: Any) -> Any:
        return calculate(other, self.value) if isinstance(other, (int, float)) else NotImplemented

    return operation


for _name in ("lt", "le", "gt", "ge", "add", "sub", "mul", "truediv", "floordiv", "mod"):
    setattr(Number, f"__{_name}__", _operation(_name, getattr(operator, _name)))
for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod"):
    setattr(Number, f"__r{_name}__", _reflected(getattr(operator, _name)))


def cell(text: str) -> str:
    """Return ``text``, as a ``Number`` where it reads as one."""
    return Number(text) if _NUMBER.fullmatch(text) and math.isfinite(float(text)) else text
