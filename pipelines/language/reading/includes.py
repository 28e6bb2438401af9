"""Recipes in the place of steps: their steps, renamed, with what they are fed and their variables set."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from flux_tasks.errors import RecipeError, nearest
from pipelines.language.names import SOURCE
from pipelines.language.reading.problems import Path, ProblemCollector

__all__ = ["Expansion", "Include", "expanded"]

Include: TypeAlias = Callable[[str], tuple[list[dict[str, Any]], str]]
"""Reads another recipe: its steps as plain data, and the id of the one whose result is the recipe's own."""

MAX_STEPS = 1_000
"""Steps that a recipe may have, those of other recipes among them."""

GATE = "@"
"""Before the name of a recipe that is used as a step: the picture that it would get as a step without ``from``."""


@dataclass
class Expansion:
    """The steps of a document, those of other recipes among them.

    Attributes:
        steps: each with where it is written, and the recipe that it comes from.
        stands_for: ids of recipes that are used as steps, and the step whose result is theirs.
        broken: ids of recipes that cannot be used.
    """

    steps: list[tuple[Any, Path, str]] = field(default_factory=list)
    stands_for: dict[str, str] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)


def expanded(data: list[Any], include: Include, findings: ProblemCollector) -> Expansion:
    """The steps as they are written, with those of other recipes in the place of ``recipe:``."""
    found = Expansion()
    for index, given in enumerate(data):
        path: Path = ("steps", index)
        if not isinstance(given, dict) or "recipe" not in given:
            found.steps.append((given, path, ""))
            continue
        findings.mapping(given, path, ("recipe", "id", "from", "with"))
        location = findings.text(given["recipe"], (*path, "recipe"), "the path of a recipe")
        prefix = str(given.get("id") or re.sub(r"\W", "_", location.rsplit("/", 1)[-1].split(".")[0]) or "recipe")
        if not prefix.replace("-", "_").isidentifier() or prefix in (*found.stands_for, SOURCE):
            findings.say((*path, "id"), f"{prefix!r} is no id for it, or taken: write a plain word of its own, id: …")
            continue
        try:
            steps, last = include(location) if location else ([], "")
        except RecipeError as error:
            for line in error.lines():
                findings.say((*path, "recipe"), line)
            found.broken.append(prefix)
            continue
        if len(found.steps) + len(steps) > MAX_STEPS:
            findings.say((*path, "recipe"), f"makes more than {MAX_STEPS:,} steps in all: use fewer recipes as steps")
            break
        found.steps += [(step, path, prefix) for step in _moved(steps, prefix, given, path, findings)]
        if steps:
            found.stands_for[prefix] = f"{prefix}_{last}"
    return found


def _moved(
    steps: list[dict[str, Any]], prefix: str, given: Mapping[str, Any], path: Path, findings: ProblemCollector
) -> list[dict[str, Any]]:
    """The steps of another recipe as steps of this one."""
    values = given.get("with") or {}
    if not isinstance(values, dict):
        findings.say((*path, "with"), f"{values!r} is not a mapping of names to values")
        values = {}
    known = {name for step in steps for name in step.get("vars", {})}
    for name in values:
        if name not in known:
            hint = nearest(str(name), known) or f"; it has {', '.join(sorted(known)) or 'none'}"
            findings.say((*path, "with", name), f"this recipe has no such variable{hint}")
    fed = given.get("from", f"{GATE}{prefix}")
    if not isinstance(fed, str):
        findings.say((*path, "from"), f"{fed!r} is not the id of one step, which is what a recipe gets")
        fed = SOURCE
    renamed = {step["id"]: f"{prefix}_{step['id']}" for step in steps} | {SOURCE: fed}

    def refs(value: Any) -> Any:
        if isinstance(value, dict):
            inner = {name: refs(one) for name, one in value.items()}
            return {**inner, "step": renamed.get(value["step"], value["step"])} if "step" in value else inner
        return [refs(one) for one in value] if isinstance(value, list) else value

    return [
        {
            **{name: refs(value) for name, value in step.items()},
            "id": renamed[step["id"]],
            "from": [renamed[name] for name in step["from"]],
            "vars": {name: values.get(name, value) for name, value in step.get("vars", {}).items()},
        }
        for step in steps
    ]
