"""The walk of one item through the graph of a recipe: what happens at a node is decided here, for runs and plans alike.

A run and a plan are asked the same questions in the same order, and answer differently: a run pays for a job and works
on pictures, a plan counts and goes on with placeholders.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

from flux_tasks.errors import CheckFailed, FluxError, InvalidImage, InvalidRequest
from flux_tasks.images.reference import ImageRef
from flux_tasks.jobs.result import LOST_ALPHA, LOST_PROFILE
from pipelines.data.items import Item
from pipelines.data.manifest import StepOutcome
from pipelines.execution.answers import Attempt, InVain, NeedsJob, NodeAnswers, Outcome, Place
from pipelines.execution.arguments import Results, arguments_of, call_of, context_of, tries_of, with_pictures
from pipelines.execution.conditions import UNKNOWN, Undecided, applies, check_mask, near_misses, requires_mask
from pipelines.execution.expectations import judge
from pipelines.execution.foresight import Foresight, leads_nowhere
from pipelines.execution.labels import FollowedLabels, lost_labels, mentions_labels, wants_labels
from pipelines.execution.local_steps import Restored, grown, kept_of
from pipelines.execution.placeholders import Placeholder
from pipelines.language.compiled import CompiledRecipe
from pipelines.language.graph import Node, OutputTarget
from pipelines.language.names import LABEL_NAMES, SOURCE


@dataclass(frozen=True, slots=True)
class WalkResult:
    """The results by node (and ``source``), without those that failed or were blocked, and the paths they go to."""

    results: Results
    paths: Sequence[tuple[OutputTarget, str]] = ()
    labels: FollowedLabels | None = None
    """The labels at each node; None without annotations."""


async def walk(item: Item, recipe: CompiledRecipe, answers: NodeAnswers) -> WalkResult:
    """Take one item through every node of ``recipe``; what is wrong with it is noted, and only NeedsJob is raised."""
    return await _Walk(item, recipe, answers).run()


class _Held(Exception):
    """A plan has come to a job that is held: the run has no result of it, and ends the item there."""


class _Walk:
    def __init__(self, item: Item, recipe: CompiledRecipe, answers: NodeAnswers) -> None:
        self._item = item
        self._recipe = recipe
        self._graph = recipe.graph
        self._answers = answers
        self._context = {**recipe.constants, **item.context}
        self._results: dict[str, ImageRef | None] = {}
        self._foreseen: Mapping[str, Exception] | None = None
        """By node, what is certain to fail, once somebody has asked for it."""
        self._foreseeing = asyncio.Lock()
        options = recipe.source.annotations
        self._labels = FollowedLabels(item.labels, options) if options and item.labels is not None else None
        self._given_up: set[str] = set()
        """Nodes without a result because a job would have been in vain."""

    async def run(self) -> WalkResult:
        place: Place = "source"
        try:
            if self._item.error:
                raise InvalidRequest(self._item.error)
            place = "output"
            paths = self._answers.outputs.claim(self._graph.targets, self._context, self._item.index)
            place = "input"
            self._results[SOURCE] = await self._answers.off_loop(self._source) if self._item.path else None
            if self._labels is not None:
                self._labels.begin(self._results[SOURCE])
        except Exception as problem:
            self._answers.fail(place, problem)
            return WalkResult(self._results)
        await self._nodes(self._graph.nodes)
        return WalkResult(self._results, paths, self._labels)

    def _source(self) -> ImageRef:
        return ImageRef.of(self._item.path, name=self._item.stem)

    async def _nodes(self, nodes: Sequence[Node]) -> None:
        """Answer every node once those that it depends on are answered."""
        if not self._answers.is_parallel or _is_chain(nodes):
            for node in nodes:
                await self._node(node)
            return
        tasks: dict[str, asyncio.Task[None]] = {}

        async def when_ready(node: Node) -> None:
            for name in node.dependencies:
                if name in tasks:
                    await tasks[name]
            await self._node(node)

        async with asyncio.TaskGroup() as group:
            for node in nodes:
                tasks[node.id] = group.create_task(when_ready(node))

    async def _node(self, node: Node) -> None:
        try:
            if self._results.keys() >= set(node.dependencies):
                self._results[node.id] = await self._result(node)
                return
            is_given_up = not self._given_up.isdisjoint(node.dependencies)
            if is_given_up and self._foreseen and node.id in self._foreseen:
                raise self._foreseen[node.id]
        except NeedsJob:
            raise
        except _Held:
            return
        except InVain:
            is_given_up = True
        except Exception as problem:
            self._answers.fail(node, problem)
            return
        if is_given_up:
            self._given_up.add(node.id)
        await self._answers.note(Attempt(node), Outcome(StepOutcome.BLOCKED))

    async def _is_in_vain(self, node: Node) -> bool:
        """Check whether the result of ``node`` only leads to what is certain to fail.

        The item is walked once more, with placeholders: nothing is made or looked up. What is done already does not
        count, so that the answer does not depend on which of two steps was faster.
        """
        if not any(node.id in other.dependencies for other in self._graph.nodes):
            return False
        async with self._foreseeing:
            if self._foreseen is None:
                ahead = Foresight(self._answers)
                again = _Walk(self._item, self._recipe, ahead)
                again._results[SOURCE] = self._results[SOURCE]
                if again._labels is not None:
                    again._labels.begin(self._results[SOURCE])
                await again._nodes(self._graph.nodes)
                self._foreseen = ahead.problems
        return node.id in leads_nowhere(self._graph, self._foreseen)

    async def _result(self, node: Node) -> ImageRef | None:
        """Return the result of a node; its input where it does not apply; None where there is no picture."""
        image = self._results[node.image] if node.image is not None else None
        context, conditional = await self._names(node)
        given = arguments_of(node, context)
        if node.image is not None and image is None:
            return await self._skip(node, conditional, given, None, f"there is no picture from {node.image}")
        if self._labels is not None and wants_labels(node):
            given = await self._answers.off_loop(self._labels.masked, node, given)
        arguments = with_pictures(node, given, self._results)
        if arguments is None:
            return await self._skip(node, conditional, given, image, "a picture that it needs was not made")
        attempt = Attempt(node, arguments, image, is_in_vain=partial(self._is_in_vain, node))
        facts = self._answers.facts
        try:
            if node.step.when and not await self._answers.off_loop(applies, node, conditional, arguments, image, facts):
                warnings = await self._answers.off_loop(near_misses, node, context, arguments)
                return await self._skip(node, conditional, arguments, image, f"when: {node.step.when}", warnings)
        except Undecided:
            attempt = replace(attempt, is_decided=False)
        if node.step.require_mask not in ("", "false"):
            await self._answers.off_loop(check_mask, node, arguments, image, facts)
        return await self._tries(attempt, tries_of(node, context))

    async def _names(self, node: Node) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Return the names that templates of a node know, and those that its conditions know.

        Labels are those of its picture. If they are not known yet, templates have those of the source instead.
        """
        if self._labels is None or not mentions_labels(node):
            context = context_of(node, self._context)
            return context, context
        found = await self._answers.off_loop(self._labels.names_at, node.image)
        context = context_of(node, {**self._context, **(found or {})})
        return context, context if found is not None else {**context, **dict.fromkeys(LABEL_NAMES, UNKNOWN)}

    async def _skip(
        self,
        node: Node,
        context: Mapping[str, Any],
        given: Mapping[str, Any],
        image: ImageRef | None,
        reason: str,
        warnings: tuple[str, ...] = (),
    ) -> ImageRef | None:
        """Note that a node is skipped; returns what takes the place of its result.

        Raises:
            InvalidRequest: it must not be skipped, because it has to mask something.
        """
        with suppress(Undecided):
            if await self._answers.off_loop(requires_mask, node, context, given, image, self._answers.facts):
                raise InvalidRequest(f"nothing is masked, because the step is skipped ({reason}): it has require_mask")
        await self._answers.note(Attempt(node), Outcome(StepOutcome.SKIPPED, reason=reason, warnings=warnings))
        if self._labels is not None:
            self._labels.note(node)
        return image if node.passes_input_through else None

    async def _tries(self, first: Attempt, tries: Sequence[Mapping[str, Any]]) -> ImageRef | None:
        """Return the first result that is as expected, or the last one if the step says so."""
        node = first.node
        failures: list[str] = []
        for number, changes in enumerate(tries):
            attempt = await self._checked(_changed(first, changes, failures) if number else first)
            outcome = await (self._answers.paid if node.is_paid else self._answers.local)(attempt)
            try:
                outcome = await self._restored(attempt, outcome)
                failures = await self._failures(attempt, outcome)
                is_last = number == len(tries) - 1
                if self._labels is not None:
                    self._labels.note(node, attempt, outcome)
                    if lost := lost_labels(attempt, outcome):
                        outcome = _warned(outcome, lost)
                if is_taken := bool(failures) and is_last and node.step.on_failure.then == "keep":
                    outcome = _warned(outcome, f"kept, though {'; '.join(failures)}")
            finally:  # what was paid for is noted, whatever happens to its picture
                await self._answers.note(attempt, outcome)
            if outcome.kind is StepOutcome.HELD:
                raise _Held
            if isinstance(outcome.image, Placeholder) and outcome.kind is not StepOutcome.UNCHANGED:
                return await self._unjudged(first, outcome.image, tries[number + 1 :])
            if is_taken or not failures:
                return outcome.image
        raise CheckFailed(f"the result is not as expected: {'; '.join(failures)}")

    async def _checked(self, attempt: Attempt) -> Attempt:
        """Return an attempt with its call, or without one if that can only be made once its pictures are."""
        if not attempt.node.is_paid:
            return attempt
        try:
            call = await self._answers.off_loop(call_of, attempt.node, attempt.arguments, attempt.image)
        except (InvalidRequest, InvalidImage):
            if not _may_succeed(attempt):
                raise
            return attempt
        return replace(attempt, call=call)

    async def _restored(self, attempt: Attempt, outcome: Outcome) -> Outcome:
        """Return an outcome with place, colours and untouched pixels put right, if the step says so."""
        step, call, before, result = attempt.node.step, attempt.call, attempt.image, outcome.image
        if call is None or before is None or result is None or outcome.kind is StepOutcome.UNCHANGED:
            return outcome
        mask, has_canvas = call.mask, call.tool.has_canvas and step.preserve is not None
        if not step.align and not has_canvas and (mask is None or (step.preserve is None and not step.match_colour)):
            return outcome
        if isinstance(result, Placeholder):
            feather = step.preserve.feather if step.preserve is not None else None
            parts = ("restore", step.align, step.match_colour, feather, mask.identity if mask else "", result)
            size = before.upright_size if step.align else result.known_size
            made = Placeholder.made_of(*parts, size=size, name=result.name)
            restored = Restored(made, is_preserved=step.preserve is not None and mask is not None)
        else:
            restored = await self._answers.restore(attempt, result)
        lost = (LOST_ALPHA, LOST_PROFILE) if restored.is_preserved else ()
        kept = (warning for warning in outcome.warnings if warning not in lost)
        return replace(outcome, image=restored.image, warnings=(*kept, *restored.remarks))

    async def _failures(self, attempt: Attempt, outcome: Outcome) -> list[str]:
        """Return what of the step's expectations does not hold, as far as that can be judged."""
        expect, call, before, after = attempt.node.step.expect, attempt.call, attempt.image, outcome.image
        is_unknown = isinstance(before, Placeholder) or isinstance(after, Placeholder)
        if expect is None or after is None or is_unknown or outcome.kind is StepOutcome.UNCHANGED:
            return []

        def failures() -> list[str]:
            mask = grown(call, call.mask) if call is not None and call.mask is not None and expect.uses_mask else None
            kept = kept_of(call, after.upright_size) if call is not None else None
            return judge(expect, self._answers.facts, before, after, mask, kept)

        return await self._answers.off_loop(failures)

    async def _unjudged(self, first: Attempt, result: Placeholder, tries: Sequence[Mapping[str, Any]]) -> Placeholder:
        """Return the placeholder for the result of whichever try will be as expected."""
        sizes: set[tuple[int, int] | None] = set()
        for changes in tries if first.node.is_paid else ():
            attempt = _changed(first, changes)
            with suppress(FluxError):  # it may never be made: the item does not fail yet
                attempt = await self._checked(attempt)
            await self._answers.retry(attempt)
            if attempt.call is not None:
                sizes.add(attempt.call.output_size)
        is_same = sizes <= {result.upright_size}
        return result if is_same else Placeholder.made_of("tries", result, size=None, name=result.name)


