"""The row of one item: notes of its steps, what went wrong, what was written, and how long it took."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, cast

from flux_tasks import files
from flux_tasks.images.reference import ImageRef
from pipelines.data.items import Item
from pipelines.data.manifest import (
    SEVERITY,
    ErrorRow,
    ItemOutcome,
    ManifestRow,
    OutputRow,
    StepOutcome,
    StepRow,
    error_row,
    outcome_of,
)
from pipelines.execution.expectations import Observed
from pipelines.execution.walk import Attempt, Outcome
from pipelines.language.graph import OutputTarget

__all__ = ["ItemRow"]


class ItemRow:
    """Gathers what becomes the row of one item."""

    def __init__(self, item: Item) -> None:
        self._item = item
        self._steps: list[tuple[int, StepRow]] = []
        self._errors: list[tuple[ItemOutcome, ErrorRow]] = []
        self._outputs: list[tuple[OutputTarget, OutputRow]] = []
        self._started = time.monotonic()

    def note(self, attempt: Attempt, outcome: Outcome, seen: Observed) -> StepRow:
        """Add how an attempt at a step ended; returns that step's row."""
        node = attempt.node
        facts: dict[str, Any] = {
            "reason": outcome.reason,
            "varied": dict(node.axes) or None,
            "warnings": [*outcome.warnings],
        }
        if node.is_paid:
            facts["tool"] = node.tool.name
        if outcome.image is not None and outcome.kind is not StepOutcome.UNCHANGED:
            facts |= _facts_of(attempt, outcome, outcome.image, seen)
        row = {
            "id": node.id,
            "task": getattr(node.action, "reference", node.step.task),
            "outcome": outcome.kind,
            "is_paid": node.is_paid,
            "from": list(node.dependencies),
            **{name: value for name, value in facts.items() if value not in (None, "", [])},
        }
        self._steps.append((node.rank, cast(StepRow, row)))
        return cast(StepRow, row)

    def fail(self, place: str, problem: Exception) -> None:
        """Add what went wrong, and where: the node, or ``source``, ``input``, ``output``."""
        self._errors.append((outcome_of(type(problem)), error_row(place, problem)))

    def written(self, target: OutputTarget, path: str, image: ImageRef) -> None:
        """Add a file that was written."""
        self._outputs.append((target, {"path": path, "from": target.node, "image": image.to_dict()}))

    def finish(self, source: ImageRef | None) -> ManifestRow:
        """Return the row; ``source`` is the item's picture."""
        steps = [step for _, step in sorted(self._steps, key=lambda noted: noted[0])]
        worst = min(self._errors, key=lambda error: SEVERITY.index(error[0]), default=None)
        results = [row for target, row in self._outputs if target.is_output]
        first = results[0] if results and worst is None else None
        paid = (step for step in steps if step["is_paid"] and step["outcome"] is StepOutcome.DONE)
        return {
            "item": self._item.stem,
            "index": self._item.index,
            "source": self._item.source,
            "outcome": worst[0] if worst else _outcome_of({step["outcome"] for step in steps}),
            "error": worst[1] if worst else None,
            "errors": [error for _, error in self._errors] if len(self._errors) > 1 else [],
            "input": source.to_dict() if source else None,
            "output": first["image"] if first else None,
            "output_path": first["path"] if first else "",
            "outputs": [row for _, row in self._outputs],
            "cost": sum(step.get("cost") or 0.0 for step in paid),
            "seconds": round(time.monotonic() - self._started, 3),
            "preview": any(step.get("preview") for step in steps) or bool(source and source.is_preview),
            "steps": steps,
        }


def _facts_of(attempt: Attempt, outcome: Outcome, image: ImageRef, seen: Observed) -> dict[str, Any]:
    """Return what the row of a step tells of its result."""
    call = outcome.call or attempt.call
    facts: dict[str, Any] = {
        "seconds": round(time.monotonic() - attempt.started, 3),
        "image": image.to_dict(),
        "warnings": [
            *outcome.warnings,
            *(["the result has the same pixels as its input"] if seen.is_unchanged else []),
        ],
        "preview": image.is_preview or None,
    }
    if call is None:
        return {**facts, "parameters": _without_pictures(attempt.arguments)}
    return {
        **facts,
        "parameters": dict(call.parameters),
        "cost": call.estimate() if image.is_preview else image.cost,  # a preview is free: what it would be worth
        "estimate": call.estimate(),
        "input_mp": outcome.job.input_mp if outcome.job is not None else None,
        "output_mp": outcome.job.output_mp if outcome.job is not None else None,
        "delivery_host": outcome.job.delivery_host if outcome.job is not None else None,
        "job_id": image.job_id,
        "mask": seen.mask,
        "drift": seen.drift,
    }


def _outcome_of(steps: set[StepOutcome]) -> ItemOutcome:
    if steps & {StepOutcome.DONE, StepOutcome.COLLECTED}:
        return ItemOutcome.DONE
    return ItemOutcome.CACHED if StepOutcome.CACHED in steps else ItemOutcome.SKIPPED


def _without_pictures(arguments: Mapping[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in arguments.items() if isinstance(value, (str, int, float, bool))}
    return {name: files.quoted(v) if isinstance(v, str) and files.is_data(v) else v for name, v in plain.items()}
