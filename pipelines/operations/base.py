"""Steps that cost nothing: what a run needs of one, and the pictures that it gets.

There are two kinds: the operations of ``registry``, and a user's own function (``user_function``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from flux_tasks.errors import InvalidRequest, Problem, nearest
from flux_tasks.images.reference import ImageRef

__all__ = ["ImageInput", "ImageKind", "LocalStep", "Pictures", "describe", "pictures_by_input"]

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


class LocalStep(Protocol):
    """A step that costs nothing: an operation of ``registry``, or a user's function."""

    @property
    def output_kind(self) -> Literal["image", "mask", "same"]:
        """What it gives; ``same``: what its primary picture is."""

    @property
    def inputs(self) -> Mapping[str, ImageInput]:
        """Its pictures by parameter; exactly one is the primary one."""

    @property
    def keeps_when_same_size(self) -> bool:
        """Whether the result is its primary picture, unchanged, if both have the same size."""

    @property
    def needs_pixels(self) -> bool:
        """Whether the result depends on pixels; if not, the size of the primary picture is enough to work it out."""

    @property
    def identity(self) -> dict[str, str]:
        """What tells it from any other step, for the key of its results."""

    def for_role(self, role: ImageKind) -> LocalStep:
        """Return the step for a primary picture that is an image or a mask; its ``output_kind`` is never ``same``."""

    def chosen(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters that go into the key: those that differ from their defaults."""

    def defaults(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters that went into the key up to September 2026: all of them."""

    def check(self, parameters: Mapping[str, Any], *, where: str = "", partial: bool = False) -> list[Problem]:
        """Return everything that is wrong with the parameters, pictures aside."""

    def output_size(self, parameters: Mapping[str, Any], size: tuple[int, int]) -> tuple[int, int] | None:
        """Return the size of the result in pixels for a primary picture of ``size``; None if it is not known."""

    def perform(self, parameters: Mapping[str, Any], pictures: Pictures) -> ImageRef:
        """Return the result, in memory."""


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
    """Return ``ValueError: its message`` for an error of any class."""
    try:
        text = str(error)
    except Exception:
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
