"""Stand-ins for pictures that do not exist yet."""

from __future__ import annotations

from flux_tasks.images.reference import ImageRef

__all__ = ["PLANNED", "is_planned", "planned_picture"]

PLANNED = "planned:"


def planned_picture(digest: str, size: tuple[int, int] | None, name: str) -> ImageRef:
    """Stands for a picture that has not been made yet; ``size`` in pixels where it is known."""
    width, height = size or (1024, 1024)
    uri = PLANNED if size else f"{PLANNED}?"
    return ImageRef(digest, "image/png", width, height, 0, uri=uri, name=name, job_id="planned")


def is_planned(image: ImageRef | None) -> bool:
    """Whether ``image`` only stands for a picture that has not been made yet."""
    return image is not None and image.uri.startswith(PLANNED)
