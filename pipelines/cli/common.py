"""What the commands share: exit codes, the options that several of them take, and what these options name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter, Token

if TYPE_CHECKING:
    from flux_tasks.settings import Settings
    from pipelines.language.compiled import CompiledRecipe

__all__ = [
    "OPTIONS",
    "Budget",
    "Exit",
    "Json",
    "Limit",
    "Location",
    "Places",
    "RecipeFile",
    "StoreFolder",
    "Variables",
    "load_recipe",
    "number",
    "option",
    "positive",
    "whole_number",
]


OPTIONS = Group("Options")
"""The heading of the options in the help."""


class Exit(IntEnum):
    """The exit codes."""

    OK = 0
    """All items are fine."""
    ITEMS = 1
    """Some items are not."""
    WRONG = 2
    """The recipe or the arguments are wrong; nothing was begun."""
    STOPPED = 3
    """The run was stopped, or something that it needs did not work."""


def option(
    text: str, metavar: str | None = None, *, name: str = "", parse: Callable[[str], Any] | None = None
) -> Parameter:
    """Return the declaration of an option or argument, for ``Annotated``.

    Args:
        text: its help, in ASCII: it must be printable on every terminal.
        metavar: the word for its value in the help.
        name: what a person writes, where the parameter's own name would not do.
        parse: makes the value of the text that was written; raises ``ValueError`` with a message for a person.
    """

    def convert(_type: Any, tokens: Sequence[Token]) -> Any:
        return parse(tokens[-1].value) if parse else None

    return Parameter(name=name or None, help=text, metavar=metavar, converter=convert if parse else None)


def whole_number(text: str) -> int:
    """Return the whole number in ``text``.

    Raises:
        ValueError: it is none.
    """
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"'{text}' is not a whole number") from None


def positive(text: str) -> int:
    """Return the whole number above 0 in ``text``.

    Raises:
        ValueError: it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"'{text}' is not a whole number above 0")
    return int(text)


def number(text: str) -> float:
    """Return the number in ``text``.

    Raises:
        ValueError: it is none.
    """
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"'{text}' is not a number") from None


def _credits(text: str) -> float:
    try:
        credits = float(text)
    except ValueError:
        credits = -1.0
    if not 0 <= credits < float("inf"):
        raise ValueError(f"'{text}' is not a number of credits")
    return credits


def _assignments(_type: Any, tokens: Sequence[Token]) -> list[tuple[str, str]]:
    parts = [(token.value, *token.value.partition("=")) for token in tokens]
    for text, name, sign, _ in parts:
        if not sign or not name.strip():
            raise ValueError(f"'{text}' is not NAME=VALUE")
    return [(name.strip(), value) for _, name, _, value in parts]


Location = str | Path
"""A path or an fsspec URL. The command line gives a ``str``; ``Path`` makes shells complete names of files."""

RecipeFile = Annotated[Location, option("the recipe: a YAML file")]
StoreFolder = Annotated[
    Location | None, option("where results are stored: a folder or an fsspec URL (default: FLUX_STORE)", "FOLDER|URL")
]
Limit = Annotated[int | None, option("take the first N items only", "N", parse=positive)]
Budget = Annotated[
    float | None, option("spend at most so many credits, whatever the recipe says", "CREDITS", parse=_credits)
]
Json = Annotated[bool, option("print JSON")]
Variables = Annotated[
    Sequence[tuple[str, str]],
    Parameter(
        name="--set",
        help="give a variable of the recipe another value; may be repeated",
        metavar="NAME=VALUE",
        converter=_assignments,
        n_tokens=1,
    ),
]


@Parameter(name="*")
@dataclass(frozen=True)
class Places:
    """The options that say where jobs are made and where results are stored; without one, the environment decides."""

    endpoint: Annotated[
        str | None,
        option("who makes the jobs: bfl, eu, us, local, or the address of a server that speaks the API", "NAME|URL"),
    ] = None
    store: StoreFolder = None
    max_jobs: Annotated[int | None, option("how many jobs at a time (default 24)", "N", parse=positive)] = None

    def settings(self, *, needs_key: bool = True) -> Settings:
        """Return the settings of the environment, replaced where an option was given.

        Raises:
            RunStopped: ``needs_key``, and there is no key for an endpoint that asks for one.
        """
        from dataclasses import replace

        from flux_tasks.settings import from_environment

        settings = from_environment()
        settings = replace(
            settings,
            endpoint=self.endpoint or settings.endpoint,
            store=str(self.store or settings.store),
            max_jobs=self.max_jobs or settings.max_jobs,
        )
        if needs_key:
            settings.require_key()
        return settings


def load_recipe(location: Location, variables: Sequence[tuple[str, str]]) -> CompiledRecipe:
    """Read and check a recipe.

    Raises:
        RecipeError: with every problem, its line and what to write instead.
    """
    from pipelines.language.reading import loader

    return loader.load(str(location), dict(variables))
