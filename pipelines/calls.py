"""A step's call: how it is made, and what is said of its result besides the picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageChops

from flux_tasks.errors import FluxError
from flux_tasks.images import ImageRef
from flux_tasks.masks import dilate, drift
from flux_tasks.preflight import Call, prepare
from flux_tasks.store import Store
from pipelines.recipe import Step

__all__ = ["Observed", "call_of", "observe", "pictures_of"]


def call_of(step: Step, arguments: Mapping[str, Any], image: ImageRef) -> Call:
    """The checked call that ``step`` makes of ``image``.

    Raises:
        InvalidRequest: everything that is wrong with it.
    """
    given = {name: value for name, value in arguments.items() if name not in ("fit", "variant", "model")}
    return prepare(
        step.tool,
        {**given, "image": image} if step.tool.image_field else given,
        fit=arguments.get("fit", "error"),
        variant=arguments.get("variant", 0),
        where=step.id,
    )


def pictures_of(call: Call) -> dict[str, Any]:
    """The call's further pictures as references and masks, so that the task need not look them up again."""
    return {
        name: given.mask if given.mask is not None else given.source
        for name, given in call.inputs.items()
        if name != call.tool.image_field
    }


@dataclass(frozen=True, slots=True)
class Observed:
    """What is seen by looking at a result beside its input.

    Attributes:
        mask: the rendered mask, kept in the store for the report.
        drift: how far the result strayed outside the mask.
        unchanged: it has the very pixels of its input.
    """

    mask: dict[str, Any] | None = None
    drift: dict[str, float] | None = None
    unchanged: bool = False


def observe(store: Store, call: Call, before: ImageRef, after: ImageRef) -> Observed:
    """Look at a step's result beside its input; each is decoded once. Nothing is seen of what cannot be decoded."""
    try:
        original, edited = before.open(), after.open()
        same_size = original.size == edited.size
        unchanged = same_size and _difference(original, edited).getbbox() is None
        if call.mask is None:
            return Observed(unchanged=unchanged)
        picture = call.mask.picture
        kept = store.put_image(picture.read(), name=picture.name).to_dict()
        if not same_size:
            return Observed(kept)
        grown = int(call.tool.defaults(call.parameters).get("dilate_pixels", 0))  # the tool was told to go that far
        strayed = drift(original, edited, dilate(picture.open(), grown))
    except FluxError:
        return Observed()
    figures = {"mean": round(strayed.mean, 4), "peak": strayed.peak, "changed": round(strayed.changed, 6)}
    return Observed(kept, figures, unchanged)


def _difference(one: Image.Image, other: Image.Image) -> Image.Image:
    return ImageChops.difference(one.convert("RGB"), other.convert("RGB"))
