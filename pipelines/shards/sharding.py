"""How a run is divided among processes: what the command line and ``Recipe.run`` say of it, and what finishes it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from flux_tasks.errors import Problem, RecipeError, cut, shown
from flux_tasks.settings import Settings, from_environment
from pipelines.flows.recipe_run import Finish, RunOptions, finish
from pipelines.language.compiled import CompiledRecipe
from pipelines.run.shard import Shard, check_count
from pipelines.shards.engines.base import Engine
from pipelines.shards.engines.choice import PROCESSES, engine_called, is_elsewhere

__all__ = ["ShardedOptions", "Sharding", "in_python", "with_sharding"]


T = TypeVar("T")


class ShardedOptions(RunOptions, total=False):
    """The keyword arguments of ``Recipe.run``: those of a run, and how it is divided; see ``Sharding``."""

    shards: int | None
    on: str
    folder: str | Path
    shard: str


@dataclass(frozen=True)
class Sharding:
    """How a run is divided.

    Attributes:
        shards: work on the items in so many parts, each in a process of its own; None for this process alone.
        on: where these run: ``processes`` of this machine (if empty), ``dask``, ``dask:ADDRESS``, ``ray``,
            ``ray:ADDRESS`` or ``prefect:POOL``.
        folder: with workers elsewhere: the folder there where relative paths start.
        shard: work on one part only, such as ``2/4``, in this process.

    Raises:
        RecipeError: they do not fit each other, or cannot be read; named as on the command line.
    """

    shards: int | None = None
    on: str = ""
    folder: str = ""
    shard: str = ""

    def __post_init__(self) -> None:
        problems = []
        for name, text in (("--on", self.on), ("--folder", self.folder), ("--shard", self.shard)):
            if not isinstance(text, str):
                problems.append(Problem(name, f"{shown(text)} is not a text"))
        for name, given in (("--on", self.on), ("--folder", self.folder)):
            if given and self.shards is None:
                problems.append(Problem(name, "belongs to --shards: add that, or leave it out"))
        if self.shard and self.shards is not None:
            what = "is one part by hand, and --shards starts all of them: give one of them"
            problems.append(Problem("--shard", what))
        if problems:
            raise RecipeError(problems)
        if self.shards is not None:
            check_count(self.shards)
        _ = self.part

    @property
    def part(self) -> Shard | None:
        """The part that this process works on; None for all."""
        return Shard.parse(self.shard) if self.shard else None

    @property
    def is_elsewhere(self) -> bool:
        """Whether workers on other machines make the jobs, with keys of their own."""
        return is_elsewhere(self.on)

    def finish_for(self, recipe: CompiledRecipe, settings: Settings) -> Finish:
        """Return what finishes a run of ``recipe``; nothing is started yet.

        Raises:
            RecipeError: what the shards are to run on cannot be used, or not with this recipe or these settings.
        """
        if self.shards is None:
            return finish
        if settings.prefect == "embedded":
            what = "embedded is a server for one process: start one with `prefect server start`, or write off"
            raise RecipeError([Problem("--prefect", what)])
        finish_divided, engine = self.finish_on_workers(recipe, settings)
        if not engine.has_secrets:
            _check_secrets(settings)
        for reference, step in recipe.functions.items():
            if step.function.__module__ == "__main__":
                what = f"{cut(reference)} is written in the program itself, which the process of a shard does not have"
                remedy = "write it in a module of its own, and import it from there"
                raise RecipeError([Problem("steps", f"{what}: {remedy}")])
        return finish_divided

    def finish_on_workers(
        self, recipe: CompiledRecipe, settings: Settings, key_block: str = ""
    ) -> tuple[Finish, Engine]:
        """Return what finishes a run of ``recipe`` in shards, and what they run on; nothing is started yet.

        Args:
            settings: what the program alone knows of them does not reach workers elsewhere.
            key_block: the ``Secret`` block that Prefect's workers take the key from, if one was named.

        Raises:
            RecipeError: there are no shards, or what they are to run on cannot be used, or not with this recipe.
        """
        from pipelines.shards.coordinator import finish_in_shards

        on, count = self.on or PROCESSES, self.shards or 0
        check_count(count)
        engine = engine_called(on, count, recipe, settings, self.folder, key_block=key_block)
        return partial(finish_in_shards, engine=engine, count=count, on=on), engine


def _check_secrets(settings: Settings) -> None:
    """Check that a worker can find in its environment what does not travel.

    Raises:
        RecipeError: key or accounts were given by the program: workers may have others, or none.
    """
    own = from_environment()
    what = "does not travel to workers: leave it out, and set {} here and in their environment"
    variables = {"key": "BFL_API_KEY", "storage_options": "FLUX_STORAGE_OPTIONS"}
    problems = [
        Problem(name, what.format(variable))
        for name, variable in variables.items()
        if getattr(settings, name) != getattr(own, name)
    ]
    if problems:
        raise RecipeError(problems)


def with_sharding(options: ShardedOptions) -> RunOptions:
    """Return the options of ``run_recipe`` that divide a run as these say.

    Raises:
        RecipeError: as for ``Sharding``, in the words of Python.
    """
    given: dict[str, Any] = {**options}
    own = {name: given.pop(name) for name in Sharding.__annotations__ if name in given}
    if isinstance(own.get("folder"), Path):
        own["folder"] = str(own["folder"])
    sharding = in_python(partial(Sharding, **own))

    def divide(recipe: CompiledRecipe, settings: Settings) -> tuple[Shard | None, Finish]:
        return sharding.part, in_python(partial(sharding.finish_for, recipe, settings))

    return {**given, "divide": divide}  # type: ignore[typeddict-item]


def in_python(call: Callable[[], T]) -> T:
    """Return what ``call`` returns; what it raises names options as arguments."""
    try:
        return call()
    except RecipeError as error:
        plain = partial(re.sub, r"--(?=[a-z])", "")
        problems = [replace(one, where=plain(one.where), what=plain(one.what)) for one in error.problems]
        raise RecipeError(problems, file=error.file) from None
