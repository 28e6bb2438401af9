"""``run --shards`` and ``run --shard``: the items of a run in parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from flux_tasks.errors import Problem, RecipeError
from pipelines.cli.common import Location, Positive

if TYPE_CHECKING:
    from flux_tasks.settings import Settings
    from pipelines.language.compiled import CompiledRecipe
    from pipelines.run.shard import Shard
    from pipelines.shards.engines.base import Engine


Shards = Positive | None


@Parameter(name="*")
@dataclass(frozen=True)
class Sharding:
    """The options that divide a run.

    Attributes:
        shards: work on the items in N parts, each in a process of its own; one manifest and one report in the end
        on: where the shards run: processes of this machine (default), dask, dask:ADDRESS, ray, ray:ADDRESS, or
            prefect:POOL
        folder: with workers elsewhere: the folder there where relative paths start
        shard: work on one part only, such as 2/4, in this process; for machines that you start yourself
    """

    shards: Shards = None
    on: Annotated[str, Parameter(metavar="ENGINE")] = ""
    folder: Annotated[Location, Parameter(metavar="FOLDER")] = ""
    shard: Annotated[str, Parameter(metavar="I/N")] = ""

    def check(self, prefect: str | None, *, whole: bool) -> None:
        """Check that the options fit each other.

        Args:
            prefect: who records the run, if that was given.
            whole: it has to be over all items, to remove what is stale.

        Raises:
            RecipeError: they do not.
        """
        from pipelines.run.shard import check_count

        problems = []
        for name, is_given in (("--on", self.on), ("--folder", self.folder)):
            if is_given and self.shards is None:
                problems.append(Problem(name, "belongs to --shards: add that, or leave it out"))
        if self.shard and self.shards is not None:
            problems.append(
                Problem("--shard", "is one part by hand, and --shards starts all of them: give one of them")
            )
        if self.shards is not None:
            check_count(self.shards)
        if self.shards is not None and prefect == "embedded":
            what = "embedded is a server for one process: start one with `prefect server start`, or write off"
            problems.append(Problem("--prefect", what))
        if self.shard and whole:
            problems.append(Problem("--prune", "goes with a run over all items only: leave --shard out"))
        if problems:
            raise RecipeError(problems)

    @property
    def part(self) -> Shard | None:
        """The part that this process works on; None for all.

        Raises:
            RecipeError: it cannot be read.
        """
        from pipelines.run.shard import Shard

        return Shard.parse(self.shard) if self.shard else None

    def engine(self, recipe: CompiledRecipe, settings: Settings) -> Engine | None:
        """Return what the shards run on; None for a run without any.

        Raises:
            RecipeError: it cannot be used, or not with this recipe.
        """
        if self.shards is None:
            return None
        from pipelines.shards.engines.choice import engine_called

        return engine_called(self.place, self.shards, recipe, settings, str(self.folder))

    @property
    def place(self) -> str:
        """What the shards run on, as ``on`` names it."""
        return self.on or "processes"
