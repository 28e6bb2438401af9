"""What a call gave, and what is odd about it."""

from __future__ import annotations

from dataclasses import dataclass

from flux_tasks.errors import InvalidImage
from flux_tasks.images.reference import ImageRef
from flux_tasks.jobs.call import Call

__all__ = ["JobResult", "result_warnings"]


@dataclass(frozen=True, slots=True)
class JobResult:
    """What a call gave.

    Attributes:
        image: the result, in the store.
        key: the job key, or empty where no job was due.
        outcome: ``done`` (paid just now), ``attached`` (paid earlier, collected now), ``cached`` (from the store), or
            ``nothing_to_do`` (an empty mask: the input itself).
        cost: credits paid for it, now or earlier; None if the service did not say.
        seconds: how long this call took.
    """

    image: ImageRef
    key: str
    outcome: str
    cost: float | None = None
    job_id: str = ""
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()


def result_warnings(call: Call, image: ImageRef) -> list[str]:
    """A word on a result that is not as the call should give it, by its size or one colour; empty when all is well."""
    found: list[str] = []
    expected = call.output_size
    slack = 0 if not call.tool.sizes.same_size else 16  # the service works on a 16 px grid (DOCS-F2)
    if expected and any(abs(a - b) > slack for a, b in zip(expected, (image.width, image.height), strict=True)):
        found.append(f"the result is {image.width}×{image.height} px, not {expected[0]}×{expected[1]}")
    if _is_solid(image) and not (call.main is not None and _is_solid(call.main)):
        found.append("the result is one solid colour")
    return found


def _is_solid(image: ImageRef) -> bool:
    """Unaligned outpaint canvases were seen to come back solid (GRIDBUG).

    One colour packs into next to nothing, so that other pictures need not be decoded to know that they are none.
    """
    if image.size * 40 > max(image.width * image.height, 200_000):
        return False
    try:
        return image.open().convert("RGB").getcolors(1) is not None
    except InvalidImage:
        return False
