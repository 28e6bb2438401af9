"""The optional libraries that a recipe needs: those that are missing are named all at once, before anything is read."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

from flux_tasks import files
from flux_tasks.errors import Problem, RecipeError
from flux_tasks.files.remote.filesystems import library_of
from pipelines.language.compiled import CompiledRecipe

_EXTRAS = {"imagehash": "dedupe", "numpy": "fidelity", "pyarrow": "parquet"}
_NAMES = {"imagehash": "ImageHash", "numpy": "NumPy"}


def check_libraries(recipe: CompiledRecipe) -> None:
    """Check that the libraries are installed that a recipe needs.

    Raises:
        RecipeError: some are not; each with what needs it, and one command that installs them all.
    """
    needs: dict[str, tuple[str, str, str]] = {}
    for where, what, library, extra in _needs(recipe):
        if importlib.util.find_spec(library) is None:
            needs.setdefault(library, (where, what, extra))
    remedy = f"pip install 'flux-pipelines[{','.join(sorted({extra for *_, extra in needs.values()}))}]'"
    problems = [
        Problem(where, what.format(f"{_NAMES.get(library, library)}, not installed here: {remedy}"))
        for library, (where, what, _) in needs.items()
    ]
    if problems:
        raise RecipeError(recipe.placed(problems), file=recipe.file)


def _needs(recipe: CompiledRecipe) -> Iterator[tuple[str, str, str, str]]:
    """Yield where a library is needed, the message with ``{}`` for its name, its module, and the extra that has it."""
    source = recipe.source
    found: list[tuple[str, str, str]] = []
    if source.dedupe is not None and source.dedupe.near:
        found.append(("source.dedupe", "near needs {}, or write dedupe: exact", "imagehash"))
    for name, places in (("table", (source.table,)), ("dataset", source.dataset)):
        for place in filter(None, places):
            if files.extension(place) in ("parquet", "arrow"):
                found.append((f"source.{name}", f".{files.extension(place)} needs {{}}", "pyarrow"))
    for output in recipe.outputs:
        if output.dataset and output.format == "parquet":
            found.append(("output.format", "parquet needs {}, or write format: imagefolder", "pyarrow"))
    for step in recipe.steps:
        is_shift = step.expect is not None and step.expect.shift is not None
        if step.align or step.match_colour or is_shift:
            found.append((f"steps.{step.position}", "align, match_colour and shift need {}", "numpy"))
    yield from ((where, what, library, _EXTRAS[library]) for where, what, library in found)
    for where, text in _texts(recipe.written, ""):
        if "://" in text and (known := library_of(text)):
            yield where, f"{text.split('://')[0]}:// needs {{}}", *known


def _texts(data: Any, where: str) -> Iterator[tuple[str, str]]:
    """Yield each text in plain data with its place."""
    if isinstance(data, str):
        yield where, data
    elif isinstance(data, (Mapping, list, tuple)):
        for name, inner in data.items() if isinstance(data, Mapping) else enumerate(data):
            yield from _texts(inner, f"{where}.{name}" if where else str(name))
