"""A step on its way from the document to the recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipelines.language.model import Step
from pipelines.language.reading.problems import Path

__all__ = ["ParsedStep"]


@dataclass
class ParsedStep:
    """A step that has been read; what feeds it and whether it will do is found out next.

    Attributes:
        data: as written.
        name: what it is called by, as written.
        path: where it is written.
    """

    data: dict[str, Any]
    name: str
    path: Path
    step: Step
    comes_from: str = ""
    """The recipe that it comes from, if it was used as a step."""

    @property
    def at(self) -> Path:
        """Where its parameters are written."""
        return (*self.path, "with" if self.name == "call" else self.name)
