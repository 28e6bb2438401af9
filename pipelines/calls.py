"""A step's call: how it is made, and what is said of its result besides the picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import ImageChops

from flux_tasks.errors import FluxError
from flux_tasks.images import ImageRef
from flux_tasks.masks import dilate, drift
from flux_tasks.preflight import Call, prepare
from flux_tasks.store import Store
from pipelines.recipe import Step

__all__ = ["call_of", "is_unchanged", "mask_and_drift", "pictures_of"]


def is_unchanged(before: ImageRef, after: ImageRef) -> bool:
    """Whether a result has the very pixels of its input."""
    if before.upright_size != after.upright_size:
        return False
    try:
        one, other = before.open().convert("RGB"), after.open().convert("RGB")
    except FluxError:
        return False
    return ImageChops.difference(one, other).getbbox() is None


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


def mask_and_drift(
    store: Store, call: Call, before: ImageRef, after: ImageRef
) -> tuple[dict[str, Any] | None, dict[str, float] | None]:
    """The rendered mask, kept for the report, and how far the result strayed outside it."""
    assert call.mask is not None  # noqa: S101 - the caller looked
    try:
        picture = call.mask.picture
        kept = store.put_image(picture.read(), name=picture.name)
        edited, original = after.open(), before.open()
        if edited.size != original.size:
            return kept.to_dict(), None
        grown = int(call.tool.defaults(call.parameters).get("dilate_pixels", 0))  # the tool was told to go that far
        strayed = drift(original, edited, dilate(picture.open(), grown))
    except FluxError:
        return None, None
    return kept.to_dict(), {"mean": round(strayed.mean, 4), "peak": strayed.peak, "changed": round(strayed.changed, 6)}
