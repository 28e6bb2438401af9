"""The restoration chain as a plain Prefect flow."""

from __future__ import annotations

from prefect import flow

from flux_tasks import ImageRef, deblur, erase, fill, outpaint


@flow(name="restore", validate_parameters=False)
def restore(photo: str, object_mask: str, hole_mask: str, prompt: str = "", aspect_ratio: str = "16:9") -> ImageRef:
    """Sharpen a photo, remove an object, paint a region anew, and widen the frame."""
    sharp = deblur(photo)
    clean = erase(sharp, mask=object_mask)
    whole = fill(clean, mask=hole_mask, prompt=prompt, output_format="png")
    return outpaint(whole, aspect_ratio=aspect_ratio)
