"""What is observed of a result: its drift, its size, its difference from the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageChops

from flux_tasks.errors import FluxError
from flux_tasks.images.masks import drift
from flux_tasks.images.reference import ImageRef
from flux_tasks.jobs.call import Call
from flux_tasks.store.records import Store
from pipelines.execution.local_steps import grown

__all__ = ["Observed", "observe"]


# -- what is seen -----------------------------------------------------------------------------------------------------


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


def observe(store: Store, call: Call, before: ImageRef | None, after: ImageRef) -> Observed:
    """Look at a step's result beside its input; each is decoded once. Nothing is seen of what cannot be decoded."""
    if before is None:
        return Observed()
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
        strayed = drift(original, edited, grown(call, call.mask))
    except (FluxError, OSError):
        return Observed()
    figures = {"mean": round(strayed.mean, 4), "peak": strayed.peak, "changed": round(strayed.changed, 6)}
    return Observed(kept, figures, unchanged)


def _difference(one: Image.Image, other: Image.Image) -> Image.Image:
    return ImageChops.difference(one.convert("RGB"), other.convert("RGB"))
