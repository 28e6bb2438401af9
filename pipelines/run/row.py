"""What becomes the row of one item in the manifest."""

from __future__ import annotations

import time
from typing import Any, cast

from flux_tasks import files
from flux_tasks.images.reference import ImageRef
from flux_tasks.units import credits
from pipelines.data import manifest
from pipelines.data.annotations import Labels
from pipelines.data.items import Item
from pipelines.data.manifest import ErrorRow, ItemOutcome, ManifestRow, OutputRow, StepOutcome, StepRow
from pipelines.execution.answers import Attempt, Outcome
from pipelines.execution.expectations import Observed
from pipelines.language.graph import OutputTarget


class ItemRow:
    """Gathers what becomes the row of one item."""

    def __init__(self, item: Item) -> None:
        self._item = item
        self._steps: list[tuple[int, StepRow]] = []
        self._errors: list[tuple[ItemOutcome, ErrorRow]] = []
        self._outputs: list[tuple[OutputTarget, OutputRow]] = []
        self._remarks: list[tuple[int, str, str]] = []
        self._started = time.monotonic()
        self.fingerprints: dict[str, str | None] = {}

    def note(self, attempt: Attempt, outcome: Outcome, seen: Observed) -> StepRow:
        """Add how an attempt at a step ended; returns that step's row."""
        node = attempt.node
        tool = node.tool.name if node.is_paid else None
        facts: dict[str, Any] = {"reason": outcome.reason, "varied": dict(node.axes) or None, "tool": tool}
        same = ["the result has the same pixels as its input"] if seen.is_unchanged else []
        facts["warnings"] = [*outcome.warnings, *same]
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
        step = cast(StepRow, row)
        of_job = outcome.job.warnings if outcome.job is not None else ()
        said = (warning for warning in outcome.warnings if warning not in (*attempt.notes, *of_job))
        self._remarks += ((node.rank, node.id, warning) for warning in said)
        self._steps.append((node.rank, step))
        return step

    @property
    def remarks(self) -> list[tuple[str, str]]:
        """What a plan says of the steps once the store answers them: node and sentence."""
        return [(node, said) for _, node, said in sorted(self._remarks, key=lambda remark: remark[0])]

    def fail(self, place: str, problem: Exception) -> None:
        """Add what went wrong, and where: the node, or ``source``, ``input``, ``output``."""
        self._errors.append((manifest.outcome_of(type(problem)), manifest.error_row(place, problem)))

    @property
    def steps(self) -> list[StepRow]:
        """The rows of the steps, in their order."""
        return [step for _, step in sorted(self._steps, key=lambda noted: noted[0])]

    def add_output(
        self, target: OutputTarget, path: str, image: ImageRef, labels: Labels | None, place: str = "", digest: str = ""
    ) -> None:
        """Add a file that was written (its bytes have this ``digest``), or a row of a dataset, with its labels."""
        found: OutputRow = {"path": path, "from": target.node, "image": image.to_dict()}
        if labels is not None:
            found |= {"labels": labels.to_data(), "annotations": [*dict.fromkeys(target.annotations)]}
        if place:
            found |= {"row": place}
        elif digest != image.digest:
            found |= {"digest": digest}
        self._outputs.append((target, found))

    def finish(self, source: ImageRef | None) -> ManifestRow:
        """Return the row; ``source`` is the item's picture."""
        steps = self.steps
        worst = min(self._errors, key=lambda error: manifest.SEVERITY.index(error[0]), default=None)
        results = [row for target, row in self._outputs if target.is_output]
        first = results[0] if results and worst is None else None
        paid = (step for step in steps if step["is_paid"] and step["outcome"] is StepOutcome.DONE)
        row: ManifestRow = {
            "item": self._item.stem,
            "index": self._item.index,
            "source": self._item.source,
            "outcome": worst[0] if worst else outcome_of_steps({step["outcome"] for step in steps}),
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
        if self._item.duplicate_of:
            row["duplicate_of"] = self._item.duplicate_of
        return row


_OF_JOB = ("input_mp", "output_mp", "delivery_host", "expanded_prompt")
"""What a row tells of its job as the service said it."""


def _facts_of(attempt: Attempt, outcome: Outcome, image: ImageRef, seen: Observed) -> dict[str, Any]:
    """Return what the row of a step tells of its result."""
    call = outcome.call or attempt.call
    facts: dict[str, Any] = {
        "seconds": round(time.monotonic() - attempt.started, 3),
        "image": image.to_dict(),
        "preview": image.is_preview or None,
    }
    if call is None:
        plain = {name: value for name, value in attempt.arguments.items() if isinstance(value, (str, int, float))}
        shown = {n: files.quoted(v) if isinstance(v, str) and files.is_data(v) else v for n, v in plain.items()}
        return {**facts, "parameters": shown}
    return {
        **facts,
        "parameters": dict(call.parameters),
        "cost": call.estimate() if image.is_preview else image.cost,  # a preview is free: what it would be worth
        "estimate": call.estimate(),
        **{name: getattr(outcome.job, name, None) for name in _OF_JOB},
        "job_id": image.job_id,
        "mask": seen.mask,
        "drift": seen.drift,
    }


def outcome_of_steps(steps: set[StepOutcome]) -> ItemOutcome:
    """Return how an item ends without an error whose steps have ended so."""
    if steps & {StepOutcome.DONE, StepOutcome.COLLECTED}:
        return ItemOutcome.DONE
    return ItemOutcome.CACHED if StepOutcome.CACHED in steps else ItemOutcome.SKIPPED


def jobs_text(row: ManifestRow) -> str:
    """Return the jobs of an item as a line of a log names them, after the rest of the line; empty if it had none."""
    ended = [*manifest.paid_steps(row, StepOutcome.DONE), *manifest.paid_steps(row, StepOutcome.COLLECTED)]
    jobs = (f"; {s['id']}: job {s.get('job_id') or 'without an id'}, {credits(s.get('cost') or 0)}" for s in ended)
    return "".join(f"{job} credits" for job in jobs)
