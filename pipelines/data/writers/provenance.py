"""Where a picture comes from: what it was made of, by which steps, and what they cost."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from flux_tasks import files
from flux_tasks.catalog import TOOLS
from flux_tasks.images.reference import ImageRef
from pipelines.data.keyed_lines import program_version
from pipelines.data.manifest import StepOutcome, StepRow
from pipelines.language.compiled import CompiledRecipe

__all__ = ["SIDECAR", "facts_of", "lineage", "provenance_of", "public"]

SIDECAR = ".json"
"""What follows the name of a picture in the name of the file with its provenance."""

_MADE = frozenset((StepOutcome.DONE, StepOutcome.COLLECTED, StepOutcome.CACHED))


def lineage(steps: Iterable[StepRow], node: str) -> list[StepRow]:
    """Return the steps that changed something in the result of ``node``, in their order."""
    by_id = {step["id"]: step for step in steps}
    found, open_ends = set[str](), [node]
    while open_ends:
        name = open_ends.pop()
        if name in by_id and name not in found:
            found.add(name)
            open_ends += by_id[name]["from"]
    return [step for name, step in by_id.items() if name in found and step["outcome"] in _MADE]


def public(location: str) -> str:
    """Return a location as others may see it: of a web address no query and no password, which may let people in."""
    scheme, sign, rest = location.partition("://")
    if not sign or not files.is_web(location):
        return location
    host, slash, path = rest.partition("?")[0].partition("#")[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def cost_of(steps: Iterable[StepRow]) -> float:
    """Return the credits that steps cost, whoever paid for them; a local preview is free."""
    return float(sum(step.get("cost") or 0.0 for step in steps if step["is_paid"] and not step.get("preview")))


def facts_of(steps: list[StepRow], image: ImageRef) -> dict[str, Any]:
    """Return what the columns of a row say of the steps that made its picture.

    Tool, parameters, seed and job are those of the last paid step; the cost is that of all. It is the same whichever
    run writes the row.
    """
    last = next((step for step in reversed(steps) if step["is_paid"]), None)
    parameters: Mapping[str, Any] = (last or {}).get("parameters") or {}
    seed = parameters.get("seed")
    return {
        "outcome": "done" if steps else "skipped",
        "tool": (last or {}).get("tool") or "",
        "parameters": json.dumps(parameters, ensure_ascii=False, sort_keys=True, default=str) if last else "",
        "seed": seed if isinstance(seed, int) else None,
        "job_id": (last or {}).get("job_id") or "",
        "cost": cost_of(steps),
        "engine": image.engine,
    }


def provenance_of(
    recipe: CompiledRecipe, steps: list[StepRow], source: ImageRef | None, location: str, written: ImageRef
) -> str:
    """Return the provenance of a picture, as JSON.

    Args:
        location: of the item's own picture, or its name.
        written: the picture as it is in the output.
    """
    document = {
        "digest": written.digest,
        "size": written.size,
        "source": {"location": public(location), **({"digest": source.digest} if source else {})},
        "recipe": {"name": recipe.name, "digest": recipe.digest},
        "engine": written.engine,
        "cost": cost_of(steps),
        "steps": list(map(_step, steps)),
        "versions": {"flux-pipelines": program_version()},
    }
    return json.dumps(document, ensure_ascii=False, indent=1)


def _step(step: StepRow) -> dict[str, Any]:
    parameters = step.get("parameters", {})
    tool = step.get("tool")
    found = {
        "id": step["id"],
        "task": step["task"],
        "tool": tool,
        "revision": TOOLS[tool].revision.number if tool in TOOLS else None,
        "from": step["from"],
        "parameters": parameters or None,
        "seed": parameters.get("seed"),
        "job_id": step.get("job_id"),
        "cost": step.get("cost") if not step.get("preview") else None,
        "digest": (step.get("image") or {}).get("digest"),
    }
    return {name: value for name, value in found.items() if value is not None}
