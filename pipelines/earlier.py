"""An earlier run, found again in its store: which recipe it was, and how its items ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux_tasks import files
from flux_tasks.errors import Problem, RecipeError, nearest
from flux_tasks.store import Store
from pipelines.manifest import read_manifest
from pipelines.recipe import Recipe

__all__ = ["EarlierRun"]


@dataclass(frozen=True)
class EarlierRun:
    """What a run left behind."""

    run_id: str
    recipe: Recipe
    endpoint: str
    manifest: str

    @classmethod
    def find(cls, name: str, store: str) -> EarlierRun:
        """The run called ``name``: its id, the path of its manifest in the store, or ``last``.

        Raises:
            RecipeError: there is none, it was made elsewhere, or its recipe is not valid any more.
        """
        kept = Store(store)
        known = files.folders(kept.location("runs"))
        parts = name.rstrip("/").split("/")
        run_id = (
            known[-1] if name == "last" and known else next((part for part in reversed(parts) if part in known), "")
        )
        record = _record(kept, run_id) if run_id else None
        if record is None:
            hint = nearest(name, known) or (f"; the last one is {known[-1]}" if known else "; it has none")
            raise RecipeError([Problem("run", f"{kept.url} knows no run '{name}'{hint}")])
        if record["folder"] != str(Path.cwd()) and _is_relative(record):
            what = f"{run_id} was made in {record['folder']}, and its paths are relative: run this there"
            raise RecipeError([Problem("run", what)])
        recipe = Recipe.parse(record["recipe"], file=f"{run_id}/run.json", variables=record.get("variables") or {})
        return cls(run_id, recipe, record["endpoint"], record["manifest"])

    def items(self, outcomes: Collection[str]) -> set[str]:
        """Locations of the items that ended in one of ``outcomes``.

        Raises:
            RecipeError: the manifest has gone.
        """
        return {row["source"] for row in self._rows() if row["outcome"] in outcomes}

    def counts(self) -> Counter[str]:
        """Items by outcome."""
        return Counter(row["outcome"] for row in self._rows())

    def _rows(self) -> list[dict[str, Any]]:
        try:
            return list(read_manifest(self.manifest))
        except OSError as error:
            raise RecipeError([Problem("run", f"the manifest of {self.run_id} cannot be read: {error}")]) from None


def _record(store: Store, run_id: str) -> dict[str, Any] | None:
    try:
        return store.record(files.join("runs", run_id), "run")
    except (OSError, ValueError):
        return None


def _is_relative(record: dict[str, Any]) -> bool:
    source = Recipe.parse(record["recipe"], variables=record.get("variables") or {}).source
    places = [*source.images, source.table, source.image]
    return any(place and files.is_local(place) and not files.local_path(place).is_absolute() for place in places)
