"""Conditions (``when``): they decide by columns, facts of the picture and facts of the mask whether a step applies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from flux_tasks import files
from flux_tasks.catalog import Tool
from flux_tasks.errors import InvalidImage
from flux_tasks.images.masks import Mask
from flux_tasks.images.reference import ImageRef
from pipelines.execution.arguments import mask_of
from pipelines.execution.facts import Facts
from pipelines.execution.placeholders import Placeholder
from pipelines.language import templates
from pipelines.language.graph import Node
from pipelines.language.names import IMAGE_FACTS, MASK_FACTS


class Undecided(Exception):
    """The condition depends on a picture that is not made yet."""


class _Unknown:
    """A fact of a picture that is not made yet: using it in any way raises ``Undecided``."""

    def _undecided(self, *_: Any) -> NoReturn:
        raise Undecided

    __bool__ = __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = __contains__ = __len__ = __iter__ = _undecided
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _undecided
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __rpow__ = __neg__ = __pos__ = __abs__ = _undecided
    __int__ = __float__ = __index__ = __round__ = __str__ = __format__ = _undecided
    __hash__ = object.__hash__
    __call__ = _undecided


UNKNOWN = _Unknown()
"""Stands for whatever depends on a picture that is not made yet."""


def applies(
    node: Node, context: Mapping[str, Any], given: Mapping[str, Any], image: ImageRef | None, facts: Facts
) -> bool:
    """Check whether a node's condition holds. Call it on a thread.

    Raises:
        Undecided: it depends on a picture that is not made yet.
    """
    return not node.step.when or _holds("when", node, context, given, image, facts)


def requires_mask(
    node: Node, context: Mapping[str, Any], given: Mapping[str, Any], image: ImageRef | None, facts: Facts
) -> bool:
    """Check whether a node must not be skipped, as its ``require_mask`` says. Call it on a thread.

    Raises: as ``applies`` does.
    """
    return bool(node.step.require_mask) and _holds("require_mask", node, context, given, image, facts)


def check_mask(node: Node, given: Mapping[str, Any], image: ImageRef | None, facts: Facts) -> None:
    """Check that the mask of a node has white, as far as its pictures are made. Call it on a thread.

    Raises:
        InvalidImage: it is missing or empty, or its meaning is not certain.
    """
    mask = mask_of(node, given)
    if mask is None and isinstance(node.action, Tool):
        mask = Mask(alpha=True)
    described = mask if isinstance(mask, Mask) else Mask.of(mask) if mask is not None else None
    try:
        is_there = _mask_fact("exists", mask if isinstance(mask, str) else described, image, facts)
        share = _mask_fact("coverage", described, image, facts) if is_there else 0.0
    except Undecided:
        return
    if isinstance(share, _Unknown) or share > 0:
        return
    what = described.explain_empty() if is_there and described is not None else "there is no mask"
    where = files.quoted(described.location()) if described is not None else ""
    raise InvalidImage(f"{where}{': ' if where else ''}{what}, and the step has require_mask")


def _holds(
    option: str, node: Node, context: Mapping[str, Any], given: Mapping[str, Any], image: ImageRef | None, facts: Facts
) -> bool:
    condition = getattr(node.step, option)
    names = templates.names_in_expression(condition)
    known = {**context, **_image_facts([name for name in IMAGE_FACTS if name in names], image, facts)}
    for name in names - known.keys():
        column, _, fact = name.rpartition("_")
        if fact in MASK_FACTS:
            known[name] = _mask_fact(fact, known[column] if column in known else mask_of(node, given), image, facts)
    unknown = {name for name, value in known.items() if isinstance(value, _Unknown)}
    if unknown & templates.names_in_calls(condition):  # a filter or test (is number) would not raise Undecided
        raise Undecided
    return bool(templates.evaluate(condition, known, f"{node.step.id}.{option}", passing=(Undecided,)))


def _image_facts(wanted: list[str], image: ImageRef | None, facts: Facts) -> dict[str, Any]:
    if not wanted:
        return {}
    if image is None:
        raise InvalidImage(f"there is no picture whose {wanted[0]} could be asked for")
    if not isinstance(image, Placeholder):
        return facts.of(image, wanted)
    by_size = [name for name in wanted if name in ("width", "height", "aspect", "megapixels") and image.is_sized]
    return dict.fromkeys(wanted, UNKNOWN) | facts.of(image, by_size)


def _mask_fact(fact: str, mask: Any, image: ImageRef | None, facts: Facts) -> Any:
    """Return whether a mask exists, or its white share, which is 0 without a mask."""
    if isinstance(mask, str):
        is_there = bool(mask) and _has_file(mask)
    elif isinstance(mask, dict):
        mask = Mask.of(mask)
        is_there = _is_there(mask, image)
    else:
        is_there = mask is not None
    if fact == "exists" or not is_there:
        return is_there if fact == "exists" else 0.0
    described = mask if isinstance(mask, Mask) else Mask(mask)
    if image is None:
        raise InvalidImage("there is no picture that the mask could belong to")
    is_open = isinstance(image, Placeholder) and (described.alpha or not image.is_sized)
    if is_open or isinstance(described.file, Placeholder):
        return UNKNOWN
    return facts.coverage(described, image)


def _is_there(mask: Mask, image: ImageRef | None) -> bool:
    if mask.alpha:
        if isinstance(image, Placeholder):
            raise Undecided
        return image is not None and image.has_alpha
    location = mask.location()
    return not location or _has_file(location)


def _has_file(location: str) -> bool:
    return files.is_data(location) or bool(files.patiently(files.exists, location))


def near_misses(node: Node, context: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a warning for each mask that a condition found missing, where a file is called nearly like it.

    Call it on a thread: it lists folders.
    """
    found: dict[str, None] = {}
    for name in templates.names_in_expression(node.step.when) - context.keys():
        column, _, fact = name.rpartition("_")
        if fact not in MASK_FACTS:
            continue
        mask = context[column] if column in context else mask_of(node, given)
        mask = mask.get("file") if isinstance(mask, dict) else mask
        location = mask if isinstance(mask, str) else Mask.of(mask).location() if isinstance(mask, Mask) else ""
        if location and not _has_file(location) and (other := files.similar(location)):
            what = f"there is no {files.quoted(location)}, but {files.quoted(other)}: give both the same name"
            found[f"{what} if it is the mask"] = None
    return tuple(found)
