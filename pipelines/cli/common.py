"""What the commands share: exit codes, types of values, and the options that several of them take."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter, Token

from flux_tasks.errors import RecipeError, quote
from flux_tasks.settings import Settings, from_environment

if TYPE_CHECKING:
    from pipelines.language.compiled import CompiledRecipe

OPTIONS = Group("Options")
"""The heading of the options in the help."""


class Exit(IntEnum):
    """The exit codes."""

    OK = 0  # all items are fine
    ITEMS = 1  # some items are not fine
    WRONG = 2  # the recipe or the arguments are wrong; nothing was begun
    STOPPED = 3  # the run was stopped, or something that it needs did not work


def value(parse: Callable[[str], Any], what: str, metavar: str | None = None, **declared: Any) -> Parameter:
    """Declare a value that ``parse`` makes of a text; it raises ``ValueError`` for one that is not ``what``."""

    def convert(_type: Any, tokens: Sequence[Token]) -> Any:
        text = tokens[-1].value  # the last one counts where an option is repeated
        try:
            return parse(text)
        except ValueError:
            raise ValueError(f"{quote(text)} is not {what}") from None

    return Parameter(converter=convert, metavar=metavar, n_tokens=1, **declared)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError
    return int(text)


def _credits(text: str) -> float:
    if not 0 <= float(text) < float("inf"):
        raise ValueError
    return float(text)


def _assignments(_type: Any, tokens: Sequence[Token]) -> list[tuple[str, str]]:
    parts = [(token.value, *token.value.partition("=")) for token in tokens]
    for text, name, sign, _ in parts:
        if not sign or not name.strip():
            raise ValueError(f"{quote(text)} is not NAME=VALUE")
    return [(name.strip(), value) for _, name, _, value in parts]


Location = str | Path
"""A path or an fsspec URL. The command line gives a ``str``; ``Path`` makes shells complete names of files."""

Whole = Annotated[int, value(int, "a whole number", "N")]
Positive = Annotated[int, value(_positive, "a whole number above 0", "N")]
Number = Annotated[float, value(float, "a number", "N")]

RecipeFile = Annotated[Location, Parameter(help="the recipe: a YAML file")]
Limit = Annotated[Positive | None, Parameter(help="take the first N items only")]
Sample = Annotated[
    Positive | None, Parameter(help="take N items that stand for all, by size and sharpness, and tell the price of all")
]
Budget = Annotated[
    float | None,
    value(_credits, "a number of credits", "CREDITS", help="the most to spend, instead of the recipe's budget"),
]
Json = Annotated[bool, Parameter(help="print JSON")]
NoCode = Annotated[bool, Parameter(help="call no function of Python: refuse a recipe that does")]
NO_CODE = "--no-code is given: leave it out to let the recipe call it"
StoreFolder = Annotated[
    Location | None,
    Parameter(help="where results are stored: a folder or an fsspec URL (default: FLUX_STORE)", metavar="FOLDER|URL"),
]
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
    """The options that say where jobs are made and where results are stored; the environment has the defaults.

    Attributes:
        endpoint: who makes the jobs: bfl, eu, us, local, or the address of a server that speaks the API
        max_jobs: how many jobs at a time (default 24)
        alone: only this process uses the store: needed for one that cannot keep several apart (default: FLUX_ALONE)
        region: strict: poll and fetch in the region of the endpoint only (eu, us), or refuse (default: FLUX_REGION)
    """

    endpoint: Annotated[str | None, Parameter(metavar="NAME|URL")] = None
    store: StoreFolder = None
    max_jobs: Positive | None = None
    region: Literal["any", "strict"] | None = None
    alone: bool = False

    def settings(self, *, needs_key: bool = True) -> Settings:
        """Return the settings of the environment, replaced where an option was given.

        Raises:
            RunStopped: ``needs_key``, and there is no key for an endpoint that asks for one.
        """
        found = from_environment()
        settings = replace(
            found,
            endpoint=self.endpoint or found.endpoint,
            store=str(self.store or found.store),
            max_jobs=self.max_jobs or found.max_jobs,
            region=self.region or found.region,
            alone=self.alone or found.alone,
        )
        if needs_key:
            settings.require_key()
        return settings


def load_recipe(location: Location, variables: Sequence[tuple[str, str]], *, no_code: bool = False) -> CompiledRecipe:
    """Read and check a recipe, with values for its variables."""
    from pipelines.language.reading import loader

    try:
        return loader.load(str(location), dict(variables), no_code=NO_CODE if no_code else "")
    except RecipeError as error:  # in the words of the command line
        problems = [replace(one, where=re.sub(r"^variables\.", "--set ", one.where)) for one in error.problems]
        raise RecipeError(problems, file=error.file) from None
