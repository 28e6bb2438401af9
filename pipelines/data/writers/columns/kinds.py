"""Kinds of the columns of a dataset: one for all rows, so that every reader finds the same type in every shard.

A kind is ``null``, ``bool``, ``int64``, ``float64`` or ``string``, a list with the kind of its entries, or a mapping of
names to kinds. Where values have nothing in common, the column is text, and what is no text is written as JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

from pipelines.data.formats.number import Number

__all__ = ["Kind", "fit", "kind_of", "merge"]

Kind: TypeAlias = "str | list[Kind] | dict[str, Kind]"

_LARGEST = 2**63


def kind_of(value: Any) -> Kind:
    """Return the kind of one value; ``bytes`` for what is no column of a dataset."""
    if isinstance(value, Number):
        return _kind_of_number(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int64" if -_LARGEST <= value < _LARGEST else "string"
    if isinstance(value, float):
        return "float64" if math.isfinite(value) else "null"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "bytes"
    if isinstance(value, Mapping):
        kinds: dict[str, Kind] = {str(name): kind_of(inner) for name, inner in value.items()}
        return "bytes" if "bytes" in kinds.values() else kinds
    if isinstance(value, (list, tuple)):
        kind: Kind = "null"
        for inner in value:
            kind = merge(kind, kind_of(inner))
        return "bytes" if kind == "bytes" else [kind]
    return "string"


def _kind_of_number(text: Number) -> Kind:
    """Return a number's kind only where its text is the number as a program writes it: ``007`` stays a text."""
    value = text.value
    if str(text) == str(value):
        return kind_of(value)
    return "float64" if isinstance(value, float) and text.strip("0") == str(value).strip("0") else "string"


def merge(one: Kind, other: Kind) -> Kind:
    """Return the kind that values of both fit."""
    if one == other or other == "null":
        return one
    if one == "null":
        return other
    if "bytes" in (one, other):
        return "bytes"
    if isinstance(one, str) and isinstance(other, str) and {one, other} == {"int64", "float64"}:
        return "float64"
    if isinstance(one, list) and isinstance(other, list):
        return [merge(one[0], other[0])]
    if isinstance(one, dict) and isinstance(other, dict):
        return {name: merge(one.get(name, "null"), other.get(name, "null")) for name in {**one, **other}}
    return "string"


def settled(kind: Kind) -> Kind:
    """Return a kind in which all is known: a column, or a part of one, that was always empty is text."""
    if kind in ("null", {}):
        return "string"
    if isinstance(kind, list):
        return [settled(kind[0])]
    if isinstance(kind, dict):
        return {name: settled(inner) for name, inner in kind.items()}
    return kind


def fit(value: Any, kind: Kind) -> Any:
    """Return a value as one of a kind, as plain data.

    Raises:
        ValueError: it does not fit.
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(kind, list):
        if not isinstance(value, (list, tuple)):
            raise ValueError  # noqa: TRY004 - one error for all
        return [fit(inner, kind[0]) for inner in value]
    if isinstance(kind, dict):
        if not isinstance(value, Mapping) or {str(name) for name in value} - kind.keys():
            raise ValueError
        return {name: fit(value.get(name), inner) for name, inner in kind.items()}
    if kind == "string":
        is_plain = isinstance(value, (Mapping, list, tuple, bool))
        text = json.dumps(value, ensure_ascii=False, default=str) if is_plain else str(value)
        return text.encode("utf-8", "replace").decode()  # as of a name that is no UTF-8
    if merge(kind, kind_of(value)) != kind:
        raise ValueError
    number = value.value if isinstance(value, Number) else value
    return float(number) if kind == "float64" else number
