"""Conditions (``when``): they decide by columns, facts of the picture and facts of the mask whether a step applies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from flux_tasks import files
from flux_tasks.catalog import Tool
from flux_tasks.errors import InvalidImage
from flux_tasks.images.encoding import inspect
from flux_tasks.images.masks import Mask
from flux_tasks.images.reference import ImageRef
from pipelines.execution.arguments import mask_of
from pipelines.execution.facts import Facts
from pipelines.execution.placeholders import Placeholder
from pipelines.language import templates
from pipelines.language.graph import Node
from pipelines.language.names import IMAGE_FACTS

__all__ = ["Undecided", "applies", "check_mask", "requires_mask"]
_KNOWN_BEFOREHAND = ("width", "height", "aspect", "megapixels")


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


def applies(
    node: Node, context: Mapping[str, Any], given: Mapping[str, Any], image: ImageRef | None, facts: Facts
) -> bool:
    """Check whether a node's condition holds. Call it on a thread.

    Raises:
        Undecided: it depends on a picture that is not made yet.
        InvalidRequest: it cannot be evaluated.
        InvalidImage: a picture that it asks about cannot be decoded.
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
    where = described.location() if described is not None else ""
    raise InvalidImage(f"{where}{': ' if where else ''}{what}, and the step has require_mask")


def _holds(
    option: str, node: Node, context: Mapping[str, Any], given: Mapping[str, Any], image: ImageRef | None, facts: Facts
) -> bool:
    condition = getattr(node.step, option)
    names = templates.names_in_expression(condition)
    known = dict(context)
    wanted = [name for name in IMAGE_FACTS if name in names]
    known |= _image_facts(wanted, image, facts)
    for name in names - known.keys():
        column, _, fact = name.rpartition("_")
        if fact in ("exists", "coverage"):
            known[name] = _mask_fact(fact, known[column] if column in known else mask_of(node, given), image, facts)
    return bool(_evaluated(condition, known, f"{node.step.id}.{option}"))


def _evaluated(when: str, known: Mapping[str, Any], where: str) -> Any:
    unknown = {name for name, value in known.items() if isinstance(value, _Unknown)}
    if not unknown:
        return templates.evaluate(when, known, where)
    if unknown & templates.names_in_calls(when):  # a filter or a test such as "is number" would not raise Undecided
        raise Undecided
    return templates.evaluate(when, known, where, passing=(Undecided,))


def _image_facts(wanted: list[str], image: ImageRef | None, facts: Facts) -> dict[str, Any]:
    if not wanted:
        return {}
    if image is None:
        raise InvalidImage(f"there is no picture whose {wanted[0]} could be asked for")
    if not isinstance(image, Placeholder):
        return facts.of(image, wanted)
    by_size = [name for name in wanted if name in _KNOWN_BEFOREHAND and image.is_sized]
    return {name: _Unknown() for name in wanted} | facts.of(image, by_size)


def _mask_fact(fact: str, mask: Any, image: ImageRef | None, facts: Facts) -> Any:
    """Return whether a mask exists, or its white share, which is 0 without a mask."""
    if isinstance(mask, str):
        is_there = bool(mask) and files.patiently(files.exists, mask)
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
        return _Unknown()
    return facts.coverage(described, image)


def _is_there(mask: Mask, image: ImageRef | None) -> bool:
    if mask.alpha:
        if isinstance(image, Placeholder):
            raise Undecided
        return image is not None and image.media_type != "image/jpeg" and inspect(image.read()).has_alpha
    location = mask.location()
    return not location or bool(files.patiently(files.exists, location))
