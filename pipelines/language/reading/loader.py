"""Load a recipe: from a file, from text, or from plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from flux_tasks import files
from flux_tasks.errors import Problem, RecipeError
from pipelines.language.compiled import CompiledRecipe
from pipelines.language.reading import reader, yaml

__all__ = ["compile_data", "load", "parse"]

_Steps: TypeAlias = tuple[list[dict[str, Any]], str]
"""The steps of a recipe that is used as a step, and the id of the one whose result is its output."""


def load(location: str | Path, variables: Mapping[str, Any] | None = None) -> CompiledRecipe:
    """Read and check a YAML file on any location.

    Args:
        variables: values for its ``vars`` that replace those in the file.

    Raises:
        RecipeError: with every problem, its line and what to write instead.
    """
    return parse(_text_of(str(location)), file=str(location), variables=variables)


def parse(text: str, *, file: str = "", variables: Mapping[str, Any] | None = None) -> CompiledRecipe:
    """Check the text of a recipe; see ``load``."""
    return replace(_Loader(file).compile(yaml.load(text), variables or {}), yaml=text)


def compile_data(data: Mapping[str, Any], included: Mapping[str, CompiledRecipe] | None = None) -> CompiledRecipe:
    """Check a recipe that is given as plain data.

    Args:
        included: recipes that it uses as steps, by the names that it calls them.

    Raises:
        RecipeError: with every problem and what to write instead.
    """
    return _Loader("", included=included or {}).compile(yaml.Document(data), {})


@dataclass
class _Loader:
    """Reads one recipe and the recipes that it uses as steps; each of these is read once."""

    file: str
    within: tuple[str, ...] = ()
    """The recipes that use it, the outermost first."""
    known: dict[str, _Steps | RecipeError] = field(default_factory=dict)
    included: Mapping[str, CompiledRecipe] = field(default_factory=dict)

    def compile(self, document: yaml.Document, variables: Mapping[str, Any]) -> CompiledRecipe:
        compiled, problems = reader.read(document, self._include, variables)
        if compiled is None:
            raise RecipeError(problems, file=self.file)
        return replace(compiled, file=self.file, written=document.data, lines=document.lines, variables=dict(variables))

    def _include(self, location: str) -> _Steps:
        if location in self.included:
            return self.included[location].as_steps()
        users = (*self.within, self.file)
        if location in users:
            raise RecipeError(
                [Problem("", f"is a step of itself: take it out: {' → '.join((*filter(None, users), location))}")]
            )
        if location not in self.known:
            try:
                inner = _Loader(location, users, self.known)
                self.known[location] = inner.compile(yaml.load(_text_of(location)), {}).as_steps()
            except RecipeError as error:
                self.known[location] = error
        found = self.known[location]
        if isinstance(found, RecipeError):
            raise found
        return found


def _text_of(location: str) -> str:
    try:
        return files.read(location, limit=10_000_000).decode()
    except FileNotFoundError:
        raise RecipeError([Problem("", "there is no such recipe file")], file=location) from None
    except UnicodeDecodeError:
        raise RecipeError([Problem("", "is not a recipe: it is not text")], file=location) from None
    except OSError as error:
        raise RecipeError([Problem("", f"cannot be read: {error}")], file=location) from None
