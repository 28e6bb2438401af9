"""The result of one call: its picture, how it was come by, what it cost, and what is odd about it."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

from flux_tasks.errors import InvalidImage
from flux_tasks.images.pixels import is_see_through, is_srgb
from flux_tasks.images.reference import FIRST_ONLY, ImageRef
from flux_tasks.jobs.call import Call
from flux_tasks.units import px_size


class JobOutcome(StrEnum):
    """How the result of a call was come by."""

    DONE = "done"
    """The job was submitted, and so paid for, by this call."""
    COLLECTED = "collected"
    """The job was paid for by an earlier attempt; this call collected its result."""
    CACHED = "cached"
    """The store had the result."""
    UNCHANGED = "unchanged"
    """The call would change nothing, so that no job was due: the result is the input itself."""


@dataclass(frozen=True, slots=True)
class JobResult:
    """The result of one call.

    Attributes:
        image: the picture, in the store.
        key: the job key; empty where no job was due.
        outcome: how it was come by.
        cost: credits paid for the job, now or earlier; None if the service named none.
        input_mp, output_mp: megapixels that the service charged for, as it said; they explain a cost.
        delivery_host: the host that the result came from.
        expanded_prompt: what the service made of the prompt, where it says so; empty where it took it as it was.
        job_id: the service's id of the job; empty where there was none.
        run: the id of the run that submitted it, maybe in another process; empty outside a run.
        seconds: from the submission of the job to its last byte; None unless this call submitted it.
        warnings: sentences for a person: about the call, about what happened to the job, and about the picture.
        is_submitted_here: whether this process submitted the job, in this call or in an earlier attempt at it.
    """

    image: ImageRef
    key: str
    outcome: JobOutcome
    cost: float | None = None
    input_mp: float | None = None
    output_mp: float | None = None
    delivery_host: str = ""
    expanded_prompt: str = ""
    job_id: str = ""
    run: str = ""
    seconds: float | None = None
    warnings: tuple[str, ...] = ()
    is_submitted_here: bool = False

    def with_warnings_of(self, call: Call) -> Self:
        """Return the same result, with the warnings of ``call`` and of the picture as its result added."""
        return replace(self, warnings=(*call.warnings, *self.warnings, *picture_warnings(call, self.image)))


def picture_warnings(call: Call, image: ImageRef) -> list[str]:
    """Return a warning where ``image`` is not as ``call`` should give it, by its size or by having one colour only."""
    found: list[str] = []
    size, expected = (image.width, image.height), call.output_size
    slack = 0 if not call.tool.sizes.same_size else 16  # the service works on a 16 px grid (DOCS-F2)
    if (
        expected
        and not call.tool.sizes.is_about
        and any(abs(a - b) > slack for a, b in zip(expected, size, strict=True))
    ):
        found.append(f"the result is {px_size(size)}, not {px_size(expected)}")
    if _is_solid(image) and not (call.main is not None and _is_solid(call.main)):
        found.append("the result is one solid colour")
    return found


LOST_ALPHA = "what is transparent in the input is not in the result"
LOST_PROFILE = "the input has a colour profile and the result has none, so that its colours may look different"


def losses(call: Call, image: ImageRef | None) -> list[str]:
    """Return a warning for the transparency, and for the colour profile, that the input has and ``image`` has not.

    It may decode the input: call it on a thread, and not for results that the store has.

    Args:
        image: the result; None if it is not made yet: then nothing is said of its profile.
    """
    main = call.main
    if main is None:
        return []
    had_alpha = main.has_alpha and not (image is not None and image.has_alpha) and not _marks_by_alpha(call)
    had_profile = image is not None and main.header.has_profile and not image.header.has_profile
    profile = main.profile if had_profile else None
    is_alpha_lost = had_alpha and is_see_through(main.open())
    return [LOST_ALPHA] * is_alpha_lost + [LOST_PROFILE] * bool(profile and not is_srgb(profile))


def is_loss(warning: str) -> bool:
    """Check whether a warning says that something of a picture gets lost: frames, transparency, its profile."""
    return warning.endswith((FIRST_ONLY, LOST_ALPHA, LOST_PROFILE))


def _marks_by_alpha(call: Call) -> bool:
    """Check whether the transparency of the input says what to change, so that the result is to have none."""
    return "mask" in call.tool.image_fields and (call.mask is None or bool(call.mask.mask and call.mask.mask.alpha))


def _is_solid(image: ImageRef) -> bool:
    """Check whether the picture has one colour only, as unaligned outpaint canvases were seen to come back (GRIDBUG).

    One colour packs into very few bytes, so that larger files need not be decoded.
    """
    if image.size * 40 > max(image.width * image.height, 200_000):
        return False
    try:
        return image.open().convert("RGB").getcolors(1) is not None
    except InvalidImage:
        return False
