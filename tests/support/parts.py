"""Read one part of a recipe document by itself, as the reader of recipes does."""

from __future__ import annotations

from typing import Any, TypeVar

from flux_tasks.errors import Problem
from pipelines.language.document.fields import Part
from pipelines.language.reading.problems import ProblemCollector, read_part
from pipelines.language.reading.yaml import Document

__all__ = ["read"]

P = TypeVar("P", bound=Part)


def read(part: type[P], data: Any, *, where: str) -> tuple[P | None, list[Problem]]:
    """Return the part, or None and everything that is wrong with it."""
    problems = ProblemCollector(Document(None))
    found = read_part(part, data, tuple(where.split(".")), problems)
    return (None if problems.problems else found), problems.problems
