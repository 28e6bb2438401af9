"""The pictures of local steps. A local step is an ``Operation`` or a ``UserFunction``; both have the same methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from flux_tasks.errors import InvalidRequest, Problem, nearest
from flux_tasks.images.reference import ImageRef
from flux_tasks.settings import without_key

__all__ = ["ImageInput", "ImageKind", "Pictures", "describe", "pictures_by_input", "primary_of"]

ImageKind: TypeAlias = Literal["image", "mask"]
Pictures: TypeAlias = Mapping[str, "ImageRef | Sequence[ImageRef] | None"]


@dataclass(frozen=True, slots=True)
class ImageInput:
    """One parameter of a step that takes pictures.

    Attributes:
        role: what it takes; ``any`` takes images and masks.
        required: the step does nothing without it.
        many: it takes several pictures, at least ``least``.
        is_primary: the picture that the step works on; the result has its name.
        description: what a picture besides the primary one is for.
    """

    role: Literal["image", "mask", "any"]
    required: bool = True
    many: bool = False
    is_primary: bool = False
    least: int = 1
    description: str = ""


def primary_of(inputs: Mapping[str, ImageInput]) -> str | None:
    """Return the parameter of the picture that a step works on; None if it has no such picture."""
    return next((name for name, found in inputs.items() if found.is_primary), None)


def pictures_by_input(
    inputs: Mapping[str, ImageInput], pictures: Pictures, *, where: str, problems: Sequence[Problem] = ()
) -> dict[str, list[ImageRef]]:
    """Return the pictures that are given, by parameter, the primary one first; None counts as not given.

    Args:
        problems: reported together with what is wrong with the pictures.

    Raises:
        InvalidRequest: a picture is missing, not known, or one too many.
    """
    found: dict[str, list[ImageRef]] = {}
    wrong = list(problems)
    for name in pictures:
        if name not in inputs:
            hint = nearest(str(name), inputs) or f"; it takes {', '.join(inputs)}"
            wrong.append(Problem(f"{where}.{name}", f"there is no such picture{hint}"))
    for name, needed in sorted(inputs.items(), key=lambda entry: not entry[1].is_primary):
        value = pictures.get(name)
        given = [] if value is None else [value] if isinstance(value, ImageRef) else list(value)
        if any(not isinstance(picture, ImageRef) for picture in given):
            wrong.append(Problem(f"{where}.{name}", "is no ImageRef: make one with ImageRef.of(…)"))
        elif needed.required and not given:
            wrong.append(Problem(f"{where}.{name}", "is required: give it a picture"))
        elif needed.many and given and len(given) < needed.least:
            wrong.append(Problem(f"{where}.{name}", f"{len(given)} given: it takes {needed.least} pictures or more"))
        elif len(given) > 1 and not needed.many:
            wrong.append(Problem(f"{where}.{name}", f"{len(given)} pictures given: it takes one"))
        elif given:
            found[name] = given
    if wrong:
        raise InvalidRequest.of(wrong)
    return found


def describe(error: BaseException) -> str:
    """Return ``ValueError: its message`` for an error of any class, without the key."""
    try:
        text = without_key(str(error))
    except Exception:
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
