"""Placeholders: what a plan has in place of the pictures that a run would make."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from flux_tasks.errors import InvalidImage
from flux_tasks.images.reference import ImageRef
from flux_tasks.jobs.call import Call

_SOME_SIZE = (1024, 1024)


@dataclass(frozen=True, slots=True)
class Placeholder(ImageRef):
    """A picture that is not made yet: nobody knows its pixels, and its size only where ``is_sized``.

    Its digest is the same whenever the picture would be.
    """

    is_sized: bool = field(default=True, compare=False)

    @classmethod
    def made_of(cls, *parts: Any, size: tuple[int, int] | None, name: str) -> Placeholder:
        """Return the placeholder of what would be made of ``parts``; ``size`` in pixels, or None if nobody knows it."""
        texts = [part.digest if isinstance(part, ImageRef) else str(part) for part in parts]
        digest = hashlib.sha256("\n".join(("planned", *texts)).encode()).hexdigest()
        width, height = size or _SOME_SIZE
        # With the id of a job: like whatever a job has delivered, it is not read before it is sent.
        return cls(digest, "image/png", width, height, 0, name=name, job_id="planned", is_sized=size is not None)

    @property
    def known_size(self) -> tuple[int, int] | None:
        """(width, height) in pixels, or None where it is not known."""
        return self.upright_size if self.is_sized else None

    def read(self) -> NoReturn:
        """Raise InvalidImage: there are no bytes yet."""
        raise InvalidImage("the picture is not made yet")


def pictures_in(arguments: Mapping[str, Any]) -> list[ImageRef]:
    """Return the pictures among the arguments of a step, those of its masks included."""
    values = (one for value in arguments.values() for one in (value if isinstance(value, list) else [value]))
    pictures = (getattr(value, "file", value) for value in values)  # of a mask
    return [picture for picture in pictures if isinstance(picture, ImageRef)]


def is_mask_unknown(call: Call) -> bool:
    """Check whether a picture that is not made yet decides which pixels the mask has, and so whether it has any."""
    mask = call.mask.mask if call.mask is not None else None
    if mask is None or mask.boxes is not None:
        return False
    return isinstance(mask.file or (call.main if mask.alpha else None), Placeholder)
