"""Check that a recipe means the same where its deployment runs it as it does here."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from flux_tasks import files
from flux_tasks.errors import Problem, RecipeError, cut, quote
from pipelines.execution.precheck import named_pictures
from pipelines.flows.deployed import read_recipe
from pipelines.language import templates
from pipelines.language.compiled import CompiledRecipe

__all__ = ["check_travels"]


def check_travels(recipe: CompiledRecipe, folder: str = "", *, store: str = "") -> None:
    """Check that a recipe means the same where its deployment runs it.

    Args:
        folder: where relative paths start there; empty where nobody knows.
        store: where results are stored, if that was given.

    Raises:
        RecipeError: it needs what stays here: every such place with its line.
    """
    problems = [] if folder else [*_relative_places(recipe), *_relative([("--store", store)])]
    if not problems and files.is_local(recipe.file):
        try:
            problems = [] if read_recipe(recipe.text, recipe.variables).digest == recipe.digest else [_OTHER]
        except RecipeError as error:
            problems = [Problem(one.where, f"{one.what} ({_AS_TEXT})", one.line) for one in error.problems]
    if problems:
        raise RecipeError(recipe.placed(problems), file=recipe.file)


_AS_TEXT = "the recipe travels as text, without its folder: start this command in that folder"
_OTHER = Problem("steps", f"means something else without the folder of its file: {_AS_TEXT}")


def _relative_places(recipe: CompiledRecipe) -> Iterator[Problem]:
    """Return the places of a recipe that name a file by a path that starts in the current folder."""
    source = recipe.source
    places = [
        (f"source.images.{n}" if len(source.images) > 1 else "source.images", p) for n, p in enumerate(source.images)
    ]
    places += [("source.dataset", place) for place in source.dataset]
    places += [("source.table", source.table), ("source.image", source.image)]
    if source.annotations is not None:
        places.append(("source.annotations", source.annotations.path))
    numbers = {step.id: number for number, step in enumerate(recipe.steps)}
    used: set[str] = set()
    for node, text in named_pictures(recipe):
        used |= templates.names_in(text)
        places.append((f"steps.{numbers.get(node.step.id, node.step.id)}", text))
    places += [(f"source.columns.{name}", text) for name, text in source.columns.items() if name in used]
    for number, output in enumerate(recipe.outputs):
        at = f"output.{number}" if len(recipe.outputs) > 1 else "output"
        places.append((f"{at}.dataset" if output.dataset else at, output.place))
        places += [(f"{at}.annotations", target.path) for target in output.annotations]
    places += [(f"steps.{number}.save", step.save) for number, step in enumerate(recipe.steps) if step.save]
    for number, step in enumerate(recipe.written.get("steps") or ()):
        if isinstance(step, dict) and isinstance(step.get("recipe"), str):
            places.append((f"steps.{number}.recipe", step["recipe"]))
    yield from _relative(places)
    for reference, step in recipe.functions.items():
        module = sys.modules.get(step.function.__module__)
        if Path(getattr(module, "__file__", None) or "/").resolve().is_relative_to(Path.cwd()):
            what = "is in this folder, which a worker does not have: name with --folder where it is there"
            yield Problem("steps", f"{cut(reference)} {what}, or install it as a package")


def _relative(places: Iterable[tuple[str, str]]) -> Iterator[Problem]:
    """Return those places whose path starts in the current folder."""
    what = (
        "is relative to this folder, which a worker may not have: write an absolute path or a URL, or say with --folder"
    )
    for where, text in dict.fromkeys(places):
        is_path = text and not text.lstrip().startswith("{{") and files.is_local(text)
        if is_path and not files.local_path(text).is_absolute():
            yield Problem(where, f"{quote(text)} {what} where it starts there")