def _is_chain(nodes: Sequence[Node]) -> bool:
    return all(set(node.dependencies) <= {SOURCE, before.id} for before, node in pairwise(nodes))


def _changed(attempt: Attempt, changes: Mapping[str, Any], failures: Sequence[str] = ()) -> Attempt:
    """Return the attempt with changed arguments that is made because earlier ones failed."""
    shown = ", ".join(f"{name} {value}" for name, value in changes.items())
    notes = (f"tried again with {shown}, because {'; '.join(failures)}",) if failures else ()
    return replace(attempt, arguments={**attempt.arguments, **changes}, notes=notes, started=time.monotonic())


def _warned(outcome: Outcome, warning: str) -> Outcome:
    return replace(outcome, warnings=(*outcome.warnings, warning))


def _may_succeed(attempt: Attempt) -> bool:
    """Check whether a call that cannot be made of placeholders may still be made of the pictures themselves."""
    placeholders = [picture for picture in attempt.pictures if isinstance(picture, Placeholder)]
    mask = attempt.arguments.get("mask")
    wants_alpha = mask is None or (mask.get("alpha") if isinstance(mask, dict) else getattr(mask, "alpha", False))
    depends_on_alpha = bool(wants_alpha) and "mask" in attempt.node.tool.image_fields
    return bool(placeholders) and (depends_on_alpha or not all(picture.is_sized for picture in placeholders))
