"""Recipes in the place of steps: their steps, renamed, with their inputs connected and their variables set."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from flux_tasks.errors import RecipeError, listed, nearest, quote, shown
from pipelines.language.document.options import RecipeStep
from pipelines.language.names import SOURCE
from pipelines.language.reading.problems import Path, ProblemCollector, read_part

IncludedSteps: TypeAlias = tuple[list[dict[str, Any]], str]
"""The steps of another recipe as plain data, and the id of the one whose result is the recipe's own."""
Include: TypeAlias = Callable[[str], IncludedSteps]

MAX_STEPS = 1_000
"""Steps that a recipe may have, those of other recipes among them."""

MAX_DEPTH = 20
"""Recipes within recipes."""

_SHOWN = 20  # problems of another recipe

GATE = "@"
"""Before the id of a recipe in the place of a step: the picture that such a step gets without ``from``."""


@dataclass
class Expansion:
    """The steps of a document, those of other recipes among them."""

    steps: list[tuple[Any, Path, str]] = field(default_factory=list)
    """Each with where it is written, and the id of the recipe that has it."""
    stands_for: dict[str, str] = field(default_factory=dict)
    """Ids of recipes in the place of steps, and the ids of the steps whose results are theirs."""
    broken: list[str] = field(default_factory=list)
    """Ids of recipes that cannot be used."""


def expand_recipes(data: list[Any], include: Include, problems: ProblemCollector) -> Expansion:
    """Return the steps as they are written, with those of other recipes in the place of ``recipe:``."""
    found, failed = Expansion(), list[RecipeError]()
    for index, given in enumerate(data):
        path: Path = ("steps", index)
        if not isinstance(given, dict) or "recipe" not in given:
            found.steps.append((given, path, ""))
            continue
        step = read_part(RecipeStep, given, path, problems)
        location = step.recipe if step is not None else ""
        prefix = str(given.get("id") or re.sub(r"\W", "_", location.rsplit("/", 1)[-1].split(".")[0]) or "recipe")
        if not prefix.replace("-", "_").isidentifier() or prefix in (*found.stands_for, SOURCE):
            problems.add((*path, "id"), f"{shown(prefix)} is no id, or is used already: write id: … beside recipe")
            continue
        try:
            steps, last = include(location) if location else ([], "")
        except RecipeError as error:
            lines = error.lines()
            more = [f"… and {len(lines) - _SHOWN:,} more of {quote(location)}"] if len(lines) > _SHOWN else []
            for line in (*lines[:_SHOWN], *more) if error not in failed else ():
                problems.add((*path, "recipe"), line)
            failed.append(error)
            found.broken.append(prefix)
            continue
        if len(found.steps) + len(steps) > MAX_STEPS:
            problems.add((*path, "recipe"), f"makes more than {MAX_STEPS:,} steps in all: use fewer recipes as steps")
            break
        if step is not None and steps:
            _check_variables(step, steps, path, problems)
            found.steps += [(moved, path, prefix) for moved in _moved(steps, prefix, step)]
            found.stands_for[prefix] = f"{prefix}_{last}"
    return found


def _check_variables(step: RecipeStep, steps: list[dict[str, Any]], path: Path, problems: ProblemCollector) -> None:
    known = {name for inner in steps for name in inner.get("vars", {})}
    for name in step.arguments:
        if name not in known:
            hint = nearest(name, known) or f"; it has {listed(sorted(known)) or 'none'}"
            problems.add((*path, "with", name), f"this recipe has no such variable{hint}")


def _moved(steps: list[dict[str, Any]], prefix: str, step: RecipeStep) -> list[dict[str, Any]]:
    """Return the steps of another recipe as steps of this one."""
    renamed = {inner["id"]: f"{prefix}_{inner['id']}" for inner in steps}
    renamed[SOURCE] = step.inputs or f"{GATE}{prefix}"

    def refs(value: Any) -> Any:
        if isinstance(value, Mapping):
            inner = {name: refs(one) for name, one in value.items()}
            return {**inner, "step": renamed.get(value["step"], value["step"])} if "step" in value else inner
        return [refs(one) for one in value] if isinstance(value, list) else value

    return [
        {
            **{name: refs(value) for name, value in inner.items()},
            "id": renamed[inner["id"]],
            "from": [renamed[name] for name in inner["from"]],
            "vars": {name: step.arguments.get(name, value) for name, value in inner.get("vars", {}).items()},
        }
        for inner in steps
    ]
