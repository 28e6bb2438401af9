"""What earlier runs on a store have written, by their records and manifests, never by a pattern."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from flux_tasks import files
from flux_tasks.store.records import Store
from flux_tasks.store.threads import each
from pipelines.data.annotations.model import Labels, labels_of
from pipelines.data.manifest import ManifestRow, read_manifest
from pipelines.language import templates
from pipelines.language.compiled import CompiledRecipe
from pipelines.language.document.fields import texts_in
from pipelines.language.document.recipe import Source
from pipelines.language.reading import yaml
from pipelines.language.reading.problems import ProblemCollector, read_part

__all__ = ["PastOutput", "PastOutputs"]

_TEMPLATE = re.compile(r"\{%.*%\}|\{\{.*?\}\}", re.DOTALL)
_PLACES = ("images", "table", "dataset", "format", "split", "config", "image")
"""What says which items a source has, apart from filters."""


@dataclass(frozen=True, slots=True)
class PastOutput:
    """A file, or the row of a dataset, that an earlier run of the recipe has written.

    Attributes:
        path: of the file; of a row its dataset, its split and its name.
        picture: where its picture is; the same for a file.
        source: of its item, as in the manifest.
        digest: of the file's bytes; empty where it is not known.
        labels: the places of its labels.
        content: of these labels; None if it has none.
    """

    path: str
    picture: str
    source: str
    is_row: bool
    digest: str
    labels: tuple[str, ...]
    content: Labels | None


@dataclass(frozen=True)
class _PastRun:
    manifest: str
    folder: str
    is_own: bool
    roots: Sequence[str]
    """What the paths of its outputs begin with; an empty one is anywhere."""
    mentions: Sequence[str]
    """The texts in its recipe, some of which are paths of pictures that it reads."""


class PastOutputs:
    """The outputs of earlier runs on a store: those of ``recipe``, and what others claim.

    A run is of the same recipe if that has the same name and file (or text), values of variables, and source; what its
    steps and filters are does not matter.

    Raises:
        OSError: the records cannot be read.
    """

    def __init__(self, store: Store, recipe: CompiledRecipe) -> None:
        self._recipe = recipe
        runs: dict[str, _PastRun] = {}
        self._overwritten: list[_PastRun] = []
        folders = [files.join("runs", run_id) for run_id in files.folders(store.location("runs"))]
        for record in each(lambda folder: store.record_or_empty(folder, "run"), folders):
            if isinstance(record.get("recipe"), str) and isinstance(record.get("manifest"), str):
                run = self._run(record)
                if run.manifest in runs:  # what several have written is the last one's
                    self._overwritten.append(runs[run.manifest])
                runs[run.manifest] = run
        self._runs = list(runs.values())

    def _run(self, record: Mapping[str, Any]) -> _PastRun:
        folder = str(record.get("folder") or "")
        document = yaml.load(record["recipe"])
        data = document.data if isinstance(document.data, dict) else {}
        source = read_part(Source, data.get("source"), (), ProblemCollector(document))
        outputs = data.get("output")
        places = [one if isinstance(one, str) else one.get("path") or one.get("dataset") for one in _several(outputs)]
        roots = [_root(folder, place) for place in places]
        paths = [t for t in texts_in({**data, "output": None}) if t and not t.startswith(("{{", "{%"))]
        mentions = [files.join(folder, path) if folder and not _is_absolute(path) else path for path in paths]
        is_own = source is not None and self._is_own(record, str(data.get("name", "recipe")), source)
        return _PastRun(_at(folder, record["manifest"]), folder, is_own, roots, mentions)

    def _is_own(self, record: Mapping[str, Any], name: str, source: Source) -> bool:
        recipe, file = self._recipe, str(record.get("file") or "")
        own_file = str(files.local_path(recipe.file).absolute()) if files.is_local(recipe.file) else recipe.file
        is_same_file = file == own_file if recipe.file else not file and name != "recipe"
        places = [getattr(source, place) for place in _PLACES]
        located = [*source.images, *source.dataset, *filter(None, (source.table, source.image))]
        is_here = record.get("folder") == str(Path.cwd()) or all(_is_absolute(place) for place in located)
        return (
            name == recipe.name
            and (is_same_file or record["recipe"] == recipe.text)
            and (record.get("variables") or {}) == dict(recipe.variables)
            and places == [getattr(recipe.source, place) for place in _PLACES]
            and is_here
        )

    def of_recipe(self) -> Iterator[PastOutput]:
        """Yield the outputs of the recipe's own runs, the newest run first.

        Raises:
            OSError: a manifest that is there cannot be read.
        """
        for run in reversed(self._runs):
            for row in _rows(run) if run.is_own else ():
                for output in row["outputs"]:
                    path, image = output.get("row") or output["path"], output["image"]
                    is_as_made = files.extension(output["path"]).replace("jpeg", "jpg") == _kind_of(image)
                    digest = output.get("digest") or (image["digest"] if is_as_made else "")
                    picture, labels = _at(run.folder, output["path"]), tuple(output.get("annotations", ()))
                    place = _at(run.folder, path)
                    content = labels_of(output)
                    yield PastOutput(place, picture, row["source"], "row" in output, digest, labels, content)

    def of_others(self) -> Iterator[tuple[list[str], list[str]]]:
        """Yield, of each item in runs of other recipes, what was read and written, and where its labels were written.

        Raises:
            OSError: a manifest that is there cannot be read.
        """
        for run in self._runs:
            for row in _rows(run) if not run.is_own else ():
                outputs = row["outputs"]
                claimed = [
                    row["source"],
                    *(output[key] for output in outputs for key in ("path", "row") if key in output),
                ]
                labels = [place for output in outputs for place in output.get("annotations", ())]
                yield [_at(run.folder, place) for place in claimed], [_at(run.folder, place) for place in labels]

    def unknown_roots(self) -> list[str]:
        """Return the folders that other recipes write to whose runs have no manifest: what is theirs is not known.

        An empty one means that they may write anywhere.
        """
        lost = (run for run in self._runs if not run.is_own and not files.exists(run.manifest))
        others = (*lost, *(run for run in self._overwritten if not run.is_own))
        return sorted({root for run in others for root in run.roots})

    def is_mentioned(self, place: str) -> bool:
        """Check whether the text of another recipe names a place, with any values in its templates.

        Args:
            place: in full.
        """
        return any(one.match(place) for one in self._mentions)

    @cached_property
    def _mentions(self) -> list[re.Pattern[str]]:
        texts = {text for run in self._runs if not run.is_own for text in run.mentions}
        parts = [_TEMPLATE.split(text) for text in sorted(texts)]
        return [re.compile(".*".join(map(re.escape, some)) + r"\Z", re.DOTALL) for some in parts]


def _rows(run: _PastRun) -> Iterator[ManifestRow]:
    try:
        for row in read_manifest(run.manifest):
            if isinstance(row, dict) and isinstance(row.get("source"), str) and isinstance(row.get("outputs"), list):
                yield row
    except FileNotFoundError:
        return


def _root(folder: str, place: Any) -> str:
    """Return the folder that an output is below; empty if that is not known."""
    if not isinstance(place, str) or place.startswith(("{{", "{%")):
        return ""
    return _at(folder, templates.folder_of(place)) or folder or str(Path.cwd())


def _several(value: Any) -> list[Any]:
    found = value if isinstance(value, list) else [value]
    return [one for one in found if isinstance(one, (str, dict))]


def _is_absolute(place: str) -> bool:
    return not files.is_local(place) or files.local_path(place).is_absolute()


def _at(folder: str, place: str) -> str:
    """Return a place as it is seen from everywhere."""
    is_here = folder == str(Path.cwd())
    return place if not place or not folder or is_here or _is_absolute(place) else files.join(folder, place)


def _kind_of(image: Mapping[str, Any]) -> str:
    return str(image.get("media_type", "")).rpartition("/")[2].replace("jpeg", "jpg")
