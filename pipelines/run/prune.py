"""Remove outputs whose source is gone.

An output is stale if an earlier run of the recipe has written it for an item that its source, unfiltered, no longer
has. It stays if an item of today would be written to the same place or reads it, if another recipe has written or read
it, if its picture is still there, or if somebody has changed it since. Nothing is removed where anything of that is
not known for certain.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace

from flux_tasks import files
from flux_tasks.errors import FluxError, InvalidRequest, Problem, RecipeError, StoreUnavailable, reason_of
from flux_tasks.store.records import Store
from flux_tasks.store.threads import each
from pipelines.data.annotations.writing import remove_labels
from pipelines.data.items import Listed, NoItems
from pipelines.data.outputs import Outputs
from pipelines.data.past_outputs import PastOutput, PastOutputs
from pipelines.data.writers.card import Card
from pipelines.data.writers.columns.checks import DatasetChecks
from pipelines.data.writers.dataset import Dataset
from pipelines.data.writers.provenance import SIDECAR
from pipelines.execution.precheck import items, named_pictures, pictures_of_item
from pipelines.language.compiled import CompiledRecipe
from pipelines.language.document.output import Output

__all__ = ["Prune", "check_whole"]

_EMPTY = "write --allow-empty if that is meant"


@dataclass
class _Present:
    """What is there today: the sources of all items, and the places that they are read from and written to."""

    sources: set[str] = field(default_factory=set)
    claims: set[bytes] = field(default_factory=set)


def check_whole(limit: int | None, sample: int | None) -> None:
    """Check that a run is over its whole source.

    Raises:
        RecipeError: it is not.
    """
    for name, value in (("--limit", limit), ("--sample", sample)):
        if value is not None:
            raise RecipeError([Problem("--prune", f"goes with a run over all items only: leave {name} out")])


class Prune:
    """The stale outputs of a recipe: ``collect`` them before a run, which may write over their manifest.

    Args:
        may_be_empty: whether the source, or one of its globs, may find nothing at all.
    """

    def __init__(self, recipe: CompiledRecipe, store: Store, *, may_be_empty: bool) -> None:
        whole = recipe.source.model_copy(update={"filter": "", "sample": None, "limit": None, "dedupe": None})
        self._recipe, self._whole = recipe, replace(recipe, source=whole)
        self._store, self._may_be_empty = store, may_be_empty
        self._outputs = Outputs()
        self._stale: dict[bytes, PastOutput] = {}
        self._shared: set[str] = set()
        self._datasets: dict[str, Dataset] = {}

    def collect(self) -> None:
        """Find out what is stale.

        Raises:
            RecipeError: what the source has is not known for certain, or a manifest cannot be read.
        """
        present = self._present()
        try:
            past = PastOutputs(self._store, self._recipe)
            kept = set[bytes]()
            for output in past.of_recipe():
                mark = self._outputs.mark(output.path)
                if output.source in present.sources or mark in present.claims:
                    kept.add(mark)
                else:
                    self._stale.setdefault(mark, output)
            for claimed, labelled in past.of_others() if self._stale else ():
                kept.update(map(self._outputs.mark, claimed))
                self._shared.update(map(_full, labelled))
            roots = past.unknown_roots() if self._stale else []
            for mark, output in list(self._stale.items()):
                place = _full(output.picture)
                is_unknown = any(not root or place.startswith(f"{_full(root)}/") for root in roots)
                if mark in kept or is_unknown or past.is_mentioned(place):
                    del self._stale[mark]
            self._check_folders(present.sources)
        except (OSError, StoreUnavailable) as error:
            reason = reason_of(error) if isinstance(error, OSError) else str(error)
            raise RecipeError([Problem("--prune", f"what runs have written is not known: {reason}")]) from None

    def _check_folders(self, sources: set[str]) -> None:
        """Check that no folder has lost all its pictures: it may only be away, as a disk or a link is.

        Raises:
            RecipeError: one has.
        """
        gone = {_folder(output.source) for output in self._stale.values()} - set(map(_folder, sources))
        if gone and not self._may_be_empty and not self._recipe.source.has_rows:
            what = f"{files.quoted(min(gone))} has no picture any more, or is away at the moment"
            raise RecipeError([Problem("--prune", f"{what}, so nothing is removed; {_EMPTY}")])

    def stale(self) -> list[PastOutput]:
        """Return what is stale after the run, in the order of its names, as far as it is there.

        Raises:
            RecipeError: as for ``collect``.
        """
        present = self._present() if self._stale else _Present()
        is_picture = not self._recipe.source.has_rows
        found = []
        for mark, output in self._stale.items():
            if output.source not in present.sources and mark not in present.claims:
                found.append(output)

        def is_stale(output: PastOutput) -> bool:
            return not (is_picture and files.exists(output.source)) and self._is_there(output)

        for output in found:
            if output.is_row and (dataset := self._dataset_of(output)) is not None:
                len(self._dataset(dataset[0]).index)  # is read here, once
        answers = zip(found, each(is_stale, found), strict=True)
        return sorted((output for output, is_gone in answers if is_gone), key=lambda output: output.path)

    def _present(self) -> _Present:
        """Look at the whole source."""
        found, listed, broken = _Present(), Listed(), list[str]()
        named = list(named_pictures(self._whole))
        try:
            for item in items(self._whole, listed=listed):
                if item.error:
                    broken.append(item.error)
                    continue
                found.sources.add(item.source)
                found.claims.update(map(self._outputs.mark, pictures_of_item(self._whole, item, named)))
                context = {**self._recipe.constants, **item.context}
                for target in self._recipe.graph.targets:
                    with suppress(InvalidRequest):
                        found.claims.add(self._outputs.mark(self._outputs.path(target, context)))
        except NoItems as error:
            if not self._may_be_empty:
                raise RecipeError([Problem("--prune", f"{error.problems[0].what}; {_EMPTY}")]) from None
        if broken:
            what = f"{len(broken):,} items cannot be read, so nobody knows what is theirs: {broken[0].splitlines()[0]}"
            raise RecipeError([Problem("--prune", what)])
        empty = [pattern for pattern in self._whole.source.images if not listed.get(pattern)]
        if empty and not self._may_be_empty:
            what = f"{', '.join(map(files.quoted, empty))} finds nothing, so nothing is removed; {_EMPTY}"
            raise RecipeError([Problem("--prune", what)])
        return found

    # -- what is there --------------------------------------------------------------------------------------------

    def _dataset_of(self, output: PastOutput) -> tuple[Output, str, str] | None:
        """Return the dataset of a row that this recipe writes, its split and its name."""
        for one in self._recipe.outputs:
            if one.dataset and output.path.startswith(f"{one.dataset}/"):
                split, _, name = output.path.removeprefix(f"{one.dataset}/").partition("/")
                return one, split, name
        return None

    def _is_there(self, output: PastOutput) -> bool:
        """Check whether an output is there, as it was written."""
        if output.is_row:
            found = self._dataset_of(output)
            if found is None or not self._dataset(found[0]).has(found[1], found[2]):
                return False
            if output.picture == output.path:  # it is in a shard
                return True
        try:
            data = files.read(output.picture)
        except FileNotFoundError:
            return output.is_row
        return not output.digest or hashlib.sha256(data).hexdigest() == output.digest

    def _dataset(self, output: Output) -> Dataset:
        found = self._datasets.get(output.dataset)
        if found is None:
            checks = DatasetChecks(self._recipe)
            for problem in checks.problems():
                raise RecipeError([problem])
            card = Card(self._recipe.name, self._recipe.text, self._recipe.digest)
            found = Dataset(output, checks.schemas[output.dataset], files.Fingerprints(), card)
            self._datasets[output.dataset] = found
        return found

    # -- removal --------------------------------------------------------------------------------------------------

    def remove(self, stale: list[PastOutput], without_row: int = 0) -> Iterator[str]:
        """Remove what ``stale`` has returned, and yield what could not be; after a kill, the next one goes on.

        Args:
            without_row: how many items of the last run have no row in its datasets.
        """
        rows: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        try:
            own = ([place for place in output.labels if _full(place) not in self._shared] for output in stale)
            remove_labels(
                self._recipe, [(one.picture, one.content, places) for one, places in zip(stale, own, strict=True)]
            )
        except (OSError, FluxError) as error:
            yield f"labels could not be removed: {error}"
        for output in stale:
            if output.is_row and (found := self._dataset_of(output)) is not None:
                rows[found[0].dataset][found[1]].append(found[2])
        yield from filter(None, each(_remove_file, [output for output in stale if not output.is_row]))
        for one in self._recipe.outputs:
            if one.dataset:
                try:
                    dataset = self._dataset(one)
                    if one.dataset in rows:
                        dataset.drop(rows[one.dataset])
                    yield from dataset.close(is_complete=True, without_row=without_row)
                except (OSError, FluxError) as error:
                    yield f"rows of {files.quoted(one.dataset)} could not be removed: {error}"


def _folder(source: str) -> str:
    """Return the folder, or the file, that a picture is in."""
    return source.rpartition("::")[2] if "::" in source else source.rpartition("/")[0]


def _full(place: str) -> str:
    """Return a place as it is written in full."""
    return str(files.local_path(place).absolute()) if files.is_local(place) else place.rstrip("/")


def _remove_file(output: PastOutput) -> str:
    """Remove a file after its provenance, so that the next removal finds both; return what went wrong, if anything."""
    beside = f"{output.path}{SIDECAR}"
    try:
        with suppress(FileNotFoundError, ValueError, TypeError, KeyError):
            if json.loads(files.read(beside))["versions"]["flux-pipelines"]:  # else it is somebody's own
                files.remove(beside)
        files.remove(output.path)
    except OSError as error:
        return f"{files.quoted(output.path)} could not be removed: {reason_of(error)}"
    return ""
