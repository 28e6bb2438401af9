"""One item through the graph without paying: what a run would do with it, with stand-ins for what is not made yet."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from PIL import Image

from flux_tasks import background
from flux_tasks.catalog import Tool
from flux_tasks.errors import FluxError, InvalidImage, InvalidRequest, Moderated
from flux_tasks.images.reference import ImageRef
from flux_tasks.jobs import job
from flux_tasks.jobs.call import Call
from pipelines.data.items import Item
from pipelines.data.outputs import target_path
from pipelines.execution import arguments, local_steps
from pipelines.execution.conditions import Undecided, applies
from pipelines.execution.expectations import judge
from pipelines.execution.placeholders import is_planned, planned_picture
from pipelines.language.compiled import CompiledRecipe
from pipelines.language.graph import Node
from pipelines.language.names import SOURCE

if TYPE_CHECKING:
    from pipelines.plan.planner import Planner
    from pipelines.plan.result import StepPlan

__all__ = ["ItemPlan"]


class ItemPlan:
    """One item through the graph, without paying."""

    def __init__(self, planner: Planner, recipe: CompiledRecipe, item: Item) -> None:
        self.planner = planner
        self.recipe = recipe
        self.item = item
        self.context = {**recipe.constants, **item.context}
        self.results: dict[str, ImageRef | None] = {}
        self.lasts: dict[str, float] = {}
        """Seconds until each node is done, if nothing had to wait for a slot."""

    def go(self) -> None:
        try:
            if self.item.error:
                raise InvalidRequest(self.item.error)
            for number, target in enumerate(self.recipe.graph.targets):
                path = target_path(target, self.context)
                if not self.planner.outputs.claim(path, self.item.index, number):
                    raise InvalidRequest(f"output.path: {path} is also another result's")
            self.results[SOURCE] = ImageRef.of(self.item.path) if self.item.path else None
        except FluxError as error:
            self.planner.trouble(f"{self.item.stem}: {error}")
            return
        for node in self.recipe.graph.nodes:
            step = self.planner.by_step[node.step.id]
            if any(fed not in self.results for fed in node.dependencies):
                step.blocked += 1
                continue
            self.lasts[node.id] = max((self.lasts.get(fed, 0.0) for fed in node.dependencies), default=0.0)
            try:
                self.results[node.id] = self.take(node, step)
            except Moderated:
                step.moderated += 1
            except (FluxError, OSError) as error:
                self.planner.trouble(f"{self.item.stem}: {node.id}: {error}")
        self.planner.longest = max([self.planner.longest, *self.lasts.values()])

    def take(self, node: Node, step: StepPlan) -> ImageRef | None:
        """What ``node`` gives: a picture, a stand-in for one, or None."""
        image = self.results[node.image] if node.image is not None else None
        if node.image is not None and image is None:
            step.skipped += 1
            return None
        context = arguments.context_of(node, self.context)
        given = arguments.with_pictures(node, arguments.arguments_of(node, context), self.results)
        if given is None:
            step.skipped += 1
            return image if node.passes_input_through else None
        is_decided = True
        try:
            if not applies(node, context, given, image, self.planner.facts):
                step.skipped += 1
                return image if node.passes_input_through else None
        except Undecided:
            is_decided = False
        expect = node.step.expect
        tries = arguments.tries_of(node, context)
        result = image
        for number, changes in enumerate(tries):
            call, result = self.once(node, {**given, **changes}, image, step, is_decided)
            if is_planned(result):
                sizes = self.further(node, step, [{**given, **changed} for changed in tries[number + 1 :]], image)
                if result is not None and sizes - {result.upright_size}:  # which of them it will be is not known
                    return planned_picture(_virtual("tries", result), None, result.name)
                return result
            if expect is None or result is None or result is image or is_planned(image):
                return result
            mask = local_steps.sent_mask(call) if call is not None and expect.needs_mask else None
            if not judge(expect, self.planner.facts, image, result, mask):
                return result
        if node.step.on_failure.then == "keep":
            return result
        raise InvalidImage("the result in the store is not as expected, and so are all further tries")

    def further(
        self, node: Node, step: StepPlan, tries: list[dict[str, Any]], image: ImageRef | None
    ) -> set[tuple[int, int] | None]:
        """Jobs that come on top if the result is not as expected; returns the sizes that their results would have."""
        sizes: set[tuple[int, int] | None] = set()
        for given in tries if node.is_paid else ():
            try:
                call = arguments.call_of(node, given, image)
                sizes.add(call.output_size)
                if background.run(job.lookup(call, self.planner.settings)) is None:
                    step.retries.add(call.estimate())
            except Moderated:  # refused earlier, and free
                continue
            except FluxError:
                step.retries.add(None)
        return sizes

    def once(
        self, node: Node, given: dict[str, Any], image: ImageRef | None, step: StepPlan, is_decided: bool
    ) -> tuple[Call | None, ImageRef | None]:
        if not node.is_paid:
            return None, self.operate(node, given, image, step)
        is_open = any(is_planned(one) for one in (image, *_pictures_in(given)))
        try:
            call = arguments.call_of(node, given, image)
        except (InvalidRequest, InvalidImage):
            if not is_open or not _may_do(node, image, given):
                raise
            step.undecided.add(None)
            self.lasts[node.id] += self.spend_time(node, is_decided=False)
            return None, planned_picture(_virtual(node.id, image), None, self.item.stem)
        key = call.key(self.planner.engine)
        result = self.answer(node, call, key, image, step, is_decided)
        preserve = node.step.preserve
        if preserve is not None and result is not None and image is not None and call.mask is not None:
            if is_planned(result):
                put = _virtual("preserve", preserve.feather, call.mask.identity, result)
                return call, planned_picture(
                    put, result.upright_size if not result.uri.endswith("?") else None, result.name
                )
            if result is not image:
                result = local_steps.preserved(call, image, result, self.planner.store, preserve.feather, keep=False)
        return call, result

    def answer(
        self,
        node: Node,
        call: Call,
        key: str,
        image: ImageRef | None,
        step: StepPlan,
        is_decided: bool,
    ) -> ImageRef | None:
        planner = self.planner
        found = background.run(job.lookup(call, planner.settings))
        if found is not None:
            step.cached += 1
            return found.image
        is_decided = is_decided and not _is_mask_open(call)
        if not _is_mask_open(call) and call.is_noop():
            step.nothing_to_do += 1
            return image
        if key in planner.seen:
            step.shared += 1
            return planner.seen[key]
        result = planned_picture(_virtual(key), call.output_size, call.name)
        planner.seen[key] = result
        entry = planner.journal.get(key)
        if entry is not None and entry.phase == "submitted":
            step.collected += 1
        elif entry is not None and planner.settings.on_uncertain == "hold" and entry.decision != "resubmit":
            step.held += 1
        else:
            (step.paid if is_decided else step.undecided).add(call.estimate())
        self.lasts[node.id] += self.spend_time(node, is_decided)
        return result

    def spend_time(self, node: Node, is_decided: bool) -> float:
        seconds = self.planner.seconds_of(node.tool.name)
        if is_decided:
            self.planner.busy[node.tool.slots] += seconds
        return seconds

    def operate(self, node: Node, given: dict[str, Any], image: ImageRef | None, step: StepPlan) -> ImageRef | None:
        pictures = [one for one in (image, *_pictures_in(given)) if one is not None]
        if not any(map(is_planned, pictures)):
            result = local_steps.operate(node, given, image, self.planner.store, keep=False)
            if image is not None and result.digest == image.digest:
                step.nothing_to_do += 1
                return image
            step.local += 1
            return result
        step.local += 1
        action = node.action
        assert not isinstance(action, Tool)  # noqa: S101 - the caller knows
        main = image or pictures[0]
        parameters = {name: value for name, value in given.items() if name not in action.inputs}
        is_sized = not main.uri.endswith("?")
        size = action.output_size(parameters, main.upright_size) if is_sized else None
        if image is not None and size == image.upright_size and action.keeps_when_same_size:
            step.local -= 1
            step.nothing_to_do += 1
            return image
        if is_sized and not action.needs_pixels:
            blank = ImageRef.of(Image.new("1", main.upright_size), name=main.name)
            return local_steps.operate(node, given, blank, self.planner.store, keep=False)
        name = hashlib.sha256(repr(sorted(parameters.items(), key=str)).encode()).hexdigest()
        return planned_picture(_virtual(node.step.id, name, *pictures), size, main.name)


def _is_mask_open(call: Call) -> bool:
    """Whether it depends on a picture that is not made yet which pixels the mask has, and so whether it has any."""
    mask = call.mask.mask if call.mask is not None else None
    if mask is None or mask.boxes is not None:
        return False
    return is_planned(mask.file if isinstance(mask.file, ImageRef) else call.main if mask.alpha else None)


def _may_do(node: Node, image: ImageRef | None, given: Mapping[str, Any]) -> bool:
    """Whether a call that cannot be made with stand-ins may still be made of the pictures that they stand for."""
    pictures = [one for one in (image, *_pictures_in(given)) if is_planned(one)]
    mask = given.get("mask")
    wants_alpha = mask is None or (mask.get("alpha") if isinstance(mask, dict) else getattr(mask, "alpha", False))
    is_of_alpha = wants_alpha and "mask" in node.tool.image_fields
    return bool(is_of_alpha) or any(picture.uri.endswith("?") for picture in pictures if picture is not None)


def _pictures_in(given: Mapping[str, Any]) -> list[ImageRef]:
    found: list[ImageRef] = []
    for value in given.values():
        for one in value if isinstance(value, list) else [value]:
            inner = getattr(one, "file", one)  # of a mask
            if isinstance(inner, ImageRef):
                found.append(inner)
    return found


def _virtual(*parts: Any) -> str:
    """A digest for a picture that is not there yet, the same whenever it would be the same picture."""
    texts = [part.digest if isinstance(part, ImageRef) else str(part) for part in parts]
    return hashlib.sha256("\n".join(("planned", *texts)).encode()).hexdigest()
