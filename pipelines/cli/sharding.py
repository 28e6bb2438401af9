"""``run --shards`` and ``run --shard``: the items of a run in parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from pipelines.cli.common import Location, Positive

if TYPE_CHECKING:
    from pipelines.shards import sharding

Shards = Positive | None


@Parameter(name="*")
@dataclass(frozen=True)
class InShards:
    """The options that divide a run.

    Attributes:
        shards: work on the items in N parts, each in a process of its own; one manifest and one report in the end
        on: where the shards run: processes of this machine (default), dask, dask:ADDRESS, ray, ray:ADDRESS, or
            prefect:POOL
        folder: with workers elsewhere: the folder there where relative paths start
    """

    shards: Shards = None
    on: Annotated[str, Parameter(metavar="ENGINE")] = ""
    folder: Annotated[Location, Parameter(metavar="FOLDER")] = ""

    def checked(self, shard: str = "") -> sharding.Sharding:
        """Return what the options say.

        Args:
            shard: one part by hand.

        Raises:
            RecipeError: they do not fit each other.
        """
        from pipelines.shards.sharding import Sharding

        return Sharding(self.shards, self.on, str(self.folder), shard)
